"""Several objectives: what may be one, the trials that none beats, and a sweep by TPE and NSGA-II."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from orchestrator.analysis.front import front
from orchestrator.search.sampler import POPULATION, build_sampler
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY

KNN, SPEED = "val/knn_top1", "time/images_per_s"
BOTH = {"metric": KNN, "beside": [SPEED]}


def load(folder: Path, **changes: Any) -> Sweep:
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPACE | changes))
    return load_sweep(folder / "tiny.yaml")


def completed(number: int, knn: float, speed: float) -> TrialRecord:
    record = TrialRecord(number, "search", {}, outcome="completed")
    record.reports = {1: {KNN: knn, SPEED: speed}}
    return record


def test_the_front_holds_those_that_none_beats_best_by_the_first_objective_first() -> None:
    trials = [completed(0, 0.9, 10), completed(1, 0.8, 30), completed(2, 0.7, 20), completed(3, 0.9, 5)]
    assert [record.number for record in front(trials, [KNN, SPEED])] == [0, 1]
    assert [record.number for record in front(trials, [KNN, "train/loss"])] == []


def test_equals_are_all_on_the_front_and_stopped_trials_are_not() -> None:
    twins, stopped = [completed(0, 0.9, 10), completed(1, 0.9, 10)], completed(2, 1.0, 99)
    stopped.outcome = "pruned"
    assert [record.number for record in front([*twins, stopped], [KNN, SPEED])] == [0, 1]


def test_speed_is_the_median_of_a_trials_epochs() -> None:
    hindered = completed(0, 0.9, 100)
    hindered.reports |= {2: {KNN: 0.9, SPEED: 101.0}, 3: {KNN: 0.9, SPEED: 3.0}}
    assert [record.number for record in front([hindered, completed(1, 0.9, 50)], [KNN, SPEED])] == [0]


def test_a_list_of_objectives_is_the_first_with_the_others_beside_it(tmp_path: Path) -> None:
    listed = load(tmp_path, objective=[{"metric": KNN, "mode": "max"}, SPEED])
    assert listed.config.objective.metrics == (KNN, SPEED)
    assert load(tmp_path, objective=BOTH).fingerprint() == listed.fingerprint()
    assert load(tmp_path).fingerprint() == load(tmp_path, objective={"metric": KNN}).fingerprint()
    assert load(tmp_path).fingerprint() != listed.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": [SPEED, KNN]}, "may stand beside a first objective"),
        ({"objective": [KNN, KNN]}, "named twice"),
        ({"objective": [KNN, "time/images_per_sec"]}, "nearest: time/images_per_s"),
        (
            {"objective": [KNN, "train/loss"], "space": {"loss.type": {"choice": ["mse", "cosine"]}}},
            "loss's scale",
        ),
        ({"objective": [KNN, "val/lidar"]}, "is not measured"),
        ({"objective": [{"metric": KNN}, {"metric": SPEED, "mode": "min"}]}, "worst trial"),
        ({"objective": []}, "is empty"),
        ({"search": {"algorithm": "nsga2", "num_trials": 4}}, "several objectives"),
        (
            {"objective": [KNN, SPEED], "search": {"algorithm": "gp", "num_trials": 4}},
            "search.algorithm gp is for one objective; write tpe or nsga2 for several",
        ),
    ],
)
def test_what_is_no_objective_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **changes)


def test_of_several_objectives_tpe_proposes_where_nothing_else_is_written(tmp_path: Path) -> None:
    for search in ({"num_trials": 4}, {"num_trials": 4, "seed": 1}):
        assert load(tmp_path, search=search).config.search.algorithm == "gp"
        assert load(tmp_path, objective=[KNN], search=search).config.search.algorithm == "gp"
        assert load(tmp_path, objective=BOTH, search=search).config.search.algorithm == "tpe"


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_a_search_by_two_objectives_proposes_learns_and_goes_on(tmp_path: Path, algorithm: str) -> None:
    """Every third trial is stopped early, as ASHA would."""
    sweep = load(tmp_path, objective=BOTH, search={"algorithm": algorithm, "num_trials": 60, "seed": 1})

    def run(study: Study, count: int) -> None:
        for _ in range(count):
            record = study.ask()
            lr = record.values["training.lr"]
            stopped = record.number % 3 == 0
            for epoch in (1,) if stopped else (1, 2, 3):
                study.report(record.number, epoch, {KNN: lr, SPEED: 1 / lr}, None)
            study.end(record.number, "pruned" if stopped else "completed")

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(Study(whole, sweep, build_sampler(sweep)), 2 * POPULATION)
    run(Study(parts, sweep, build_sampler(sweep)), POPULATION)
    again = Study(parts, sweep, build_sampler(sweep))
    run(again, POPULATION)
    reference = Study(whole, sweep, build_sampler(sweep))
    assert [r.values for r in again.trials.values()] == [r.values for r in reference.trials.values()]
    # What is faster is worse here, so none beats another; the best is the first objective's.
    ended = [record for record in again.trials.values() if record.outcome == "completed"]
    unbeaten = front(again.trials.values(), [KNN, SPEED])
    assert len(unbeaten) == len(ended)
    assert again.best() is unbeaten[0]
    stored = optuna.load_study(study_name="tiny", storage=again._study._storage)
    assert len(stored.best_trials) == len(ended)
