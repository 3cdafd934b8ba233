"""Sweeps played in made-up worlds: what is good there is found, and early stopping is paid for in quality."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.planning.rehearsal import SPREAD, World, rehearse
from orchestrator.space import ConfigError, Sweep, load_sweep
from tests.workplace import SPACE, TINY, Workplace

CHOICES = {
    "loss.type": {"choice": ["mse", "smoothl1", "cosine"]},
    "model.fpn.use_fpn": {"choice": [False, True]},
    "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
}


def load(folder: Path, **changes: Any) -> Sweep:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPACE | changes))
    return load_sweep(folder / "tiny.yaml")


def test_without_noise_a_whole_grid_run_to_its_end_finds_the_best_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.planning.rehearsal.RUN_NOISE", 0.0)
    monkeypatch.setattr("orchestrator.planning.rehearsal.EPOCH_NOISE", 0.0)
    monkeypatch.setattr("orchestrator.planning.rehearsal.PACES", (0.05, 0.05))
    fifo = {"type": "fifo", "max_epochs": 9}
    sweep = load(tmp_path, space=CHOICES, search={"algorithm": "grid"}, scheduler=fifo)
    found = rehearse(sweep, 5, 2)
    (way,) = found.ways
    assert "proposed" not in found.words()
    assert way.below.high == pytest.approx(0, abs=1e-12)
    assert way.near == 5
    assert way.above_base.low >= 0
    assert way.epochs.median == 9 * (1 + sweep.num_trials)


def test_early_stopping_spends_less_and_every_way_is_compared(tmp_path: Path) -> None:
    asha = {"type": "asha", "max_epochs": 27, "grace_epochs": 1, "reduction_factor": 3}
    sweep = load(tmp_path, search={"algorithm": "tpe", "num_trials": 20}, scheduler=asha)
    found = rehearse(sweep, 4, 2)
    written, whole, at_random = found.ways
    assert at_random.name == "at random, without early stopping"
    assert written.epochs.high < whole.epochs.low == whole.epochs.high == 21 * 27
    assert all(way.below.low >= 0 for way in found.ways)
    assert rehearse(sweep, 4, 2) == found
    assert found.words().splitlines()[2].startswith("as written ")
    assert found.words().splitlines()[0].endswith("; proposed by tpe")


def test_a_worlds_configurations_differ_as_it_says(tmp_path: Path) -> None:
    sweep = load(tmp_path, space=CHOICES, search={"algorithm": "grid"})
    assert sweep.listed is not None
    for seed in range(3):
        world = World(sweep, seed, sweep.listed)
        found = [world.quality(values) for values in sweep.listed]
        assert sum(found) == pytest.approx(0, abs=1e-9)
        assert sum(value**2 for value in found) == pytest.approx(len(found) * SPREAD**2)
        assert max(found) == world.best


def test_several_objectives_are_refused(tmp_path: Path) -> None:
    sweep = load(tmp_path, objective=["val/knn_top1", "time/images_per_s"])
    with pytest.raises(ConfigError, match="--simulate plays one objective"):
        rehearse(sweep, 1, 1)


def test_the_command_writes_nothing(workplace: Workplace) -> None:
    before = workplace.files()
    done = workplace.ask("plan", "tiny.yaml", "--simulate", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["worlds"] == 2
    assert "playing world 2 of 2" in done.stderr
    assert workplace.files() == before
    assert workplace.ask("plan", "tiny.yaml", "--simulate", "0").returncode == 2
