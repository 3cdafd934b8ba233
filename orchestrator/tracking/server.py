"""MLflow's server on a results folder, for this machine alone."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator.definition import DEFINITION
from orchestrator.process.imports import own_imports
from orchestrator.process.stopping import wait_for
from orchestrator.space import ConfigError, objective_mode

HOST = "127.0.0.1"
LOG = "mlflow-server.log"
START_S, END_S = 120.0, 5.0
FAILED = 1

# Its trials alone, the best first: in another order than the usual one MLflow lists them flat, not folded up
# below their parent, where the box above the runs would not tick them.
PAGE = (
    "{address}/#/experiments/{experiment}/runs?searchFilter={trials}&orderByKey={metric}&orderByAsc={least}"
)


def serve(results: Path, port: int, open_page: bool) -> int:
    """Serve the database in `results` until Ctrl-C or SIGTERM, and say where; the exit status.

    Raises ConfigError where there is none, or the port is taken.
    """
    database = results / "mlflow.db"
    if not database.exists():
        raise ConfigError(f"{database}: no such record; is --results right? A sweep's first run makes it.")
    port = _free_port(port)
    address = f"http://{HOST}:{port}"
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _server(database, port) as server:
            if not wait_for(lambda: server.poll() is not None or _answers(address), START_S):
                print(f"hjepa-sweep: MLflow's server did not answer within {START_S:.0f} s", file=sys.stderr)
                return FAILED
            if server.poll() is not None:
                print(f"hjepa-sweep: MLflow's server has ended; see {results / LOG}", file=sys.stderr)
                return FAILED
            pages = _pages(database, address)
            for name, page in pages.items():
                print(f"{name}: {page}", flush=True)
            print(f"all: {address}\nCtrl-C ends the server.", flush=True)
            if open_page:
                webbrowser.open(next(iter(pages.values())) if len(pages) == 1 else address)
            return FAILED if server.wait() else 0
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _server(database: Path, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """MLflow's server; at the end all its processes are gone."""
    # Tethered, it ends even where this process is killed.
    command = [sys.executable, "-m", "orchestrator.process.tether", sys.executable, "-m", "mlflow", "server"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # Next to it no name of a folder has to stand in a URL.
    command += ["--backend-store-uri", f"sqlite:///{database.name}"]
    command += ["--default-artifact-root", (database.absolute().parent / "mlartifacts").as_uri()]
    # By any other name it would be a page elsewhere that has had this address put under its own name.
    command += ["--allowed-hosts", f"{HOST}:{port},localhost:{port}"]
    command += ["--cors-allowed-origins", f"http://{HOST}:{port},http://localhost:{port}"]
    environment = (
        os.environ
        | own_imports()
        | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            # No consumers of jobs, which are processes for each kind of them.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )
    with (database.parent / LOG).open("ab") as log:
        server = subprocess.Popen(
            command,
            cwd=database.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a group of its own: its workers end with it
        )
    try:
        yield server
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        wait_for(lambda: server.poll() is not None, END_S)
    server.wait()


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            why = str(error).rstrip(".")
            raise ConfigError(f"--port {port}: {why}. Another: --port 0 takes any free one.") from None
        return probe.getsockname()[1]


def _answers(address: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{address}/health", timeout=1
        ):
            return True
    except (urllib.error.URLError, OSError):
        time.sleep(0.1)
        return False


def _pages(database: Path, address: str) -> dict[str, str]:
    """Address of the page of each experiment that is a sweep, by its name. Read only."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active' "
            "AND experiment_id IN (SELECT experiment_id FROM runs) ORDER BY name"
        ).fetchall()
    return {
        name: PAGE.format(
            address=address,
            experiment=number,
            trials=quote("tags.`hjepa.run` = 'trial'"),
            metric=quote(f"metrics.`{metric}`"),
            least=str(objective_mode(metric) == "min").lower(),
        )
        for name, number in found
        if (metric := _metric_of(database.parent / name))
    }


def _metric_of(folder: Path) -> str | None:
    """The objective of the sweep in `folder`; None where there is no such sweep."""
    try:
        telling = json.loads((folder / DEFINITION).read_text(encoding="utf-8"))
        return telling["definition"]["sweep"]["objective"]["metric"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
