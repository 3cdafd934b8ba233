"""Augmentation within a training step, and where evaluation goes without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.judge import view_features
from hjepa.run import Run, build_run
from hjepa.schema import ConfigError
from hjepa.step import train_step
from hjepa.train import train_run

Tiny = Callable[..., RunConfig]

DEIT3 = {"data.augmentation.strategy": "deit3"}
# Nothing but mixing is random.
MIXED = DEIT3 | {"data.augmentation.random_crop": False, "data.augmentation.deit3.three_augment": False}
UNMIXED = {"data.augmentation.deit3.mixup_alpha": 0.0, "data.augmentation.deit3.cutmix_alpha": 0.0}


def seen(run: Run) -> tuple[Tensor, Tensor | None]:
    """The two views that the model gets in a step."""
    views = []
    hook = run.model.register_forward_pre_hook(lambda _, args: views.append((args[0], args[2])))
    torch.manual_seed(0)
    train_step(run, np.arange(run.batch))
    hook.remove()
    return views[0]


def test_two_views_of_an_image_are_mixed_alike(tiny: Tiny):
    run = build_run(tiny(MIXED | {"loss.use_ntxent": True}))
    first, second = seen(run)
    assert second is not None
    assert torch.equal(first, second)
    plain = run.augment.plain(torch.from_numpy(run.data.train.images(np.arange(run.batch))))
    assert ((first != plain).flatten(1).any(1)).float().mean() > 0.9


def test_mixing_is_within_the_step_and_leaves_what_is_drawn_before_it(tiny: Tiny):
    with_crops = {"data.augmentation.random_crop": True}
    mixed, _ = seen(build_run(tiny(MIXED | with_crops)))
    apart, _ = seen(build_run(tiny(MIXED | with_crops | UNMIXED)))
    inside = (mixed == apart).flatten(1).all(1)
    assert not inside.all()
    low, high = torch.minimum(apart[:-1:2], apart[1::2]), torch.maximum(apart[:-1:2], apart[1::2])
    assert (mixed[:-1:2] >= low - 1e-5).all()
    assert (mixed[:-1:2] <= high + 1e-5).all()


def test_views_for_lidar_show_one_image_each(tiny: Tiny):
    lidar = {"evaluation.lidar.enabled": True, "evaluation.lidar.num_views": 2}
    mixing, not_mixing = (build_run(tiny(DEIT3 | lidar | changed)) for changed in ({}, UNMIXED))
    assert mixing.config.data.augmentation.mixing is not None
    assert torch.equal(view_features(mixing), view_features(not_mixing))


def test_mixing_alone_gives_lidar_no_views(tiny: Tiny):
    with pytest.raises(ConfigError, match="makes them all the same"):
        tiny(MIXED | {"evaluation.lidar.enabled": True})


@pytest.mark.parametrize("policy", [{}, {"data.augmentation.deit3.auto_augment": True}])
def test_accumulating_parts_matches_one_batch_with_the_whole_of_deit3(tiny: Tiny, policy: dict[str, Any]):
    changed = DEIT3 | policy | {"data.augmentation.deit3.random_erasing_prob": 0.25}
    changed |= {"data.augmentation.color_jitter": 0.3, "training.optimizer": "sgd"}
    sizes = ({"data.batch_size": 600}, {"data.batch_size": 150, "training.accumulation_steps": 4})
    whole, cut = (next(train_run(build_run(tiny(changed | size)))).metrics for size in sizes)
    for name in ("train/loss", "train/loss_level1", "train/grad_norm"):
        assert cut[name] == pytest.approx(whole[name], rel=1e-4)
