"""What a run has in common with the checkpoint that it goes on from."""

import json
from collections.abc import Mapping
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

    Keys that have no effect in the run, and those that the checkpoint's version had not, are passed over.
    """
    present, found = config.model_dump(mode="json"), []
    for key, field in leaves(RunConfig):
        wanted = key in _SAME or (key.startswith("model.") and not key.startswith(_FREE))
        if not wanted or not has_effect(field) or inert_reason(config, key):
            continue
        was, now = _value(saved, key), _value(present, key)
        if was is not _ABSENT and was != now:
            found.append(f"{key} was {json.dumps(was)}, is {json.dumps(now)}")
    return found


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
