"""The configs that come with the project: found by name, and described by the comments at their heads."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hjepa.config import RunConfig, load_config
from hjepa.schema import ConfigError, Layers, read_mapping

ROOT = Path(__file__).resolve().parents[1]
"""Of the checkout; there is nothing of ours where the package is installed without one."""

FOLDERS = ("core", "quick", "m1_max", "foundation", "features", "archive")
"""Of configs/, in reading order."""

FIELDS = ("Purpose", "Hardware", "Use it", "Beside")
"""What the comment at the head of each config says."""

CHECKED = "Checked"
"""What it says besides, where figures were measured."""

REPLACED = "Replaced by"
"""What it says besides, where another config took over."""


def find_config(given: str) -> Path:
    """The file that `given` means: a path, or the name of a config that comes with the project.

    `quick_validation` and `configs/quick_validation.yaml`, where old configs lay, both mean
    configs/quick/quick_validation.yaml, of the working folder before the checkout. Raises ConfigError
    for a bare name that is none.
    """
    path = Path(given)
    if path.exists():
        return path
    known = _names()
    if path.suffix in (".yaml", ".yml"):
        return known.get(path.stem, path) if path.parent == Path("configs") else path
    if path.parent != Path():
        return path
    if path.name not in known:
        near = difflib.get_close_matches(path.name, known, n=1)
        nearest = f" Nearest: {near[0]}." if near else ""
        raise ConfigError(f"{given}: no such file, and no config of that name below configs/.{nearest}")
    return known[path.name]


def is_config(name: str) -> bool:
    """Whether a bare `name` is that of a config that comes with the project."""
    return name in _names()


def _names() -> dict[str, Path]:
    """Every config by its bare name."""
    found: dict[str, Path] = {}
    for root in (ROOT / "configs", Path("configs")):
        for folder in FOLDERS:
            found |= {path.stem: path for path in sorted((root / folder).glob("*.yaml"))}
    return found


def head(path: Path) -> dict[str, str]:
    """What the comment at the head of a config says, by field; see FIELDS."""
    found: dict[str, str] = {}
    field = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        start = re.match(r"# ([A-Z][a-z]+(?: [a-z]+)?): (.+)", line)
        if start:
            field = start[1]
            found[field] = start[2]
        elif field and line.startswith("#   "):
            found[field] += f" {line[1:].strip()}"
        else:
            field = None
    return found


def replacement(path: Path) -> str | None:
    """The config, from configs/, that took over from the one at `path`; None: it stands."""
    return head(path).get(REPLACED) if path.is_file() else None


@dataclass(frozen=True)
class Entry:
    """One config of the project."""

    path: Path
    """From configs/."""
    head: dict[str, str]
    extends: str | None
    """The config that it builds on, from configs/."""
    own: dict[str, None]
    """The keys that it sets itself, dotted, in file order."""
    config: RunConfig

    @property
    def name(self) -> str:
        return self.path.stem


def entries(configs: Path = ROOT / "configs") -> Iterator[Entry]:
    """Every config below `configs`, folder by folder, by name.

    Raises ConfigError on one that is not valid.
    """
    for folder in FOLDERS:
        for path in sorted((configs / folder).glob("*.yaml")):
            data = read_mapping(path)
            parent = data.pop("extends", None)
            layers = Layers()
            layers.add(data, str(path))
            sections = {key.rpartition(".")[0] for key in layers.sources}
            yield Entry(
                path=path.relative_to(configs),
                head=head(path),
                extends=parent and (path.parent / parent).resolve().relative_to(configs.resolve()).as_posix(),
                own={key: None for key in layers.sources if key not in sections},
                config=load_config(path),
            )
