"""A sweep that has what a report can hold."""

from pathlib import Path

import pytest

from orchestrator.reporting.material import Material, read_material
from tests.recorded import BROAD, finished, space


@pytest.fixture(scope="session")
def broad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broad")
    return finished(folder / "results", space(folder, BROAD))


@pytest.fixture(scope="session")
def material(broad: Path) -> Material:
    return read_material(broad)
