"""What a config says that is legal and still likely to hurt: the audit's warnings on paths and names."""

import re
from collections.abc import Iterator
from pathlib import PurePath

from hjepa.config import RunConfig
from hjepa.schema import Config, dotted

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
