"""What a sweep will take: trials played through by its own scheduler, epochs measured, and the truth."""

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from orchestrator.budget import Ledger
from orchestrator.planning.forecast import Range, Rates, play, plays
from orchestrator.planning.plan import Measured, Plan, outlook, plan
from orchestrator.planning.probe import Probe, probe
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.space.cost import cost, dearest
from tests.workplace import SPACE, TINY, Workplace, records

ROOT = Path(__file__).resolve().parents[3]
SECOND = Rates(base_epoch_s=1.0, epoch_s=[1.0])


def load(folder: Path, **changes: Any) -> Sweep:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPACE | changes))
    return load_sweep(folder / "tiny.yaml")


def test_without_early_stopping_the_play_is_plain_arithmetic(tmp_path: Path) -> None:
    fifo = load(tmp_path, scheduler={"type": "fifo", "max_epochs": 3}, confirm={"top_k": 1, "seeds": 2})
    played = play(fifo, 2, SECOND, random.Random(0))
    assert played.epochs == (1 + 4 + 4) * 3
    assert played.completed == 9
    assert played.worker_s == 27
    # Five trials by two at a time are three rounds, the four with fresh seeds two.
    assert played.wall_s == (3 + 2) * 3
    start = replace(SECOND, start_s=10, baselines_s=0.5)
    assert play(fifo, 9, start, random.Random(0)).wall_s == 10 + 3 + 0.5 + 3


def test_hours_have_two_digits_and_no_exponent(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    found = Probe(10, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 10**6, 10**9, 0)
    for hours, told in ((1234.5, "1200 (980 to 15000)"), (0.0345, "0.035 (0.027 to 0.41)")):
        spread = Range(hours, 0.79 * hours, 12 * hours)
        one = Plan(sweep, 2, [Measured({}, 1.0, found, 1.0)], spread, spread, {}, spread, spread)
        assert f"cost: {told} worker-hours" in one.words()


def test_early_stopping_takes_less_and_the_top_rung_is_reached_by_few(tmp_path: Path) -> None:
    settings = {"type": "asha", "max_epochs": 27, "grace_epochs": 1, "reduction_factor": 3}
    search = {"algorithm": "random", "num_trials": 60}
    for brackets, least, most in ((1, 15, 32), (None, 30, 45)):
        asha = load(tmp_path, search=search, scheduler={**settings, "brackets": brackets})
        played = plays(asha, 4, SECOND, 40)
        assert {one.reached[1] for one in played} == {60}
        assert least <= median(one.reached[3] for one in played) <= most
        assert median(one.reached[9] for one in played) < median(one.reached[3] for one in played)
        assert median(one.epochs for one in played) < 0.45 * 61 * 27
        assert plays(asha, 4, SECOND, 3) == plays(asha, 4, SECOND, 3)


@pytest.mark.parametrize(("trials", "epochs"), [(10**9, 3), (24, 10**9)])
def test_a_sweep_that_only_a_budget_will_end_begins_without_being_played_through(
    tmp_path: Path, trials: int, epochs: int
) -> None:
    search = {"num_trials": trials, "time_budget": "2h"}
    endless = load(tmp_path, search=search, scheduler={"type": "fifo", "max_epochs": epochs})
    known = f"epochs: at most {(trials + 1) * epochs}, too many to be played through, 2 trials at a time\n"
    assert known in outlook(endless, 2)


def test_a_sweep_that_is_too_long_is_planned_by_a_part_of_it(tmp_path: Path) -> None:
    scheduler = {"type": "fifo", "max_epochs": 3}
    with pytest.raises(
        ConfigError, match=r"tiny\.yaml: 250000 trials of 3 epochs .* --trials 199999 plans as many"
    ):
        plan(load(tmp_path, search={"num_trials": 250_000, "time_budget": "2h"}, scheduler=scheduler))
    with pytest.raises(ConfigError, match=r"24 trials of 1000000000 epochs .* to be played through\.$"):
        plan(load(tmp_path, search={"num_trials": 24}, scheduler=scheduler | {"max_epochs": 10**9}))


def test_the_dearest_configuration_is_found_through_conditions(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        space={
            "model.depth": {"choice": [1, 3, 2]},
            "model.fpn.use_fpn": {"choice": [False, True]},
            "model.fpn.feature_dim": {"choice": [8, 64], "when": {"model.fpn.use_fpn": True}},
            "data.batch_size": {"choice": [64, 256, 128]},
        },
    )
    by_work, by_memory = dearest(sweep, "work"), dearest(sweep, "memory_bytes")
    assert (by_work["model.depth"], by_work.get("model.fpn.feature_dim")) == (3, 64)
    assert by_memory["data.batch_size"] == 256
    most = max(cost(sweep.resolve(values)).work for values in sweep.grid())
    assert cost(sweep.resolve(by_work)).work == pytest.approx(most)


def test_a_checkpoint_that_is_only_measured_is_written_to_the_state_folder_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HJEPA_STATE_DIR", str(tmp_path / "state"))
    sweep = load(tmp_path)
    # What measures imports nothing from there.
    (tmp_path / "random.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert probe(sweep.base, sweep.config.resources, at_once=1).checkpoint_bytes > 10_000
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.slow
def test_plan_measures_and_writes_nothing(workplace: Workplace) -> None:
    """The figures of a plan fit together."""
    workplace.write("tiny.yaml", SPACE | {"search": {"num_trials": 4, "time_budget": "100h"}})
    before = workplace.files()
    done = workplace.sweep("plan", "tiny.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert workplace.files() == before
    assert "measuring the base config" in done.stderr
    found = json.loads(done.stdout)
    base = found["measured"][0]
    assert base["values"] == {}
    assert 0 < base["probe"]["step_s"] * base["probe"]["steps"] < base["epoch_s"]
    assert found["wall_s"]["low"] <= found["wall_s"]["median"] <= found["wall_s"]["high"]
    assert 5 * 1 <= found["epochs"]["low"] <= found["epochs"]["high"] <= 5 * 3
    assert found["peak_bytes"] == found["places"] * found["peak_bytes_of_a_trial"] > 10**8
    assert found["disk_bytes"]["median"] > base["probe"]["checkpoint_bytes"] > 10_000
    assert found["budgets"] == ["search.time_budget: is enough"]


@pytest.mark.slow
def test_the_estimate_is_within_a_factor_of_one_and_a_half_of_what_then_happens(workplace: Workplace) -> None:
    """On the shipped `fpn`, fewer trials of it, with its own base, ASHA and fresh seeds."""
    space = str(ROOT / "search_spaces" / "fpn.yaml")
    fewer = ["--trials", "8", "--set", "scheduler.max_epochs=6", "--set", "confirm.seeds=2"]
    planned = workplace.sweep("plan", space, *fewer, "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    ran = workplace.sweep(space, *fewer)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials = records(workplace, "fpn")
    spent = Ledger.of(trials, workers=1).spent()
    truth = {
        "epochs": sum(len(record.reports) for record in trials),
        "worker_hours": spent.worker_hours,
        "wall_s": spent.time_s,
    }
    for figure, happened in truth.items():
        estimate = plan[figure]["median"]
        assert estimate / 1.5 <= happened <= estimate * 1.5, (figure, estimate, happened)
