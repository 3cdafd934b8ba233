"""Sweeps whose trials are made up."""

import pytest

from orchestrator.space import Sweep
from tests.synthetic import KEYS, synthetic_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return synthetic_sweep(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def many_keys(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of `KEYS` without rungs."""
    fifo = {"type": "fifo", "max_epochs": 2}
    return synthetic_sweep(tmp_path_factory.mktemp("keys"), space=KEYS, scheduler=fifo, confirm={"top_k": 0})
