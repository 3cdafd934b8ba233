"""A new sweep that begins with the finished trials of another one."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.definition import SPACE, find_sweep, require_empty, write_definition
from orchestrator.planning.settlement import settle
from orchestrator.space import ConfigError, RunConfig, Sweep, load_sweep
from orchestrator.space.keys import value_at
from orchestrator.space.space import effective
from orchestrator.storage.checkpoints import trial_folder
from orchestrator.storage.depot import depot_in, open_depot
from orchestrator.storage.disk import Patience
from orchestrator.storage.store import Store
from orchestrator.study.access import open_study
from orchestrator.study.holder import SweepLock
from orchestrator.study.place import Place, place_of, record_place
from orchestrator.study.reading import read_study
from orchestrator.study.record import Role, TrialRecord
from orchestrator.study.study import Study


def fork(results: Path, name: str, sweep: Sweep, place: Place | None = None) -> list[str]:
    """Make the folder of `sweep` with what fits of the finished trials of `name`; what was done, in lines.

    A trial fits where the new sweep would run the very same config for it. The folder appears whole or
    not at all, and so does the study, in that folder or in the database `place`; where both are there
    already, the sweep only goes on. Raises ConfigError where there is no sweep `name`, or the new one's
    folder or database holds something else, or another process runs or makes it.
    """
    source, target = find_sweep(results, name), results / sweep.config.name
    if source == target:
        raise ConfigError(f"--fork {name}: must be another name than the sweep's own.")
    if (target / SPACE).exists():
        return [f"{sweep.config.name}: is there already, and goes on"]
    require_empty(target)
    other = load_sweep(source / SPACE, check_data=False)
    judged, judges = other.config.objective.metrics, sweep.config.objective.metrics
    if not set(judges) <= set(judged):
        raise ConfigError(
            f"--fork {sweep.config.name}: {name} was judged by {', '.join(judged)}, "
            f"this sweep by {', '.join(judges)}; nothing could be taken over."
        )
    with ExitStack() as stack:
        # Nobody else begins a sweep of that name meanwhile, nor forks into it.
        lock = SweepLock(target)
        stack.callback(lock.release)
        if (target / SPACE).exists():
            return [f"{sweep.config.name}: is there already, and goes on"]
        require_empty(target)
        half_made = results / f".{sweep.config.name}.fork"
        shutil.rmtree(half_made, ignore_errors=True)
        settled = settle(sweep, source)  # its trials are to go on with the threads that they had
        sweep = settled.defined
        write_definition_into(half_made, sweep)
        settled.record(half_made)
        if place is not None:
            record_place(half_made, place)
        known = read_study(source, place_of(source, None))
        refused: Counter[str] = Counter()
        gone = 0
        study = open_study(half_made, sweep, place, Patience(), stack, forking=target)
        here, there = open_depot(half_made, sweep, study), depot_in(source)
        for record in known:
            fitting = _as_here(record, other, sweep, study)
            if isinstance(fitting, str):
                refused[fitting] += 1
                continue
            role, values = fitting
            if role == "base" and record.role != "base" and not record.references:
                beside = _measured_beside(record, other, known)
                if beside is None:
                    refused["the base config, which is run here to measure what learning has to beat"] += 1
                    continue
                first = min(record.reports)
                reports = {**record.reports, first: {**record.reports[first], **beside}}
                record = replace(record, reports=reports)
            taken = study.take_over(record, values, role, origin=f"trial {record.id} of {name}")
            files, copies = trial_folder(source, record), trial_folder(half_made, taken)
            if files.exists():
                shutil.copytree(files, copies)
            if record.kept:
                own = there and there.folder(record), here and here.folder(taken)
                gone += not _carry(record.kept, *own, copies)
        lock.release()  # whose file goes with the folder
        shutil.rmtree(target, ignore_errors=True)
        os.rename(half_made, target)
    lines = [f"{sweep.config.name}: {len(study.trials)} finished trials of {name} taken over"]
    if gone and there is not None:
        lines.append(f"  {gone} of them without the checkpoint, which is no longer in {there.store}")
    return [*lines, *(f"  not taken: {count}, {reason}" for reason, count in sorted(refused.items()))]


def _carry(name: str, there: Store | None, here: Store | None, folder: Path) -> bool:
    """Bring a checkpoint from the one sweep's store to the other's; None: the trial's own `folder` has it.

    False where the store has it no more: buckets have rules by which files expire.
    """
    try:
        if there and here:
            there.send(name, here)
        elif there:
            there.fetch(name, folder / name)
        elif here and (folder / name).exists():
            here.put(folder / name, name)
            (folder / name).unlink()
    except FileNotFoundError:
        return False
    return True


def _measured_beside(
    record: TrialRecord, other: Sweep, known: Iterable[TrialRecord]
) -> Mapping[str, float] | None:
    """What a trial of the sweep `other` has to beat, where that is the same as for its base, and measured."""
    if _what_they_depend_on(other.resolve(record.values)) != _what_they_depend_on(other.base):
        return None
    return next((base.references for base in known if base.role == "base" and base.references), None)


def _what_they_depend_on(run: RunConfig) -> dict[str, Any]:
    """Training does not change them."""
    data = effective(run)
    return {
        **{name: data[name] for name in ("seed", "data", "model")},
        "knn": data["evaluation"]["knn"],
        "use_amp": data["training"]["use_amp"],
    }


def write_definition_into(folder: Path, sweep: Sweep) -> None:
    """Make `folder` with the definition of `sweep`."""
    folder.mkdir(parents=True)
    write_definition(folder, sweep)


def _as_here(
    record: TrialRecord, other: Sweep, sweep: Sweep, study: Study
) -> tuple[Role, dict[str, Any]] | str:
    """A trial's role and values in the new sweep, or why it does not fit."""
    if record.outcome is None:
        return "not finished"
    if record.outcome == "failed":
        return "failed"
    if record.role == "confirm":
        return "runs with fresh seeds, which are done again"
    if record.halved:
        return "ran at half the micro-batch"
    if record.last(sweep.config.objective.metric) is None:
        return "without a value"
    run = other.resolve(record.values)
    data = run.model_dump(mode="json")
    if effective(run) == effective(sweep.base):
        if study.base() is not None:
            return "the base config again"
        if record.outcome == "pruned":
            return "the base config, which is run to the end here"
        return "base", sweep.base_values() or {}
    if record.outcome == "pruned" and max(record.reports) not in sweep.rungs:
        return "stopped early, where no trial is stopped here"
    values = sweep.complete(lambda key: value_at(data, key))
    outside = [key for key, value in values.items() if value not in sweep.config.space[key]]
    if outside:
        return f"outside the new space: {', '.join(outside)}"
    if refused := sweep.refused(values):
        return f"in the new space it {refused}"
    try:
        same = effective(sweep.resolve(values)) == effective(run)
    except ConfigError:
        same = False
    if not same:
        return "its config differs in what the new space does not vary"
    return "search", values
