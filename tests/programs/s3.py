"""A real S3 server on loopback: moto's, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from tests.workplace import free_port

KEY, SECRET = "canary-key-41d8", "canary-s3-9c3f07aa"


class S3:
    """The server; it can be held still, as one that does not answer."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.env = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with (folder / "s3.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                env=os.environ | self.env,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        with socket.socket() as client:
            while client.connect_ex(("127.0.0.1", self.port)):
                assert self.process.poll() is None, (folder / "s3.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def bucket(self, name: str) -> str:
        """Make a bucket; its URL."""
        self.files(allow_bucket_creation=True).create_dir(name)
        return f"s3://{name}?endpoint_override=127.0.0.1%3A{self.port}&scheme=http&region=us-east-1"

    def files(self, allow_bucket_creation: bool = False) -> fs.FileSystem:
        """What it holds, seen by a client of its own."""
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=allow_bucket_creation,
        )

    def names(self, folder: str) -> list[str]:
        """Files below a bucket, relative to it."""
        found = self.files().get_file_info(fs.FileSelector(folder, recursive=True))
        return sorted(info.path.removeprefix(f"{folder}/") for info in found if info.type == fs.FileType.File)

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """Within, it takes connections and answers none."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    server = S3(folder)
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.process.terminate()
        server.process.wait(timeout=30)
