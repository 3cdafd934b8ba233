"""What a run has in common with the checkpoint that it goes on from."""

import json
from collections.abc import Mapping
from typing import Any

from hjepa.config import RunConfig
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
    present, found = config.model_dump(mode="json"), []
    for key, field in leaves(RunConfig):
        wanted = key in _SAME or (key.startswith("model.") and not key.startswith(_FREE))
        # Of the model's own reasons only: what the loss leaves unused has weights in the file all the same.
        of_model = key.startswith("model.") and inert_reason(config.model, key.removeprefix("model."))
        if not wanted or not has_effect(field) or of_model:
            continue
        was, now = _value(saved, key), _value(present, key)
        if was is not _ABSENT and was != now:
            found.append(f"{key} was {json.dumps(was)}, is {json.dumps(now)}")
    return found


def _value(nested: Mapping[str, Any], key: str) -> Any:
    value: Any = nested
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value
