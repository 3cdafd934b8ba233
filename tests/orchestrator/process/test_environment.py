"""What a sweep ran on is written down once, and again where it changes."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import torch

from orchestrator.process import environment as module
from orchestrator.process.environment import (
    ENVIRONMENT,
    differences,
    environment,
    environment_at,
    read_commands,
    read_environments,
    record_command,
    record_environment,
)


def test_it_names_the_versions_that_run() -> None:
    found = environment()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["cpu_cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_another_environment_is_added_and_the_same_is_not(tmp_path: Path, monkeypatch) -> None:
    record_environment(tmp_path)
    first = (tmp_path / ENVIRONMENT).read_bytes()
    record_environment(tmp_path)
    assert (tmp_path / ENVIRONMENT).read_bytes() == first

    moved = environment() | {"host": "elsewhere"}
    monkeypatch.setattr(module, "environment", lambda: moved)
    record_environment(tmp_path)
    before, after = read_environments(tmp_path)
    assert differences(before, after) == {"host": (environment()["host"], "elsewhere")}

    after["since"] = "2999-01-01T00:00:00+00:00"
    assert environment_at([before, after], datetime.now() + timedelta(seconds=5)) == before
    assert environment_at([before, after], datetime(2999, 6, 1)) == after
    assert environment_at([], datetime.now()) == {}


def test_a_damaged_record_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / ENVIRONMENT).write_text("{")
    assert read_environments(tmp_path) == []


def test_commands_are_kept_in_order_each_once(tmp_path: Path) -> None:
    assert read_commands(tmp_path) == []
    first = ["hjepa-sweep", "run", "a space.yaml", "--set", "name=b"]
    for command in (first, ["hjepa-sweep", "resume", "b"], first):
        record_command(tmp_path, command)
    assert read_commands(tmp_path) == ["hjepa-sweep run 'a space.yaml' --set name=b", "hjepa-sweep resume b"]
