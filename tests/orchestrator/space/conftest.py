from pathlib import Path

import optuna
import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("")
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
