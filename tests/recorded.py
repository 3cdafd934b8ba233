"""Sweeps as they stand on disk, with made-up reports: the record is real, nothing was trained."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.cli import main
from orchestrator.definition import JOURNAL, write_definition
from orchestrator.process.environment import record_environment
from orchestrator.search.sampler import build_sampler
from orchestrator.space import Sweep, load_sweep
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study
from tests.workplace import SPACE, TINY

BROAD: dict[str, Any] = {
    "name": "broad",
    "base": "base.yaml",
    "space": {
        "model.fpn.use_fpn": {"choice": [True, False]},
        "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
        "loss.type": {"choice": ["mse", "smoothl1", "cosine"]},
        "loss.hierarchy_weights": {"choice": [[1.0, 0.5], [1.0, 1.0]]},
        "training.lr": {"loguniform": [1e-4, 1e-2]},
    },
    "search": {"algorithm": "random", "num_trials": 30, "seed": 0},
    "scheduler": {"type": "asha", "max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3},
    "confirm": {"top_k": 2, "seeds": 3},
}


def space(folder: Path, definition: dict[str, Any] = SPACE, **sections: Any) -> Sweep:
    """The sweep of a space that is written to `folder`."""
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY))
    path = folder / f"{definition['name']}.yaml"
    path.write_text(yaml.safe_dump({**definition, **sections}, sort_keys=False))
    return load_sweep(path)


def begun(results: Path, sweep: Sweep, storage: BaseStorage | None = None) -> tuple[Path, Study]:
    """A sweep's folder and its study, in which nothing has happened."""
    folder = results / sweep.config.name
    study = Study(folder, sweep, build_sampler(sweep), storage=storage)
    write_definition(folder, sweep)
    record_environment(folder)
    return folder, study


def fates(study: Study) -> None:
    """The base and six trials that go on, wait, are promoted, held up, tried again, collapse and fail."""
    metric = study.metric
    study.ask("base", study.sweep.base_values())
    for number in range(6):
        record = study.ask("search")
        metrics = {metric: 0.5 + number / 100, "train/loss": 0.1 + 0.2}
        study.report(record.number, 1, metrics, "epoch_00001.pt")
    study.report(1, 2, {"train/loss": 0.5}, "epoch_00002.pt")  # not evaluated
    study.park(2, 1)
    study.park(3, 1)
    study.promote(3)
    study.halve(4)
    study.note(4, "tried again")
    study.hold(0)
    study.hold(4)
    study.hold(4, held=False)
    study.report(5, 2, {metric: float("nan"), "train/loss": float("inf")}, None, "no spread")
    study.end(5, "collapsed", "no spread")
    study.end(6, "failed", "out of memory")


def finished(results: Path, sweep: Sweep, seed: int = 0, storage: BaseStorage | None = None) -> Path:
    """A sweep that ran to its end: two thirds of the trials stop at each rung, finalists run again."""
    folder, study = begun(results, sweep, storage)
    rng = np.random.default_rng(seed)
    base = study.ask("base", sweep.base_values())
    _run(study, base, sweep.max_epochs, rng)
    for number in range(sweep.num_trials):
        record = study.ask("search")
        stops = [rung for place, rung in enumerate(sweep.rungs) if number % 3 ** (place + 1)]
        _run(study, record, min([*stops, sweep.max_epochs]), rng)
    if sweep.config.confirm.top_k:
        for chosen in (base, *study.best_found(sweep.config.confirm.top_k)):
            for extra in range(sweep.config.confirm.seeds):
                again = study.ask_again(chosen, sweep.base.seed + 1 + extra)
                _run(study, again, sweep.max_epochs, rng)
    study.answer()
    return folder


def _run(study: Study, record: TrialRecord, epochs: int, rng: np.random.Generator) -> None:
    """Reports of a trial whose learning rate and pyramid matter."""
    values = record.values
    gain = 0.05 * bool(values.get("model.fpn.use_fpn", True)) - 0.02 * abs(
        math.log10(values.get("training.lr", 1e-3)) + 3
    )
    for epoch in range(1, epochs + 1):
        knn = 0.6 + 0.08 * math.log(epoch) + gain + 0.01 * float(rng.normal())
        seconds = 1.0 + float(rng.random())
        metrics = {"val/knn_top1": knn, "train/loss": 2.0 / epoch, "time/epoch_s": seconds}
        metrics["time/images_per_s"] = 1000 / seconds
        if record.role == "base" and epoch == 1:
            metrics |= {"raw_pixels/knn_top1": 0.95, "random_init/knn_top1": 0.6}
        study.report(record.number, epoch, metrics, None)
    study.end(record.number, "completed" if epochs == study.sweep.max_epochs else "pruned")


def read_by_optuna(folder: Path) -> JournalStorage:
    """The journal in `folder`, as Optuna's own code reads it."""
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def command(results: Path, *words: str) -> int:
    """The exit status of `hjepa-sweep WORDS --results RESULTS`, run in this process."""
    return main([*words, "--results", str(results)])
