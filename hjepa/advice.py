"""What a config says that is legal and still likely to hurt: the audit's warnings on paths and names, and
what is said in vain."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from hjepa.config import RunConfig
from hjepa.schema import Config, Layers, dotted, inert_reason

_PLACEHOLDER = re.compile(r"^/?path/to/|/path/to/|your[-_]|<[^>]+>|\bCHANGE_?ME\b", re.IGNORECASE)
_PATH_KEY = re.compile(r"(^|[._])(path|dir|list|resume|pretrained)$")


def advice(config: RunConfig) -> Iterator[str]:
    """One line for each value to think about, with its key and what to do."""
    for key, value in paths(config):
        if _PLACEHOLDER.search(value):
            yield f"{key}: {value!r} is a placeholder; name a real path, relative to where you start the run."
        elif value == "/tmp" or value.startswith(("/tmp/", "/var/tmp/")):  # noqa: S108
            yield f"{key}: {value!r} is below /tmp, which others can read and the system may empty."
        elif PurePath(value).is_absolute() or value.startswith("~"):
            yield f"{key}: {value!r} is absolute, and so good for one machine; take a relative path."
    rise, epochs = config.model.ema.momentum_warmup_epochs, config.training.epochs
    if config.model.use_target_encoder and config.model.ema.momentum_end == 1 and rise and rise < epochs:
        yield (
            f"model.ema.momentum_warmup_epochs: {rise:g} of {epochs} epochs, after which the target stands "
            "still, for momentum_end is 1; null spreads the rise over the whole run."
        )
    if config.logging.wandb.entity is not None:
        yield (
            "logging.wandb.entity: names a person or a team; leave it null in files that are shared, and set "
            "WANDB_ENTITY."
        )


def paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Every key that holds a path, and the path; of lists of maps, each."""
    for key, value in dotted(config).items():
        if isinstance(value, str) and _PATH_KEY.search(key) and value != "auto":
            yield key, value
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                if isinstance(item, Config):
                    yield from (
                        (f"{key}[{number}].{name}", inner)
                        for name, inner in dotted(item).items()
                        if isinstance(inner, str) and _PATH_KEY.search(name)
                    )


def without_effect(config: RunConfig, layers: Layers, path: Path) -> dict[str, str]:
    """What the file or the command line set that has no effect in `config`, by key, and why, in words.

    What a file takes over from those that it extends is not its own to mend.
    """
    return {
        key: f"is set ({source}) and has no effect: {reason}"
        for key, source in own_settings(config, layers, path)
        if (reason := inert_reason(config, key))
    }


def own_settings(config: RunConfig, layers: Layers, path: Path) -> Iterator[tuple[str, str]]:
    """Each key that the file or the command line gave a value other than its default, and its source."""
    for key, value, default in _settings(config):
        source = layers.sources.get(key.partition("[")[0], "")
        if value != default and (source == str(path) or source.startswith("--set")):
            yield key, source


def _settings(config: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Every key with its value and its default; after a list, its elements, and the keys of those that are
    maps, as `training.betas[1]` and `data.datasets[0].path`."""
    defaults = dotted(RunConfig())
    for key, value in dotted(config).items():
        yield key, value, defaults[key]
        elements: tuple[Any, ...] = value if isinstance(value, tuple) else ()
        for number, element in enumerate(elements):
            where = f"{key}[{number}]"
            if isinstance(element, Config):
                for name, field in type(element).model_fields.items():
                    yield f"{where}.{name}", getattr(element, name), field.default
            else:
                yield where, element, next(iter(defaults[key][number : number + 1]), None)
