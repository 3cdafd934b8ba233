"""Shared by all tests: a tiny run, a cache of their own, one thread, and nothing written elsewhere."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it

import atexit
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from hjepa.config import RunConfig
from hjepa.schema import Layers
from hjepa.streams import leave_quietly
from tests.programs import s3 as s3_server
from tests.programs.browser import browser as browser
from tests.programs.nodes import cluster as cluster
from tests.programs.postgres import Postgres, binaries, running
from tests.workplace import Workplace

# The same examples on every run and no folder of them; how long one takes depends on the machine.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("repeatable")

atexit.register(leave_quietly)

# A shell has what it begins in the background ignore Ctrl-C, and so would the processes that get it of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Fixtures of tests that wait for processes, which take longest: of several workers none should be left with
# such a file when the others are done.
WAITING = {"workplace", "shared_workplace", "cluster", "browser"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    waiting = {item.path for item in items if WAITING & set(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: item.path not in waiting)


# One epoch is 3 steps of 239 of the 719 digits that half of the training images are.
TINY: dict[str, Any] = {
    "model.embed_dim": 16,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.patch_size": 2,
    "model.num_hierarchies": 2,
    "model.predictor.depth": 1,
    "model.predictor.num_heads": 2,
    "data.image_size": 8,
    "data.batch_size": 239,
    "data.val_fraction": 0.5,
    "loss.hierarchy_weights": [1.0, 0.5],
    "training.epochs": 1,
    "training.warmup_epochs": 0,
    "training.lr": 0.01,
    "device": "cpu",
    "threads": 1,
}


def build_tiny(dotted: Mapping[str, Any] | None = None) -> RunConfig:
    layers = Layers()
    for key, value in {**TINY, **(dotted or {})}.items():
        layers.set(key, value, "tiny")
    return layers.build(RunConfig, "tiny")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., RunConfig]:
    """`tiny({"model.depth": 1})`: a run of a blink, with some keys changed."""
    return build_tiny


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> Iterator[None]:
    """Decoded images and scratch go to the session's temporary folders, in subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HJEPA_STATE_DIR", str(state_folder))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def state_folder() -> Iterator[Path]:
    """A short path, for Ray's sockets do not fit below pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="hj"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def workplace(tmp_path: Path, state_folder: Path) -> Workplace:
    return Workplace(tmp_path, state_folder)


@pytest.fixture(scope="module")
def shared_workplace(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("sweep"), state_folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (Debian's package is postgresql)")
    with running(programs) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """URL of a new database, with its password."""
    return postgres.database(f"d{abs(hash(request.node.nodeid))}")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3]:
    """A real S3 server; its credentials are in this process's environment too."""
    with (
        s3_server.running(tmp_path_factory.mktemp("s3")) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3: s3_server.S3, request: pytest.FixtureRequest) -> str:
    """URL of a new bucket."""
    return s3.bucket(f"b{abs(hash(request.node.nodeid))}")
