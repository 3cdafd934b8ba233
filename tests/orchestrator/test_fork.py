"""A sweep that begins with another one's trials."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hjepa.config import RunConfig
from hjepa.judge import baselines
from orchestrator.definition import write_definition
from orchestrator.fork import fork
from orchestrator.search.agenda import Agenda, work_is_left
from orchestrator.search.decision import Decisions
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.storage.depot import PLACE
from orchestrator.study.holder import SweepLock
from orchestrator.study.reading import read_study
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY

BESIDE = {"raw_pixels/knn_top1": 0.9, "random_init/knn_top1": 0.6}


def written(folder: Path, name: str, base: dict[str, Any] = TINY, **changes: Any) -> Sweep:
    (folder / f"{name}-base.yaml").write_text(yaml.safe_dump(base))
    space = SPACE | changes | {"name": name, "base": f"{name}-base.yaml"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(space))
    return load_sweep(folder / f"{name}.yaml")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A sweep with the base and learning rates of 0.0002, 0.002 (pruned) and 0.02, and an open trial."""
    old = written(tmp_path, "old", space={"training.lr": {"loguniform": [1e-4, 1e-1]}})
    folder = tmp_path / "results/old"
    folder.mkdir(parents=True)
    write_definition(folder, old)
    study = Study(folder, old, build_sampler(old))
    study.ask("base", old.base_values())
    for lr in (0.0002, 0.002, 0.02, 0.001):
        study.ask("search", {"training.lr": lr})
    for number, epochs in ((0, 3), (1, 3), (2, 1), (3, 3), (4, 1)):
        for epoch in range(1, epochs + 1):
            beside = BESIDE if (number, epoch) == (0, 1) else {}
            study.report(number, epoch, {"val/knn_top1": number / 10} | beside, f"epoch_{epoch:05d}.pt")
        trial = folder / "trials" / study.trials[number].id
        trial.mkdir(parents=True)
        (trial / "config.yaml").write_text(f"of: {number}")
    for number, outcome in ((0, "completed"), (1, "completed"), (2, "pruned"), (3, "completed")):
        study.end(number, outcome, "because")  # pyright: ignore[reportArgumentType]
    return tmp_path / "results"


def test_what_fits_is_taken_over_with_its_reports_and_files(results: Path) -> None:
    new = written(results.parent, "new", space={"training.lr": {"loguniform": [1e-4, 1e-2]}})
    lines = fork(results, "old", new)
    assert lines == [
        "new: 3 finished trials of old taken over",
        "  not taken: 1, not finished",
        "  not taken: 1, outside the new space: training.lr",
    ]
    before = {record.number: record for record in read_study(results / "old", None)}
    taken = read_study(results / "new", None)
    assert [(r.role, r.values, r.outcome) for r in taken] == [
        ("base", {"training.lr": 1e-3}, "completed"),
        ("search", {"training.lr": 0.0002}, "completed"),
        ("search", {"training.lr": 0.002}, "pruned"),
    ]
    assert [r.origin for r in taken] == [f"trial 000{i} of old" for i in range(3)]
    assert [r.reports for r in taken] == [before[i].reports for i in range(3)]
    assert (results / "new/trials/0002/config.yaml").read_text() == "of: 2"
    assert fork(results, "old", new) == ["new: is there already, and goes on"]


def test_a_trial_that_is_now_the_base_is_taken_for_it(results: Path) -> None:
    """The old space varied the rate, the new one fixes it at 0.0002 and varies the weight decay."""
    base = TINY | {"training": TINY["training"] | {"lr": 0.0002}}
    space = {"training.weight_decay": {"choice": [0.05, 0.1]}}
    new = written(results.parent, "new", base, space=space)
    lines = fork(results, "old", new)
    assert lines[0] == "new: 1 finished trials of old taken over"
    assert "  not taken: 3, its config differs in what the new space does not vary" in lines
    (taken,) = read_study(results / "new", None)
    assert (taken.role, taken.values) == ("base", {"training.weight_decay": 0.05})
    # Measured for the old base, and the same here: training does not change it.
    assert taken.references == BESIDE
    assert [BESIDE.items() <= metrics.items() for metrics in taken.reports.values()] == [True, False, False]


def test_a_base_whose_untrained_model_was_never_measured_is_run_anew(tmp_path: Path) -> None:
    """The old space varied the seed, and with it the model before training."""
    old = written(tmp_path, "old", space={"seed": {"choice": [1, 2]}})
    folder = tmp_path / "results/old"
    folder.mkdir(parents=True)
    write_definition(folder, old)
    study = Study(folder, old, build_sampler(old))
    study.ask("base", old.base_values())
    study.ask("search", {"seed": 1})
    for number in (0, 1):
        study.report(number, 3, {"val/knn_top1": 0.5} | (BESIDE if number == 0 else {}), None)
        study.end(number, "completed")
    new = written(tmp_path, "new", TINY | {"seed": 1}, space={"training.lr": {"choice": [1e-3, 1e-4]}})
    lines = fork(tmp_path / "results", "old", new)
    assert lines[0] == "new: 0 finished trials of old taken over"
    assert "  not taken: 1, the base config, which is run here to measure what learning has to beat" in lines


def test_what_is_taken_as_what_a_base_has_to_beat_is_what_would_be_measured(
    tiny: Callable[..., RunConfig],
) -> None:
    """Changed are a key of each part that the accuracies may not depend on."""
    changed = {
        "training.lr": 0.02,
        "training.weight_decay": 0.1,
        "loss.type": "mse",
        "loss.use_vicreg": True,
        "masking.num_masks": 1,
        "evaluation.val_loss": True,
    }
    assert baselines(tiny()) == baselines(tiny(changed))


def test_a_base_that_was_stopped_early_as_a_trial_is_run_to_its_end(results: Path) -> None:
    """The rate of 0.002 was pruned after an epoch; the old base is a trial like others now."""
    base = TINY | {"training": TINY["training"] | {"lr": 0.002}}
    new = written(results.parent, "new", base, space={"training.lr": {"loguniform": [1e-4, 1e-1]}})
    lines = fork(results, "old", new)
    assert "  not taken: 1, the base config, which is run to the end here" in lines
    assert [(r.role, r.values) for r in read_study(results / "new", None)] == [
        ("search", {"training.lr": lr}) for lr in (0.001, 0.0002, 0.02)
    ]


@pytest.mark.parametrize("scheduler", [{"type": "fifo"}, {"type": "asha", "grace_epochs": 2}])
def test_a_trial_that_stopped_where_the_new_sweep_stops_none_is_run_again(
    results: Path, scheduler: dict[str, Any]
) -> None:
    """The rate of 0.002 was pruned after an epoch, which says nothing among trials of two and more."""
    new = written(
        results.parent,
        "new",
        space={"training.lr": {"choice": [0.0002, 0.002, 0.02]}},
        scheduler={**scheduler, "max_epochs": 3},
        search={"algorithm": "random", "num_trials": 3},
    )
    lines = fork(results, "old", new)
    assert "  not taken: 1, stopped early, where no trial is stopped here" in lines
    study = Study(results / "new", new, build_sampler(new))
    assert study.ask().values == {"training.lr": 0.002}


def lists(folder: Path, name: str, weight_decay: float, lr: float, rates: list[float], design: str) -> Sweep:
    """A design that lists its trials, of two weight decays and `rates`, from a base with one of each."""
    return written(
        folder,
        name,
        TINY | {"training": TINY["training"] | {"weight_decay": weight_decay, "lr": lr}},
        space={"training.weight_decay": {"choice": [0.01, 0.05]}, "training.lr": {"choice": rates}},
        search={"algorithm": "grid"},
        design=design,
    )


def run_all(study: Study, sweep: Sweep) -> None:
    agenda = Agenda(sweep, study, Decisions(sweep, study))
    while (record := agenda.next()) is not None:
        beside = BESIDE if record.role == "base" else {}
        study.report(record.number, sweep.max_epochs, {study.metric: 0.5} | beside, None)
        study.end(record.number, "completed")


@pytest.mark.parametrize("design", ["factorial", "one_at_a_time"])
def test_every_configuration_of_a_list_is_run_or_taken_over_once(tmp_path: Path, design: str) -> None:
    """The winner of a grid is the base of the next one. One that is not in the list is taken as well."""
    old = lists(tmp_path, "old", 0.01, 1e-3, [1e-3, 2e-3], "factorial")
    folder = tmp_path / "results/old"
    folder.mkdir(parents=True)
    write_definition(folder, old)
    run_all(Study(folder, old, build_sampler(old)), old)
    new = lists(tmp_path, "new", 0.05, 2e-3, [1e-3, 2e-3, 3e-3], design)
    assert fork(folder.parent, "old", new) == ["new: 4 finished trials of old taken over"]
    study = Study(folder.parent / "new", new, build_sampler(new))
    assert work_is_left(new, study)
    run_all(study, new)
    assert not work_is_left(new, study)
    runs = [(r.values["training.weight_decay"], r.values["training.lr"]) for r in study.trials.values()]
    everything = {(weight_decay, lr) for weight_decay in (0.01, 0.05) for lr in (1e-3, 2e-3, 3e-3)}
    # Of both keys at a time only what was there is there.
    wanted = everything if design == "factorial" else everything - {(0.01, 3e-3)}
    assert sorted(runs) == sorted(wanted)
    base_trial = study.base()
    assert base_trial is not None
    assert (base_trial.values["training.lr"], base_trial.origin) == (2e-3, "trial 0003 of old")


def test_longer_trials_take_over_nothing(results: Path) -> None:
    scheduler = SPACE["scheduler"] | {"max_epochs": 4}
    new = written(
        results.parent, "new", space={"training.lr": {"loguniform": [1e-4, 1e-1]}}, scheduler=scheduler
    )
    assert fork(results, "old", new)[0] == "new: 0 finished trials of old taken over"


def test_a_fork_that_was_cut_short_leaves_nothing_and_is_done_again(results: Path) -> None:
    new = written(results.parent, "new", space={"training.lr": {"loguniform": [1e-4, 1e-1]}})
    shutil.copytree(results / "old", results / ".new.fork")
    assert fork(results, "old", new)[0] == "new: 4 finished trials of old taken over"
    assert not (results / ".new.fork").exists()


def test_a_fork_waits_for_nobody_and_removes_nothing_of_who_makes_or_runs_that_sweep(results: Path) -> None:
    new = written(results.parent, "new", space={"training.lr": {"loguniform": [1e-4, 1e-1]}})
    shutil.copytree(results / "old", results / ".new.fork")
    other = SweepLock(results / "new")
    with pytest.raises(ConfigError, match="new: this sweep is running already: process"):
        fork(results, "old", new)
    assert (results / ".new.fork/study.journal").exists()
    other.release()
    assert fork(results, "old", new)[0] == "new: 4 finished trials of old taken over"
    SweepLock(results / "new").release()


def test_a_fork_under_its_own_name_is_refused(results: Path) -> None:
    old = load_sweep(results.parent / "old.yaml")
    with pytest.raises(ConfigError, match="must be another name"):
        fork(results, "old", old)
    other = replace(old, config=old.config.model_copy(update={"name": "x"}))
    with pytest.raises(ConfigError, match="no such sweep"):
        fork(results, "nothing", other)


@pytest.mark.parametrize("stored", ["source", "both"])
def test_a_checkpoint_that_has_expired_in_a_store_keeps_no_trial_back(results: Path, stored: str) -> None:
    resources = {"checkpoints": (results.parent / "store").as_uri()} if stored == "both" else {}
    space = {"training.lr": {"loguniform": [1e-4, 1e-1]}}
    new = written(results.parent, "new", space=space, resources=resources)
    store = results.parent / "store/old"
    (store / "trials/0003").mkdir(parents=True)
    (store / "trials/0003/epoch_00003.pt").write_text("kept")
    (results / "old" / PLACE).write_text(json.dumps({"url": store.as_uri()}))
    assert fork(results, "old", new) == [
        "new: 4 finished trials of old taken over",
        f"  2 of them without the checkpoint, which is no longer in {store.as_uri()}",
        "  not taken: 1, not finished",
    ]
    found = [*results.glob("new/trials/*/epoch_*"), *results.parent.glob("store/new-*/trials/*/*")]
    assert [(file.parent.name, file.read_text()) for file in found] == [("0003", "kept")]


@pytest.mark.parametrize("stored", ["source", "target", "both"])
def test_kept_checkpoints_come_along_to_and_from_a_store(results: Path, stored: str) -> None:
    resources = {"checkpoints": (results.parent / "store").as_uri()}
    new = written(
        results.parent,
        "new",
        space={"training.lr": {"loguniform": [1e-4, 1e-1]}},
        resources=resources if stored != "source" else {},
    )
    store, local = results.parent / "store/old", results / "old/trials/0001/epoch_00003.pt"
    if stored == "target":
        local.write_text("kept")
    else:
        (store / "trials/0001").mkdir(parents=True)
        (store / "trials/0001/epoch_00003.pt").write_text("kept")
        for number in ("0000", "0003"):
            (store / "trials" / number).mkdir()
            (store / "trials" / number / "epoch_00003.pt").touch()
        (results / "old" / PLACE).write_text(json.dumps({"url": store.as_uri()}))
    fork(results, "old", new)
    found = [*results.glob("new/trials/0001/epoch_*"), *results.parent.glob("store/new-*/trials/0001/*")]
    assert [file.read_text() for file in found] == ["kept"]
    assert found[0].is_relative_to(results if stored == "source" else results.parent / "store")
