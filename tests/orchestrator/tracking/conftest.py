"""A database of MLflow's, a sweep's folder and a server that is away."""

import shutil
import socket
from pathlib import Path

import pytest

from orchestrator.tracking.delivery import create_database


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def database(empty_database, tmp_path):
    """A fresh MLflow database; copied, as making one takes two seconds."""
    return Path(shutil.copy(empty_database, tmp_path))


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


@pytest.fixture
def dead_uri():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"
