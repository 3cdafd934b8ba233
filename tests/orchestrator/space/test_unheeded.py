"""What the base says that no trial of a sweep goes by, and that this is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.space import load_sweep, parse_overrides
from tests.orchestrator.space.spaces import EMPTY, LR, USE_FPN, load

FUSION = "model.fpn.fusion_method"
IDLE = "model.fpn.fusion_method: is set (base.yaml) and has no effect: model.fpn.use_fpn is false."


def told(space: Any, base: dict[str, Any] = EMPTY, *overrides: str) -> list[str]:
    load(space, base)
    found: list[str] = []
    load_sweep("s.yaml", overrides=parse_overrides(overrides), warn=found.append)
    return found


def test_a_key_that_matters_in_no_trial_is_told_and_one_that_does_in_some_is_not() -> None:
    concat = {"model": {"fpn": {"fusion_method": "concat"}}}
    assert told(LR, concat) == [IDLE]
    assert told(USE_FPN, concat) == []
    # Nor is one that is swept, or that has its default.
    assert told(USE_FPN | {FUSION: {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}}}) == []
    assert told(LR, {"model": {"fpn": {"fusion_method": "add"}}}) == []


def test_what_hjepa_train_alone_goes_by_is_told_in_one_line() -> None:
    base = {
        "checkpoint": {"save_frequency": 3},
        "logging": {"experiment_name": "mine", "wandb": {"project": "none"}},
    }
    (line,) = told(LR, base, "logging.tensorboard.enabled=true")
    assert line.startswith("checkpoint.save_frequency, logging.tensorboard.enabled: for hjepa-train alone")
    assert told(LR, {"logging": {"experiment_name": "mine"}}) == []


def test_what_the_base_extends_is_not_its_own_to_mend() -> None:
    Path("parent.yaml").write_text(yaml.safe_dump({"logging": {"log_images": True}}))
    assert told(LR, {"extends": "parent.yaml"}) == []


def test_check_says_so_beside_what_the_space_is(capsys: pytest.CaptureFixture[str]) -> None:
    load(LR, {"model": {"fpn": {"fusion_method": "concat"}}})
    assert main(["check", "--brief", "s.yaml"]) == 0
    assert f"# warning: {IDLE}" in capsys.readouterr().out.splitlines()
