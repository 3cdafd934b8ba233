"""`hjepa-sweep check`: what it says of a space, and what of several that are wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.space import Sweep, describe, load_sweep, parse_overrides
from tests.workplace import TINY

SPACE: dict[str, Any] = {
    "base": "base.yaml",
    "space": {
        "model.fpn.use_fpn": {"choice": [True, False]},
        "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
        "model.num_heads": {"choice": [2, 4], "prior": {"value": 4, "confidence": 0.5}},
        "model.depth": {"randint": [1, 4]},
    },
    "derived": {"model.embed_dim": "8 * model.num_heads"},
    "constraints": ["model.depth < 3 or not model.fpn.use_fpn"],
    "search": {"num_trials": 5},
    "confirm": {"top_k": 1, "seeds": 2},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    return tmp_path


def test_every_key_and_rule_is_described() -> None:
    assert describe(load_sweep("s.yaml")) == [
        "5 trials proposed by gp, the base config, 4 runs with fresh seeds",
        "up to 2 epochs, rungs at 1; val/knn_top1, max",
        "model.fpn.use_fpn: true, false; false in the base",
        "model.fpn.fusion_method: add, concat; add in the base; when model.fpn.use_fpn is true; without "
        "effect elsewhere (model.fpn.use_fpn is false)",
        "model.num_heads: 2, 4; 2 in the base; first near 4, with confidence 0.5",
        "model.depth: 1, 2, 3; 1 in the base",
        "model.embed_dim: 8 * model.num_heads; 16 to 32, 16 in the base",
        "constraint: model.depth < 3 or not model.fpn.use_fpn; keeps 82% of what is drawn at random",
        "configurations: 13 to try of 18 combinations; 4 against a constraint, 1 the base's own",
    ]


def test_one_trial_and_every_objective_are_described() -> None:
    changed = {"search": {"num_trials": 1}, "objective": ["val/knn_top1", "val/rankme", "time/images_per_s"]}
    space = {"training.lr": {"uniform": [0.1, 1]}}
    Path("one.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "space": space, **changed}))
    first, second, *_ = describe(load_sweep("one.yaml"))
    assert first == "1 trial proposed by tpe, the base config"
    assert second.endswith("; val/knn_top1, max; beside it val/rankme, time/images_per_s")


def test_designs_and_ranges_are_counted() -> None:
    alone = {**SPACE, "design": "one_at_a_time", "search": {}, "constraints": []}
    alone["space"] = {**SPACE["space"], "model.num_heads": {"choice": [2, 4]}}
    Path("alone.yaml").write_text(yaml.safe_dump(alone, sort_keys=False))
    lines = describe(load_sweep("alone.yaml"))
    assert lines[0].startswith("5 trials with one key changed each")
    assert (
        lines[-1] == "configurations: 5 to try of 9 combinations; 3 the base's own, 1 the same run as another"
    )
    lr = {**SPACE, "space": {"training.lr": {"uniform": [0.1, 1]}}, "derived": {}, "constraints": []}
    Path("lr.yaml").write_text(yaml.safe_dump(lr))
    assert describe(load_sweep("lr.yaml"))[-1] == "configurations: without end, for training.lr is a range"


def test_what_is_too_much_to_count_is_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {**SPACE, "space": {"seed": {"lograndint": [1, 2**32]}}, "derived": {}, "constraints": []}
    Path("many.yaml").write_text(yaml.safe_dump(many))
    sweep = load_sweep("many.yaml")
    monkeypatch.setattr(Sweep, "identity", lambda *_: pytest.fail("a configuration was resolved"))
    assert describe(sweep)[-1] == "configurations: more than 20,000 combinations"


def test_the_gaussian_process_is_refused_for_several_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    several = ["--set", "objective.beside=[time/images_per_s]"]
    assert main(["check", "s.yaml", "--brief", *several]) == 0
    assert "5 trials proposed by tpe" in capsys.readouterr().out
    assert main(["check", "s.yaml", *several, "--set", "search.algorithm=gp"]) == 2
    told = capsys.readouterr()
    why = "search.algorithm gp is for one objective; write tpe or nsga2 for several"
    assert (told.out, told.err) == ("", f"hjepa-sweep: --set search.algorithm: {why}.\n")


def test_all_files_are_checked_and_each_bad_one_gets_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("base: base.yaml\nspace: {loss.tpe: {choice: [mse]}}")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["check", "missing.yaml", "s.yaml", "bad.yaml", "--brief"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("# s.yaml: s\n# 5 trials proposed by gp")
    assert told.err.startswith("hjepa-sweep: missing.yaml: no such file.")
    assert told.err.count("hjepa-sweep: ") == 2
    assert "hjepa-sweep: bad.yaml: space.loss.tpe: no such config key.\nNearest: loss.type." in told.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_base_is_shown_as_it_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["check", "s.yaml", "--set", "scheduler.max_epochs=7", "--set", "seed=5", "--trials", "3"]) == 0
    )
    shown = yaml.safe_load(capsys.readouterr().out)
    expected = load_sweep("s.yaml", overrides=parse_overrides(["scheduler.max_epochs=7", "seed=5"]))
    assert shown == expected.base.model_dump(mode="json")
    assert (shown["training"]["epochs"], shown["seed"]) == (7, 5)
