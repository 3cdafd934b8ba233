"""A real PostgreSQL server on loopback, with a password, its files in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.workplace import free_port

USER, PASSWORD = "sweeper", "canary-5b81e0d4"


def binaries() -> Path | None:
    """The newest installed server's programs, where Debian or the path has one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: float(p.parts[-3]))
    on_path = shutil.which("postgres")
    if not found and on_path:
        found = [Path(on_path).resolve()]
    return found[-1].parent if found else None


def account() -> str | None:
    """PostgreSQL refuses to run as root: whom it runs as instead."""
    return "nobody" if os.getuid() == 0 else None


class Postgres:
    """The server; it can be killed, stopped and started again on the same port."""

    def __init__(self, folder: Path, programs: Path):
        self.folder, self._programs, self._account = folder, programs, account()
        if self._account:
            shutil.chown(folder, self._account)
        (folder / "password").write_text(PASSWORD)
        if self._account:
            shutil.chown(folder / "password", self._account)
        self._run(
            "initdb", "-D", "data", "-U", USER, "-A", "scram-sha-256", "--pwfile=password", "-E", "UTF8", "-N"
        )
        self.port = free_port()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(
            command, cwd=self.folder, user=self._account, env={"LC_ALL": "C"}, check=True, capture_output=True
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder), "-c", "fsync=off"]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", "data", *options],
                cwd=self.folder,
                user=self._account,
                env={"LC_ALL": "C"},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT at once and orderly, SIGQUIT as a crash."""
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    def url(self, database: str, password: str | None = PASSWORD) -> str:
        secret = f":{password}" if password else ""
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Make a database; its URL with the password."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def running(programs: Path) -> Iterator[Postgres]:
    # Not below pytest's folders: those are closed to other accounts, and too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = None
    try:
        server = Postgres(folder, programs)
        yield server
    finally:
        if server is not None and server.process.poll() is None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def require_no_password(*folders: Path) -> None:
    """Nothing below these folders holds the server's password."""
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                assert PASSWORD.encode() not in file.read_bytes(), file
