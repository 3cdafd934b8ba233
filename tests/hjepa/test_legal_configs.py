"""Whatever the schema admits runs: every legal config takes a finite step, every other is refused.

Values are drawn from the schema itself, so a new key is tried as soon as it is there.
"""

import math
from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic.fields import FieldInfo

from hjepa.config import RunConfig
from hjepa.judge import evaluate
from hjepa.run import build_run, random_stream
from hjepa.schema import ConfigError, leaves
from hjepa.step import train_step

Tiny = Callable[..., RunConfig]

# Keys of place, which name files, folders and machines.
PLACE = ("checkpoint.", "logging.", "distributed.", "device", "threads", "data.cache_dir")

# Where the schema leaves room for sizes and strengths that no tiny run can bear.
NARROWED: dict[str, SearchStrategy[Any]] = {
    "model.encoder_type": st.sampled_from(["vit", "test_vit", "test_vit2", "resnet18", "nonesuch"]),
    "model.embed_dim": st.sampled_from([None, 8, 12, 16, 24]),
    "model.num_heads": st.sampled_from([None, 1, 2, 3, 4]),
    "model.patch_size": st.sampled_from([None, 1, 2, 3, 4]),
    "model.predictor.embed_dim": st.sampled_from([None, 8, 12, 16]),
    "model.fpn.feature_dim": st.sampled_from([None, 1, 5, 16]),
    "data.dataset": st.just("digits"),
    "data.data_path": st.none(),
    "data.class_list": st.none(),
    "data.datasets": st.sampled_from(
        [[], [{"name": "digits"}], [{"name": "a", "dataset": "digits", "weight": 3.0}, {"name": "digits"}]]
    ),
    "data.evaluate_on": st.sampled_from([None, "a", "digits"]),
    "data.multicrop.global_crop_size": st.sampled_from([None, 8, 16]),
    "data.multicrop.local_crop_size": st.sampled_from([None, 2, 4, 6, 8]),
    "data.multicrop.adaptive_config.min_local_crops": st.integers(0, 2),
    "data.multicrop.adaptive_config.max_local_crops": st.integers(0, 3),
    "model.pretrained": st.none(),
    "data.image_size": st.sampled_from([4, 6, 8, 9, 12, 16, 32]),
    "data.batch_size": st.sampled_from([2, 3, 8, 33, 800]),
    "training.epochs": st.integers(1, 3),
    "training.accumulation_steps": st.integers(1, 3),
    "training.lr": st.floats(1e-6, 0.05),
    "loss.hierarchy_weights": st.lists(st.floats(0, 2), min_size=1, max_size=4),
    "evaluation.linear_probe.epochs": st.integers(1, 2),
    "evaluation.lidar.num_views": st.integers(2, 4),
}


def legal(key: str, field: FieldInfo) -> SearchStrategy[Any]:
    """Values of a key that its own range admits, small enough for a run of a blink."""
    if key in NARROWED:
        return NARROWED[key]
    low, high, above = 0.0, math.inf, 0.0
    for rule in field.metadata:
        low = max(low, getattr(rule, "ge", low))
        above = max(above, getattr(rule, "gt", 0.0))
        high = min(high, getattr(rule, "le", high), getattr(rule, "lt", math.inf) - 1e-3)
    least = above + 1e-3 if above or any(hasattr(rule, "gt") for rule in field.metadata) else low
    return of_type(field.annotation, least, high)


def of_type(annotation: Any, low: float, high: float) -> SearchStrategy[Any]:
    """Values of an annotation between two numbers."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(members)
    if annotation is NoneType:
        return st.none()
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        least = math.ceil(low)
        return st.integers(least, int(min(high, least + 4)))
    if annotation is float:
        return st.floats(low, min(high, low + 4), allow_subnormal=False)
    if annotation is str:
        return st.sampled_from(["", "a", "val/knn_top1"])
    if origin is tuple:
        inner = [member for member in members if member is not Ellipsis]
        return st.lists(of_type(inner[0], 0, 1.5), min_size=2, max_size=2)
    assert members, annotation
    return st.one_of(*(of_type(member, low, high) for member in members))


KEYS = {key: legal(key, field) for key, field in leaves(RunConfig) if not key.startswith(PLACE)}


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Some keys, few or many, each with a value that its own range admits."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=12, unique=True))
    return {key: draw(KEYS[key]) for key in keys}


@given(changed=changes())
@settings(max_examples=150)
def test_a_config_is_refused_or_takes_a_finite_step(tiny: Tiny, changed: dict[str, Any]):
    try:
        config = tiny(changed)
        run = build_run(config)
    except ConfigError as error:
        note(str(error))
        event("refused")
        return
    event("built")
    with random_stream(config.seed, 1):
        run.model.train()
        found = train_step(run, np.arange(run.batch))
    assert all(torch.isfinite(value) for value in found.values()), (changed, found)
    metrics, _ = evaluate(run)
    assert all(math.isfinite(value) for value in metrics.values()), (changed, metrics)
