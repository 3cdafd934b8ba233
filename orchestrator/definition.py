"""What a results folder says of its sweep, and whether that is the one that is asked for."""

import difflib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.space import ConfigError, is_replaceable

if TYPE_CHECKING:
    from orchestrator.space import Sweep

DEFINITION, SPACE, BASE = "definition.json", "sweep.yaml", "base.yaml"
PLAN, REPORT, PAGE = "plan.txt", "report", "index.html"
"""What was expected of the sweep at its start; the folder of what is found in the end."""
JOURNAL = "study.journal"
"""The study, where no database keeps it."""
BEGINNING = {"lock", "storage.json", "packing.json", DEFINITION, SPACE, BASE}
"""Files that are there before the sweep begins; so may be hidden ones, of which others were to be made."""


def write_definition(folder: Path, sweep: "Sweep") -> None:
    """Write the sweep into its folder, such that `load_sweep(folder / SPACE)` gives it again."""
    from orchestrator.space import to_yaml  # imports pydantic, which readers need not

    write_whole(folder / DEFINITION, json.dumps(telling(sweep), indent=1))
    write_whole(folder / SPACE, sweep.to_yaml())
    write_whole(folder / BASE, to_yaml(sweep.base))


def telling(sweep: "Sweep") -> dict[str, Any]:
    """What tells a sweep from others."""
    total = sweep.num_trials + 1 + sweep.num_confirmations
    return {"fingerprint": sweep.fingerprint(), "trials": total, "definition": sweep.definition()}


def require_same_sweep(folder: Path, sweep: "Sweep") -> None:
    """Raise ConfigError where `folder` holds another sweep, or something else. Writes nothing.

    A sweep that has not begun, for its start was cut off, is none.
    """
    if not _has_begun(folder) or not (folder / DEFINITION).exists():
        require_empty(folder)
        return
    require_same(_telling(folder), sweep, f"{folder} holds", " or move that folder away.")


def require_same(before: Mapping[str, Any], sweep: "Sweep", holds: str, or_else: str) -> None:
    """Raise ConfigError where `before`, a fingerprint and definition, is not of `sweep`."""
    if before["fingerprint"] == sweep.fingerprint():
        return
    raise ConfigError(
        f"{sweep.path}: name: {sweep.config.name} is taken: {holds} another sweep.\n"
        + "\n".join(_changes(before["definition"], sweep.definition()))
        + "\nName this one differently by --set name=NAME, or by --fork NAME, which also takes over the "
        "finished trials that fit;" + or_else
    )


def require_empty(folder: Path) -> None:
    """Raise ConfigError where `folder` holds anything but what a process leaves that died at its start."""
    if _has_begun(folder):
        raise ConfigError(
            f"{folder}: holds files but no sweep; name another folder by --results, or another sweep "
            "by --set name=NAME."
        )


def _has_begun(folder: Path) -> bool:
    """Whether `folder` holds anything that is not there before a sweep begins."""
    if not folder.exists():
        return False
    return any(file.name not in BEGINNING and not file.name.startswith(".") for file in folder.iterdir())


def _telling(folder: Path) -> dict[str, Any]:
    """Fingerprint and definition of the sweep in `folder`; from the YAML files where the first is damaged."""
    try:
        found = json.loads((folder / DEFINITION).read_text(encoding="utf-8"))
        return {"fingerprint": found["fingerprint"], "definition": dict(found["definition"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        try:
            from orchestrator.space import load_sweep  # imports torch

            sweep = load_sweep(folder / SPACE, check_data=False)
        except ConfigError:
            raise ConfigError(f"{folder / DEFINITION}: cannot be read: {error}.") from None
        return {"fingerprint": sweep.fingerprint(), "definition": sweep.definition()}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = flat(before), flat(after)
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    lines = [f"  {key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} here" for key in changed]
    return [*lines[:12], *([f"  and {len(lines) - 12} more"] if len(lines) > 12 else [])]


def sweep_folders(results: Path) -> list[Path]:
    """The folders in `results` that hold a sweep, by name; hidden ones hold what is half made."""
    folders = (path.parent for path in results.glob(f"*/{DEFINITION}"))
    return sorted(folder for folder in folders if not folder.name.startswith("."))


def find_sweep(results: Path, name: str) -> Path:
    """The folder of a sweep by its name. ConfigError, with the nearest one, where there is none."""
    names = [folder.name for folder in sweep_folders(results)]
    if name in names:
        return results / name
    if not names:
        raise ConfigError(f"{name}: no such sweep: {results} holds none; is --results right?")
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    nearest = f" Nearest: {near[0]}." if near else ""
    raise ConfigError(f"{name}: no such sweep in {results}.{nearest} There: {', '.join(names[:12])}.")


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested data by dotted key, values as JSON."""
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a plain file whole or not at all. Who may read it is the umask's to say."""
    with beside(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def copy_whole(source: Path, path: Path) -> None:
    """The same with what is in another file, which may be large."""
    with beside(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Within, a name beside `path`, which the file of that name gets in the end.

    What is not to be replaced, as a device or a link, is written itself.
    """
    if not is_replaceable(path):
        yield path
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
