"""What travels to a cluster: the sweep, the code that runs here, and the files that the profile names."""

import fnmatch
import importlib.util
import io
import zipfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.cluster.base import Submission
from orchestrator.process.environment import needed
from orchestrator.space import ConfigError

CODE = ("hjepa", "orchestrator")
"""Packages of this project."""
SWEEP = "sweep"
"""Folder of the package for the sweep's own files."""
NEVER = (".*", "__pycache__", "*.pyc", "*.egg-info", "node_modules", "mlruns", "mlflow.db*", "build", "dist")
"""Names of files and folders that stay here, whatever the profile says; so do the results and data/."""
DATA = "data"
NAMED = 5
"""How many of the largest files a refusal names."""
GIVEN_BY_CLUSTER = {"ray"}
"""Packages that a job takes as the cluster has them."""
EXTRAS = ("sweep", "records", "parquet", "postgres")
"""Of this project's packages, those that a sweep may use."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(submission: Submission | None, patterns: Sequence[str], results: Path, limit: int) -> bytes:
    """A zip of it all, the same for the same contents. ConfigError where it is `limit` bytes or more.

    `patterns` are globs below the working folder; one that finds nothing that may go along is refused.
    """
    texts = submission.files() if submission is not None else {}
    contents = {f"{SWEEP}/{name}": text.encode() for name, text in texts.items()}
    for file, name in [*_code(), *_chosen(patterns, results)]:
        contents.setdefault(name, file.read_bytes())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), contents[name], zipfile.ZIP_DEFLATED)
    packed = buffer.getvalue()
    if len(packed) >= limit:
        sizes = sorted(((len(data), name) for name, data in contents.items()), reverse=True)[:NAMED]
        raise ConfigError(
            f"files: what would be sent is {_size(len(packed))} packed, and Ray takes less than "
            f"{_size(limit)}. The largest:\n"
            + "\n".join(f"  {_size(size):>10}  {name}" for size, name in sizes)
            + "\nPut large files where the cluster's nodes find them, and name them there by `set`."
        )
    return packed


def requirements() -> list[str]:
    """The packages that a sweep needs, and those of its extras that are installed here, in the versions that
    run here."""
    found: dict[str, str] = {}
    for requirement in needed(*EXTRAS):
        number = _version(requirement.name)
        if number is not None and requirement.name not in GIVEN_BY_CLUSTER:
            inside = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            found[f"{requirement.name}{inside}"] = number
    return [f"{name}=={number}" for name, number in sorted(found.items())]


def _version(name: str) -> str | None:
    """Of a package as an index knows it, without a build's own label such as +cu128; None: not installed."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def _code() -> Iterable[tuple[Path, str]]:
    for package in CODE:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*")):
            inside = file.relative_to(root)
            if file.is_file() and not _stays(inside):
                yield file, f"{package}/{inside.as_posix()}"


def _chosen(patterns: Sequence[str], results: Path) -> Iterable[tuple[Path, str]]:
    here, kept_here = Path.cwd(), results.resolve()
    for pattern in patterns:
        try:
            found = [file for file in sorted(here.glob(pattern)) if file.is_file()]
        except (NotImplementedError, ValueError):  # a whole path, or ** within a name
            raise ConfigError(
                f"files: {pattern}: is no glob of files below {here}, such as weights/*.safetensors."
            ) from None
        if not found:
            raise ConfigError(f"files: {pattern}: no such file below {here}.")
        inside = {file: file.relative_to(here) for file in found}
        going = [
            (file, name.as_posix())
            for file, name in inside.items()
            if not (name.parts[0] == DATA or _stays(name) or file.resolve().is_relative_to(kept_here))
        ]
        if not going:
            raise ConfigError(
                f"files: {pattern}: all that it finds stays here: data/, results, caches, hidden files and "
                f"what is not below {here} do."
            )
        yield from going


def _stays(inside: Path) -> bool:
    return any(fnmatch.fnmatch(part, pattern) for part in inside.parts for pattern in NEVER)


def _size(amount: float) -> str:
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"
