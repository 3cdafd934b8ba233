"""A new sweep learns from earlier ones: its first proposals are good, and the same after an interruption."""

import math
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from optuna.storages import BaseStorage

from orchestrator.cli.going import INTERRUPTED, go
from orchestrator.definition import write_definition
from orchestrator.search.earlier import Lore, learn, read_earlier
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.storage.disk import Patience
from orchestrator.study.database import open_database
from orchestrator.study.place import VARIABLE, Place, record_place
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY, Workplace, records

LR = {"training.lr": {"loguniform": [1e-5, 1e-1]}}
ASHA = {"type": "asha", "max_epochs": 9, "grace_epochs": 3, "reduction_factor": 3}


def load(folder: Path, name: str, **changes: Any) -> Sweep:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    given = {"name": name, "space": LR, "search": {"algorithm": "tpe", "num_trials": 20}, "scheduler": ASHA}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(SPACE | given | changes))
    return load_sweep(folder / f"{name}.yaml")


def run(folder: Path, sweep: Sweep, storage: BaseStorage | None = None) -> Study:
    """A sweep that has run: the nearer a learning rate to 1e-2, the better; the weaker half stopped at 3."""
    results = folder / "results"
    study = Study(results / sweep.config.name, sweep, build_sampler(sweep), storage=storage)
    write_definition(results / sweep.config.name, sweep)
    for number in range(20):
        lr = 10 ** (-5 + number / 5)
        record = study.ask("search", {"training.lr": lr})
        value = 0.9 - 0.1 * abs(number / 5 - 3)
        for epoch in (3, 9) if value > 0.75 else (3,):
            study.report(record.number, epoch, {"val/knn_top1": value}, None)
        study.end(record.number, "completed" if value > 0.75 else "pruned")
    return study


def proposals(folder: Path, sweep: Sweep, count: int, reopened: bool = False) -> list[float]:
    study = Study(folder / "results" / sweep.config.name, sweep, build_sampler(sweep))
    learn(study, folder / "results")
    found = []
    for _ in range(count):
        if reopened:
            study = Study(folder / "results" / sweep.config.name, sweep, build_sampler(sweep))
            learn(study, folder / "results")
        record = study.ask()
        study.report(record.number, 3, {"val/knn_top1": 0.3}, None)
        study.end(record.number, "pruned")
        found.append(record.values["training.lr"])
    return found


@pytest.mark.parametrize("algorithm", ["gp", "tpe"])
def test_the_first_proposals_are_near_what_was_good_before(tmp_path: Path, algorithm: str) -> None:
    run(tmp_path, load(tmp_path, "before"))
    search = {"algorithm": algorithm, "num_trials": 9}
    warm = load(tmp_path, "warm", search=search | {"warm_start": ["before"]})
    cold = load(tmp_path, "cold", search=search)

    def near(found: list[float]) -> int:
        return sum(2e-3 < value < 5e-2 for value in found)

    first = proposals(tmp_path, warm, 8)
    assert near(first) >= 6
    assert near(proposals(tmp_path, cold, 8)) < near(first)


def test_gone_on_with_it_proposes_the_same_though_the_earlier_one_is_gone(tmp_path: Path) -> None:
    run(tmp_path, load(tmp_path, "before"))
    search = {"algorithm": "tpe", "num_trials": 9, "warm_start": ["before"]}
    once = proposals(tmp_path, load(tmp_path, "once", search=search), 5)
    again = load(tmp_path, "again", search=search)
    learn(Study(tmp_path / "results/again", again, build_sampler(again)), tmp_path / "results")
    (tmp_path / "results/before").rename(tmp_path / "elsewhere")
    assert proposals(tmp_path, again, 5, reopened=True) == once


def test_values_are_told_by_the_median_of_their_own_sweep_at_their_epoch(tmp_path: Path) -> None:
    before = run(tmp_path, load(tmp_path, "before"))
    search = {"algorithm": "tpe", "num_trials": 9, "warm_start": ["before"]}
    longer = ASHA | {"max_epochs": 18, "grace_epochs": 6}
    sweep = load(tmp_path, "after", search=search, scheduler=longer)
    found = read_earlier(tmp_path / "results", sweep)
    assert len(found) == 20
    assert {trial.epoch for trial in found} == {6, 18}
    at_3 = sorted(record.reports[3]["val/knn_top1"] for record in before.trials.values())
    weak = [trial for trial in found if not trial.completed]
    assert {trial.usual for trial in weak} == {(at_3[9] + at_3[10]) / 2}
    study = Study(tmp_path / "results/after", sweep, build_sampler(sweep))
    for value in (0.2, 0.3, 0.4):
        study.report(study.ask().number, 6, {"val/knn_top1": value}, None)
    seen = Lore(found, sweep)(study._study.get_trials())
    assert [trial.number for trial in seen] == list(range(-20, 0))
    shown = [trial.value for trial, told in zip(seen, found, strict=True) if not told.completed]
    assert shown == pytest.approx([0.3 + trial.above for trial in weak])


def test_a_run_that_diverged_stands_nowhere_among_the_others(tmp_path: Path) -> None:
    """Its value is NaN, which sorts anywhere."""
    sweep, nan = load(tmp_path, "before"), float("nan")
    study = Study(tmp_path / "results/before", sweep, build_sampler(sweep))
    write_definition(tmp_path / "results/before", sweep)
    for number, value in enumerate((0.1, 0.5, nan, nan, nan, 0.4, 0.3, 0.2)):
        record = study.ask("search", {"training.lr": 10 ** (-5 + number / 5)})
        study.report(record.number, 3, {"val/knn_top1": value}, None)
        diverged = "failed" if number == 3 else "collapsed"
        study.end(record.number, diverged if math.isnan(value) else "pruned")
    search = {"algorithm": "tpe", "num_trials": 9, "warm_start": ["before"]}
    after = load(tmp_path, "after", search=search)
    found = read_earlier(tmp_path / "results", after)
    assert [trial.above for trial in found] == pytest.approx([-0.2, 0.2, 0.1, 0.0, -0.1])
    study = Study(tmp_path / "results/after", after, build_sampler(after))
    for value in (nan, 0.8, nan, 0.9, nan):
        study.report(study.ask().number, 3, {"val/knn_top1": value}, None)
    seen = Lore(found, after)(study._study.get_trials())
    assert [trial.value for trial in seen] == pytest.approx([0.65, 1.05, 0.95, 0.85, 0.75])


@pytest.mark.parametrize(
    ("scheduler", "epochs"),
    [
        (ASHA | {"max_epochs": 27, "grace_epochs": 1}, {9, 27}),
        (ASHA | {"max_epochs": 30, "grace_epochs": 2}, {6, 30}),
        ({"type": "fifo", "max_epochs": 30}, {10, 30}),
    ],
)
def test_how_far_they_came_is_told_by_the_nearest_rung(
    tmp_path: Path, scheduler: dict[str, Any], epochs: set[int]
) -> None:
    """What stands between two rungs would be compared with nothing."""
    run(tmp_path, load(tmp_path, "before"))
    search = {"algorithm": "tpe", "num_trials": 9, "warm_start": ["before"]}
    sweep = load(tmp_path, "after", search=search, scheduler=scheduler)
    assert {trial.epoch for trial in read_earlier(tmp_path / "results", sweep)} == epochs


@pytest.mark.parametrize(
    ("search", "changes", "message"),
    [
        ({"warm_start": ["befor"]}, {}, "befor: no such sweep in .*Nearest: before"),
        ({"warm_start": ["after"]}, {}, "after: is this sweep itself"),
        ({"warm_start": ["before"]}, {"objective": {"metric": "val/rankme"}}, "was judged by val/knn_top1"),
        ({"warm_start": ["before"]}, {"space": {"model.depth": {"choice": [1, 2]}}}, "varies none of this"),
        (
            {"warm_start": ["before"]},
            {"space": {"training.lr": {"choice": [0.3]}}},
            "none of its trials lies in this space: it has other values of training.lr",
        ),
        (
            {"warm_start": ["before"]},
            {"space": {**LR, "model.depth": {"choice": [2]}}},
            "in this space: it has other values of model.depth",
        ),
        ({"warm_start": ["before"], "algorithm": "random"}, {}, "warm_start is for gp or tpe"),
        ({"warm_start": ["before", "before"]}, {}, "names a sweep twice"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    tmp_path: Path, search: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    run(tmp_path, load(tmp_path, "before"))
    search = {"algorithm": "tpe", "num_trials": 9} | search
    with pytest.raises(ConfigError, match=message):
        read_earlier(tmp_path / "results", load(tmp_path, "after", search=search, **changes))


def test_a_sweep_in_a_database_is_learnt_from_by_the_password_of_the_environment(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a running sweep keeps from its trials."""
    there, seen = Place.parse(database, "test"), []
    storage = open_database(there, Patience())
    run(tmp_path, load(tmp_path, "before"), storage)
    record_place(tmp_path / "results/before", there)
    storage.engine.dispose()
    search = {"algorithm": "tpe", "num_trials": 9, "warm_start": ["before"]}
    warm = load(tmp_path, "warm", search=search)
    monkeypatch.setenv(VARIABLE, database)

    def work(*_: object) -> NoReturn:
        seen.append((os.environ.get(VARIABLE), len(read_earlier(tmp_path / "results", warm))))
        raise KeyboardInterrupt

    assert go(work, warm, "sqlite:///mlflow.db", ["resume", "warm"], there) == INTERRUPTED
    assert seen == [(None, 20)]


def test_a_search_without_it_is_fingerprinted_as_ever(tmp_path: Path) -> None:
    assert "warm_start" not in load(tmp_path, "plain").definition()["sweep"]["search"]


@pytest.mark.slow
def test_a_refused_start_leaves_no_trace_and_a_sweep_learns_from_another(workplace: Workplace) -> None:
    plain = SPACE | {"scheduler": {"type": "fifo", "max_epochs": 1}}
    workplace.write("tiny.yaml", plain | {"search": {"algorithm": "random", "num_trials": 2}})
    warm = {"algorithm": "tpe", "num_trials": 2, "warm_start": ["tiny"]}
    workplace.write("after.yaml", plain | {"name": "after", "search": warm})
    before = workplace.files()
    done = workplace.sweep("after.yaml")
    assert done.returncode == 2
    assert "tiny: no such sweep" in done.stderr
    assert workplace.files() == before
    assert workplace.sweep("tiny.yaml").returncode == 0
    done = workplace.sweep("after.yaml")
    assert done.returncode == 0, done.stderr
    assert {record.outcome for record in records(workplace, "after")} == {"completed"}
