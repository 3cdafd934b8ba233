"""Training on several crops of each image: what learns from which, and that the numbers do not depend on how
a run is cut or resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hjepa import RunConfig, train
from hjepa.config import load_config
from hjepa.data import LocalCrops
from hjepa.data.multicrop import Multicrop
from hjepa.masking import Masks, sample_masks
from hjepa.model import HJEPA, Prediction
from hjepa.run import build_run
from hjepa.schema import ConfigError, inert_reason
from hjepa.train import Report, train_run

Tiny = Callable[..., RunConfig]

STRATEGIES = ("global_only", "global_with_local_context", "cross_crop_prediction")
CROPS: dict[str, Any] = {"data.use_multicrop": True, "data.multicrop.num_local_crops": 3}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
# Every source of chance that several crops bring, over three epochs.
LONG = CROPS | {
    "training.epochs": 3,
    "training.warmup_epochs": 1,
    "data.multicrop.adaptive": True,
    "data.multicrop.adaptive_config.min_local_crops": 1,
    "data.multicrop.adaptive_config.max_local_crops": 3,
    "data.multicrop.adaptive_config.warmup_epochs": 2,
    "data.multicrop.local_color_jitter": 0.2,
    "data.augmentation.horizontal_flip": True,
    "loss.use_sigreg": True,
    "model.drop_path_rate": 0.2,
}


def weights(config: RunConfig) -> dict[str, Tensor]:
    run = build_run(config)
    list(train_run(run))
    return run.model.state_dict()


def one_step(config: RunConfig) -> tuple[dict[str, Tensor], dict[str, float]]:
    run = build_run(config)
    assert run.steps_per_epoch == 1
    (report,) = train_run(run)
    return run.model.state_dict(), report.metrics


def numbers(report: Report) -> dict[str, float]:
    return {name: value for name, value in report.metrics.items() if not name.startswith("time/")}


def built(config: RunConfig) -> HJEPA:
    torch.manual_seed(0)
    return HJEPA(config.model, config.data.image_size)


def views(config: RunConfig, model: HJEPA, strategy: str) -> tuple[Tensor, Masks, LocalCrops]:
    """Two global and three local crops of four random images."""
    torch.manual_seed(1)
    crops = Multicrop(config.data.multicrop, config.data.augmentation, 8, 2, [0.5] * 3, [0.2] * 3)
    stored = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    images, boxes = crops.global_views(stored)
    masks = sample_masks(config.masking, 8, model.grid, torch.default_generator)
    frame = None if strategy == "global_only" else boxes
    local = crops.local_views(stored, 3, frame, strategy == "cross_crop_prediction")
    return images, masks, local


def predicted(model: HJEPA, images: Tensor, masks: Masks, local: LocalCrops) -> Prediction:
    return model.eval()(images, masks, local=local)


# The plain run


def test_one_global_crop_and_no_local_one_is_the_plain_run_to_the_bit(tiny: Tiny):
    plain = {"data.augmentation.crop_scale": [0.4, 1.0], "data.augmentation.color_jitter": 0.2}
    plain |= {"data.augmentation.horizontal_flip": True, "loss.use_sigreg": True, "loss.use_vicreg": True}
    one = {"data.use_multicrop": True, "data.multicrop.num_global_crops": 1}
    one |= {"data.multicrop.num_local_crops": 0}
    (expected,), (found,) = list(train(tiny(plain))), list(train(tiny(plain | one)))
    assert numbers(found) == numbers(expected)


# What is predicted from what


def test_local_crops_are_encoded_as_images_of_their_own_size(tiny: Tiny):
    config = tiny(CROPS)
    model = built(config).eval()
    images, masks, local = views(config, model, "global_only")
    found = predicted(model, images, masks, local).local_BVPD
    assert found is not None
    assert found.shape == (4, 3, 4, 16)
    for crop in range(3):
        torch.testing.assert_close(found[:, crop], model.encoder(local.images_BVCHW[:, crop]))


@every_strategy
def test_the_predictor_sees_what_the_strategy_says(tiny: Tiny, strategy: str):
    config = tiny(CROPS)
    model = built(config)
    images, masks, local = views(config, model, strategy)
    before = predicted(model, images, masks, local)
    assert all(
        found.shape == target.shape for found, target in zip(before.predicted, before.target, strict=True)
    )
    # The first image's views, of either kind, become another's.
    others = images.clone()
    others[:2] = images[2:4]
    from_global = predicted(model, others, masks, local).predicted[0]
    other_local = local.images_BVCHW.clone()
    other_local[0] = local.images_BVCHW[1]
    local = LocalCrops(other_local, local.places_SP2, local.alone)
    from_local = predicted(model, images, masks, local).predicted[0]
    for changed, matters in (
        (from_global, strategy != "cross_crop_prediction"),
        (from_local, strategy != "global_only"),
    ):
        same = (changed - before.predicted[0]).abs().amax((1, 2)) < 1e-5
        assert same.tolist() == [not matters] * 2 + [True] * 6


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_where_a_local_crop_lies_matters_to_the_predictor(tiny: Tiny, strategy: str):
    config = tiny(CROPS)
    model = built(config)
    images, masks, local = views(config, model, strategy)
    assert local.places_SP2 is not None
    moved = LocalCrops(local.images_BVCHW, local.places_SP2 + 0.5, local.alone)
    before, after = (predicted(model, images, masks, crops) for crops in (local, moved))
    assert not torch.allclose(before.predicted[0], after.predicted[0], atol=1e-3)
    assert torch.equal(before.target[0], after.target[0])


@every_strategy
def test_the_gradient_reaches_the_encoder_through_local_crops(tiny: Tiny, strategy: str):
    config = tiny(CROPS)
    model = built(config)
    images, masks, local = views(config, model, strategy)
    pixels = local.images_BVCHW.requires_grad_()
    prediction = model(images, masks, local=local)
    assert prediction.local_BVPD is not None
    loss = prediction.local_BVPD.square().sum() if strategy == "global_only" else 0
    loss = loss + prediction.predicted[0].square().sum()
    loss.backward()
    assert pixels.grad is not None
    assert (pixels.grad.flatten(2).norm(dim=-1) > 0).all()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.encoder.parameters())


# Training


def test_every_strategy_learns_something_of_its_own(tiny: Tiny):
    start = build_run(tiny(CROPS)).model.state_dict()
    ends = [weights(tiny(CROPS | {"masking.strategy": strategy})) for strategy in STRATEGIES]
    for name in ("encoder.patch_embed.weight", "predictor.embed.weight", "heads.1.weight"):
        values = [start[name], *(end[name] for end in ends)]
        assert len({tuple(value.flatten().tolist()) for value in values}) == 4


@every_strategy
@pytest.mark.parametrize("rope", [False, True])
def test_terms_add_up(tiny: Tiny, strategy: str, rope: bool):
    used = {"loss.use_vicreg": True, "loss.use_sigreg": True, "model.rope.use_rope": rope}
    (report,) = train(tiny(CROPS | used | {"masking.strategy": strategy}))
    terms = ("loss_level0", "loss_level1", "multicrop", "vicreg_sim", "vicreg_std", "vicreg_cov", "sigreg")
    total = sum(report.metrics[f"train/{term}"] for term in terms)
    assert report.metrics["train/loss"] == pytest.approx(total, rel=1e-5)
    assert all(report.metrics[f"train/{term}"] > 0 for term in terms)


@every_strategy
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulating_parts_matches_one_batch(tiny: Tiny, strategy: str, parts: int):
    changed = CROPS | {"training.optimizer": "sgd", "training.lr_schedule": "constant", "training.lr": 0.5}
    changed |= {"masking.strategy": strategy, "data.multicrop.local_color_jitter": 0.3}
    start = build_run(tiny(changed)).model.state_dict()
    whole, whole_metrics = one_step(tiny(changed | {"data.batch_size": 600}))
    cut, cut_metrics = one_step(
        tiny(changed | {"data.batch_size": 600 // parts, "training.accumulation_steps": parts})
    )
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert (whole["encoder.patch_embed.weight"] - start["encoder.patch_embed.weight"]).abs().max() > 1e-3
    for name in ("train/loss", "train/loss_level0", "train/multicrop", "train/grad_norm"):
        assert cut_metrics[name] == pytest.approx(whole_metrics[name], rel=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny: Tiny, tmp_path: Path, strategy: str):
    config = tiny(LONG | {"masking.strategy": strategy})
    straight = list(map(numbers, train(config)))
    first = train(config)
    next(first).save(tmp_path / "one.pt")
    first.close()
    assert list(map(numbers, train(config, resume=tmp_path / "one.pt"))) == straight[1:]


def test_the_local_crops_of_an_epoch_are_as_many_as_the_schedule_says(tiny: Tiny):
    adaptive = LONG | {"loss.use_sigreg": False, "model.drop_path_rate": 0.0}
    drawn = []
    run = build_run(tiny(adaptive))
    assert run.crops is not None
    run.model.encoder.register_forward_hook(lambda _, inputs, __: drawn.append(len(inputs[0])))
    list(train_run(run))
    of_an_epoch = run.steps_per_epoch * 2  # the visible patches of global crops, then local crops
    local = [drawn[epoch * of_an_epoch + 1] // run.batch for epoch in range(3)]
    assert local == [run.config.local_crops(epoch) for epoch in range(3)] == [1, 2, 3]
    assert drawn[0] == 2 * run.batch


def test_gradient_checkpointing_changes_not_a_bit(tiny: Tiny):
    config = CROPS | {"masking.strategy": STRATEGIES[1], "model.rope.use_rope": True}
    found = weights(tiny(config | {"training.use_gradient_checkpointing": True}))
    expected = weights(tiny(config))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


# LeJEPA


def test_the_lejepa_config_has_no_target_encoder_and_learns_by_views_and_sigreg():
    config = load_config("configs/features/lejepa.yaml")
    assert not config.model.use_target_encoder
    assert config.data.use_multicrop
    assert config.loss.use_sigreg
    assert config.loss.multicrop.weight > 0
    assert not config.loss.use_vicreg


def test_the_weight_of_the_distance_brings_views_together_without_a_target_encoder(tiny: Tiny):
    changed = CROPS | {"model.use_target_encoder": False, "loss.use_sigreg": True, "training.epochs": 2}
    distances = []
    for weight in (1e-3, 10.0):
        *_, report = train(tiny(changed | {"loss.multicrop.weight": weight}))
        distances.append(report.metrics["train/multicrop"] / weight)
        assert report.collapsed is None
    assert distances[1] < 0.9 * distances[0]


# Refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"data.multicrop.global_crop_size": 16},
            "data.multicrop.global_crop_size is 16 and data.image_size 8; they must be the same",
        ),
        ({"data.multicrop.local_crop_size": 5}, "local_crop_size is 5; it must be a multiple of .* size 2"),
        ({"data.multicrop.local_crop_size": 10}, "local_crop_size is 10; .* no more than data.image_size 8"),
        ({"loss.use_ntxent": True}, "loss.use_ntxent and data.use_multicrop are both true"),
        (
            {"masking.strategy": "cross_crop_prediction", "data.multicrop.num_local_crops": 0},
            "from local crops alone, and data.multicrop.num_local_crops is 0; give 1 or more",
        ),
        (
            {
                "masking.strategy": "cross_crop_prediction",
                "data.multicrop.adaptive": True,
                "data.multicrop.adaptive_config.min_local_crops": 0,
            },
            "data.multicrop.adaptive_config.min_local_crops is 0",
        ),
        (
            {"data.multicrop.adaptive_config.min_local_crops": 11},
            "min_local_crops 11 is more than max_local_crops 10",
        ),
        ({"data.multicrop.local_crop_scale": [0.4, 0.2]}, r"must be \[smallest, largest\] with 0 < smallest"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(tiny: Tiny, changed: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        tiny(CROPS | changed)


def test_local_crops_that_nothing_learns_from_are_not_made(tiny: Tiny):
    config = tiny(CROPS | {"loss.multicrop.weight": 0.0})
    assert config.local_crops(0) == 0
    assert "nothing learns from local crops" in (inert_reason(config, "data.multicrop.num_local_crops") or "")
    for learnt in ({"loss.use_sigreg": True}, {"masking.strategy": STRATEGIES[1]}):
        assert tiny(CROPS | {"loss.multicrop.weight": 0.0} | learnt).local_crops(0) == 3


def test_the_evaluation_loss_has_the_local_crops_of_the_epoch_that_ended(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    run = build_run(tiny(LONG | {"evaluation.val_loss": True}))
    assert run.crops is not None
    counts: dict[bool, list[int]] = {True: [], False: []}
    views = run.crops.local_views

    def counted(stored: Tensor, count: int, *rest: Any) -> LocalCrops:
        counts[run.model.encoder.training].append(count)
        return views(stored, count, *rest)

    monkeypatch.setattr(run.crops, "local_views", counted)
    for report in train_run(run):
        trained, evaluated = (set(counts[training]) for training in (True, False))
        assert trained == evaluated == {min(report.epoch, 3)}
        counts[True].clear()
        counts[False].clear()
