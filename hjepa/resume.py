"""What a run has in common with the checkpoint that it goes on from, or with an earlier run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hjepa.config import RunConfig
from hjepa.data.split import Held
from hjepa.schema import has_effect, inert_reason, leaves

# With another split, images that were learnt from would be evaluated on.
_SAME = ("data.split_seed", "data.val_fraction", "training.optimizer")
# Of model, what says how it is trained or begun, not what its weights mean.
_FREE = (
    "model.pretrained",
    "model.layerscale_init",
    "model.drop_path_rate",
    "model.predictor.dropout",
    "model.ema.",
)
_ABSENT = object()


def differences(saved: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Of a checkpoint's config `saved` and the run's: `key was X, is Y`, for each key that must be the same.

    Keys that have no effect on the model as it is built, and those that the checkpoint's version had not,
    are passed over.
    """
    return [_told(*found) for found in _changed(saved, config) if _must_be_the_same(config, found[0])]


def changes(saved: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Of the config `saved` of an earlier run and the present one's: what keeps them from being one run.

    As `differences`, of every key that has an effect but training.epochs. Of a path only the last part
    counts: a job's scratch disk has another name each time.
    """
    return [
        _told(key, was, now)
        for key, was, now in _changed(saved, config)
        if key != "training.epochs" and _plain(was) != _plain(now) and not inert_reason(config, key)
    ]


def _changed(saved: Mapping[str, Any], config: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Each key that may have an effect and has another value: key, value in `saved`, value now."""
    present = config.model_dump(mode="json")
    for key, field in leaves(RunConfig):
        was, now = _value(saved, key), _value(present, key)
        if was != now and _ABSENT not in (was, now) and has_effect(field):
            yield key, was, now


def _must_be_the_same(config: RunConfig, key: str) -> bool:
    if not key.startswith("model."):
        return key in _SAME and not inert_reason(config, key)
    # By the model's own reasons: what the loss leaves unused has weights in the file all the same.
    return not key.startswith(_FREE) and not inert_reason(config.model, key.removeprefix("model."))


def _told(key: str, was: Any, now: Any) -> str:
    return f"{key} was {json.dumps(was)}, is {json.dumps(now)}"


def _plain(value: Any) -> Any:
    """`value` with the last part of each path for the path."""
    if isinstance(value, str):
        return Path(value).name
    if isinstance(value, Mapping):
        return {name: _plain(below) for name, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, list) else value


def split_otherwise(saved: Mapping[str, Mapping[str, Any]] | None, held: Mapping[str, Held]) -> list[str]:
    """What is held out of each data set that was not held out so in the run of a checkpoint, which holds
    `saved`; None, of an older version, tells nothing.

    Data sets that are no longer learnt from do no harm.
    """
    if saved is None:
        return []
    known, found = {one["digest"] for one in saved.values()}, []
    for name, now in held.items():
        was = saved.get(name)
        if now.digest in known:
            continue
        if was is None:
            found.append(f"{name} was not learnt from")
        elif (was["images"], was["held"]) == (now.images, now.held):
            found.append(f"of {name} there are as many images, but others")
        else:
            found.append(
                f"of {name} it was {was['held']} of {was['images']} images, is {now.held} of {now.images}"
            )
    return found


def _value(nested: Mapping[str, Any], key: str) -> Any:
    value: Any = nested
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value
