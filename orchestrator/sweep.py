"""A sweep from its space to its answer. Running and resuming are one path: open the study, go on."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from orchestrator import cluster_address
from orchestrator.definition import DEFINITION, PLAN, require_same_sweep, write_definition, write_whole
from orchestrator.ending import BEST, DELIVERY_S, result_of
from orchestrator.engine.capacity import cluster_nodes, places, places_now
from orchestrator.engine.engine import connection, run_trials, some_ray
from orchestrator.planning.plan import outlook
from orchestrator.planning.settlement import Settled, settle
from orchestrator.process.collector import keep_for_good
from orchestrator.process.environment import record_command, record_environment
from orchestrator.process.imports import require_own_packages
from orchestrator.process.stopping import Stop
from orchestrator.reporting.caption import counted
from orchestrator.reporting.terminal import SweepResult
from orchestrator.running import SweepRun
from orchestrator.search.agenda import work_is_left
from orchestrator.search.earlier import learn, read_earlier
from orchestrator.space import ConfigError, Sweep
from orchestrator.storage.depot import open_depot, require_store
from orchestrator.storage.disk import Patience
from orchestrator.study.access import open_study
from orchestrator.study.holder import SweepLock
from orchestrator.study.place import Place, record_place, require_original
from orchestrator.study.record import standing
from orchestrator.study.study import Study
from orchestrator.tracking.tracking import Tracker, drain, undelivered
from orchestrator.watching.progress import Counts, progress


def run_sweep(
    sweep: Sweep,
    results: Path,
    tracking_uri: str,
    retry_failed: bool = False,
    place: Place | None = None,
    command: Sequence[str] = (),
    leave: Callable[[str, bool], NoReturn] | None = None,
) -> SweepResult:
    """Run a sweep to its end, or what is left of one that was interrupted.

    `place` is the database that its study is in; None: a journal in its folder. With `retry_failed`, its
    failed trials are taken up again first. `command`, without secrets, is kept for the report. `leave` ends
    the process at once where the sweep's Ray has died, told why and whether the sweep was to stop anyway.

    Raises ConfigError, before anything is written, where the results folder belongs to another
    sweep or is a copy of one in a database, or a trial cannot be placed; KeyboardInterrupt leaves a
    sweep that can be gone on with.
    """
    folder = results / sweep.config.name
    settled = _require_startable(sweep, results, place)
    with ExitStack() as stack:
        study, stop, patience = _begin(settled, results, place, stack)
        record_environment(folder)
        if command:
            record_command(folder, command)
        if retry_failed:
            for record in standing(study.trials.values()):
                if record.outcome == "failed":
                    study.take_up(record)
        if _is_answered(folder, study) and not work_is_left(settled.sweep, study):
            late = drain(folder, tracking_uri, DELIVERY_S, lambda: stop.asked) if undelivered(folder) else 0
            return result_of(folder, settled.sweep, study, late)
        return _run_to_its_end(settled, folder, study, tracking_uri, stop, patience, leave)


def _require_startable(sweep: Sweep, results: Path, place: Place | None) -> Settled:
    """The sweep with what is chosen for it here. Whatever may refuse it does, before anything is written."""
    require_own_packages()
    if cluster_address() is None:
        places(sweep.config.resources)
    folder = results / sweep.config.name
    require_same_sweep(folder, sweep)
    require_original(folder, place)
    if not (folder / DEFINITION).exists():
        read_earlier(results, sweep)
    checkpoints = sweep.config.resources.checkpoints
    if checkpoints is not None and not (folder / BEST).exists():
        require_store(checkpoints)
    return settle(sweep, folder, _announce)


def _begin(
    settled: Settled, results: Path, place: Place | None, stack: ExitStack
) -> tuple[Study, Stop, Patience]:
    """The study of a sweep, new or gone on with, under the sweep's lock; signals ask to stop from now on."""
    sweep = settled.sweep
    folder, address = results / sweep.config.name, cluster_address()
    if address is not None and not (folder / DEFINITION).exists():
        # Which may refuse, so before anything else.
        stack.enter_context(connection(sweep.config.resources, address))
    lock = SweepLock(folder)
    stack.callback(lock.release)
    require_same_sweep(folder, sweep)  # another process may have begun one meanwhile
    stop = stack.enter_context(Stop())
    patience = Patience(stop.pause)
    patience(lambda: settled.record(folder))
    if place is None:  # before the journal, which nobody could go on with alone
        patience(lambda: write_definition(folder, settled.defined))
    study = open_study(folder, sweep, place, patience, stack)
    learn(study, results)
    if place is not None:  # not before: the database may refuse, or be the wrong one
        record_place(folder, place)
        write_definition(folder, settled.defined)
    return study, stop, patience


def _run_to_its_end(
    settled: Settled,
    folder: Path,
    study: Study,
    tracking_uri: str,
    stop: Stop,
    patience: Patience,
    leave: Callable[[str, bool], NoReturn] | None,
) -> SweepResult:
    """Run what is left of a sweep, and write its answer."""
    sweep, resources = settled.sweep, settled.sweep.config.resources
    counts = Counts(total=sweep.num_trials + 1 + sweep.num_confirmations)
    try:
        tracker = Tracker(folder, tracking_uri, sweep.config.name, study.id, patience)
    except ValueError as error:
        raise ConfigError(f"{error}; move that folder away, or name this sweep differently.") from None
    run = SweepRun(folder, sweep, study, tracker, counts, stop, patience, open_depot(folder, sweep, study))
    keep_for_good()
    with ExitStack() as stack:
        try:
            if work_is_left(sweep, study):
                stop.check()
                shown = progress(study.metric, sweep.max_epochs, counts, run.status)
                run.progress = stack.enter_context(shown)

                def lost(reason: str) -> None:
                    if leave is not None:
                        shown.__exit__()
                        leave(reason, stop.asked)

                with some_ray(resources, folder, lost) as scratch:
                    patience.say = run.progress.note
                    for line in (opening(sweep, study), *settled.words):
                        run.progress.note(line)
                    write_plan(folder, sweep)
                    run_trials(resources, run.next_trial, run, stop, scratch)
            run.ending.write()
        except BaseException:
            run.ending.abandon(stop)
            raise
        late = tracker.close(DELIVERY_S, lambda: stop.asked)
    return result_of(folder, sweep, study, late)


def _is_answered(folder: Path, study: Study) -> bool:
    """Whether all that the study knows has gone into an answer that is still there."""
    return study.is_answered and (study.best() is None or (folder / BEST).exists())


def _announce(text: str) -> None:
    print(f"hjepa-sweep: {text}", file=sys.stderr, flush=True)


def write_plan(folder: Path, sweep: Sweep) -> None:
    """Write what is expected of the sweep, once: on which it is judged in the end."""
    if not (folder / PLAN).exists():
        write_whole(folder / PLAN, outlook(sweep, places_now(sweep.config.resources)))


def opening(sweep: Sweep, study: Study) -> str:
    """What there is to do, and how much of it is done."""
    again = sweep.num_confirmations
    runs = [counted(sweep.num_trials, "trial"), "the base config"]
    runs += [f"{counted(again, 'run')} with fresh seeds"] if again else []
    over = sum(record.outcome is not None for record in standing(study.trials.values()))
    going_on = f", {over} of them over already" if over else ""
    if cluster_address() is None:
        at_a_time = f"{places(sweep.config.resources)} at a time"
    else:
        at_a_time = f"on a cluster of {counted(len(cluster_nodes()), 'node')}"
    return (
        f"{sweep.config.name}: {', '.join(runs[:-1])} and {runs[-1]}{going_on}, "
        f"{at_a_time}, up to {counted(sweep.max_epochs, 'epoch')}"
        + (f", rungs at {', '.join(map(str, sweep.rungs))}" if sweep.rungs else "")
    )
