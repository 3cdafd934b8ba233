"""What the commands share that let a sweep run."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from orchestrator.reporting.terminal import SweepResult
    from orchestrator.space import Sweep
    from orchestrator.study.place import Place

FAILED, USER_ERROR, PARTIAL, INTERRUPTED = 1, 2, 3, 130
DATABASE = "mlflow.db"


def reason_of(error: Exception) -> str:
    """What a ConfigError or OSError says, to whom it concerns."""
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def add_tracking(parser: argparse.ArgumentParser, default: str) -> None:
    """The option that names MLflow's store."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow's store or server (default: {default}). MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD hold what a server asks for",
    )


def add_changes(parser: argparse.ArgumentParser) -> None:
    """The options that change a search space for this command."""
    parser.add_argument(
        "--base",
        metavar="CONFIG",
        help="run config to vary, in place of the space's: a file, or a name of configs/",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the sweep (scheduler.max_epochs=9, name=again) or of the base config "
        "(training.warmup_epochs=2); may be repeated",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="how many, in place of search.num_trials")


def add_storage(parser: argparse.ArgumentParser, default: str) -> None:
    """The option that names the database of the study."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"database that keeps the study, such as postgresql://user@host/database (default: {default}). "
        "HJEPA_STORAGE names it too, and may hold its password",
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    """The option that names a Ray cluster."""
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="run on the Ray cluster there, HOST:PORT or auto, whose nodes all see the data and, "
        "without resources.checkpoints, the results folder (default: RAY_ADDRESS, else a Ray of the sweep's "
        "own on this machine)",
    )


def require_alone(options: argparse.Namespace, *here: str) -> None:
    """ConfigError where `--to` stands beside one of the options `here`, which would count for nothing."""
    from orchestrator.space import ConfigError

    given = [f"--{name.replace('_', '-')}" for name in here if getattr(options, name) is not None]
    if given:
        raise ConfigError(
            f"--to {options.to}: excludes {', '.join(given)}: there the sweep's own record and the profile "
            "say that."
        )


def hide_passwords(options: argparse.Namespace) -> list[str]:
    """The command line without the secrets of `--storage` and `--tracking-uri`, which go to the environment.

    A command line is seen by everybody on the machine, and Ray writes it to its logs.
    """
    from orchestrator.study.place import VARIABLE, Place
    from orchestrator.tracking.tracking import VARIABLE as TRACKING
    from orchestrator.tracking.tracking import bare_uri

    shown: list[str] = options.given
    storage: str | None = getattr(options, "storage", None)
    place = Place.parse(storage, "--storage") if storage else None
    if storage is not None and place is not None and place.is_secret:
        os.environ[VARIABLE] = storage
        shown = [word.replace(storage, str(place)) for word in shown]
    tracking: str | None = getattr(options, "tracking_uri", None)
    if tracking:
        _require_uri(tracking, "--tracking-uri")
    if tracking and bare_uri(tracking) != tracking:
        os.environ[TRACKING] = tracking
        shown = [word.replace(tracking, bare_uri(tracking)) for word in shown]
    return shown


def checked_uri(uri: str) -> str:
    """`uri` with the secrets that it was given with, or ConfigError where MLflow could not take it."""
    from orchestrator.tracking.tracking import VARIABLE, bare_uri

    _require_uri(uri, "--tracking-uri")
    whole = os.environ.pop(VARIABLE, None)  # trials have no business with it
    return whole if whole is not None and bare_uri(whole) == uri else uri


def _require_uri(uri: str, said_by: str) -> None:
    from orchestrator.space import ConfigError
    from orchestrator.tracking.tracking import absolute_uri

    try:
        absolute_uri(uri)
    except ValueError as error:
        raise ConfigError(f"{said_by}: {error}.") from None


def store_of(folder: Path, given: str | None) -> str:
    """MLflow's store as given, else the one that the sweep in `folder` writes to."""
    from orchestrator.tracking.spool import Cursor

    if given is not None:
        return checked_uri(given)
    cursor = Cursor.load(folder)
    known = "" if cursor is None else cursor.uri or cursor.store
    file, beside = Path(known.removeprefix("sqlite:///")), folder.parent / DATABASE
    # Where the results were moved it is not made again in the old place.
    moved = file.name == DATABASE and not file.exists() and beside.exists()
    return default_store(folder.parent) if moved or not known else known


def default_store(results: Path) -> str:
    """The MLflow database beside the sweeps."""
    return f"sqlite:///{results / DATABASE}"


def go(
    work: "Callable[[list[str], Callable[[str, bool], NoReturn]], SweepResult]",
    sweep: "Sweep",
    tracking: str,
    again: list[str],
    place: "Place | None" = None,
) -> int:
    """Let a sweep run, and say what it found; the exit status. `again` are the words that go on with it,
    and `work` takes the whole command, and what ends this process where the sweep's Ray has died."""
    from orchestrator.reporting.terminal import summary
    from orchestrator.study.place import VARIABLE, withheld
    from orchestrator.tracking.tracking import bare_uri

    secret = place is not None and place.is_secret
    command = ["hjepa-sweep", *again]
    way_on = (
        f"what was reported is kept. Go on with:\n  {shlex.join(command)}"
        + (f"\nwith {VARIABLE} set to the URL of {place} with its password" if secret else "")
        + ("\nwith the password in --tracking-uri" if bare_uri(tracking) != tracking else "")
    )

    def leave(reason: str, stopping: bool) -> NoReturn:
        print(f"\nhjepa-sweep: {reason}; {way_on}", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED if stopping else FAILED)  # for threads that wait for Ray hear nothing

    try:
        with withheld():
            result = work(command, leave)
    except KeyboardInterrupt:
        print(f"\nhjepa-sweep: interrupted; {way_on}", file=sys.stderr)
        return INTERRUPTED
    print(summary(result, sweep, tracking))
    if result.best is None:
        return FAILED
    return PARTIAL if result.failed else 0
