"""What an evaluation reports of a run, and that it changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hjepa import RunConfig, judge, measure, train
from hjepa.evaluate import knn_accuracy, raw_pixel_features
from hjepa.judge import (
    LOSS_STREAM,
    evaluate,
    evaluation_loss,
    labels,
    raw_pixel_accuracy,
    split_features,
    view_features,
)
from hjepa.masking import sample_masks
from hjepa.run import build_run, random_stream
from hjepa.schema import ConfigError
from hjepa.step import train_step

Tiny = Callable[..., RunConfig]

RANDOM: dict[str, Any] = {"model.drop_path_rate": 0.5, "model.predictor.dropout": 0.5}
WHOLE: dict[str, Any] = {
    "loss.use_vicreg": True,
    "loss.use_sigreg": True,
    "loss.use_ntxent": True,
    "data.augmentation.color_jitter": 0.4,
}


def test_further_k_are_reported_beside_k(tiny: Tiny):
    (without,) = train(tiny())
    (report,) = train(tiny({"evaluation.knn.k_values": [1, 20]}))
    assert report.metrics["val/knn_top1"] == without.metrics["val/knn_top1"]
    assert report.metrics["val/knn_top1_k20"] == report.metrics["val/knn_top1"]
    (one,) = train(tiny({"evaluation.knn.k": 1}))
    assert report.metrics["val/knn_top1_k1"] == one.metrics["val/knn_top1"]


# Loss on the evaluation images


def test_the_evaluation_loss_is_the_same_at_every_look_and_for_every_seed_of_the_run(tiny: Tiny):
    run = build_run(tiny(RANDOM | WHOLE))
    first = evaluation_loss(run)
    torch.rand(7)
    assert evaluation_loss(run) == first
    other = build_run(tiny(RANDOM | WHOLE | {"seed": 7}))
    other.model.load_state_dict(run.model.state_dict())
    assert evaluation_loss(other) == first
    elsewhere = build_run(tiny(RANDOM | WHOLE | {"data.split_seed": 1}))
    elsewhere.model.load_state_dict(run.model.state_dict())
    assert evaluation_loss(elsewhere) != first


def test_its_terms_are_those_of_training_and_add_up(tiny: Tiny):
    (report,) = train(tiny(WHOLE | {"evaluation.val_loss": True}))
    trained = {name for name in report.metrics if name.startswith("train/")} - {"train/lr", "train/grad_norm"}
    terms = {name.removeprefix("train/") for name in trained}
    assert terms > {"loss", "loss_level0", "loss_level1", "vicreg_std", "sigreg", "ntxent"}
    total = sum(report.metrics[f"val/{term}"] for term in terms - {"loss"})
    assert report.metrics["val/loss"] == pytest.approx(total, rel=1e-5)
    # Untrained or nearly so, the model does as well on images that it has not seen.
    assert report.metrics["val/loss_level0"] == pytest.approx(report.metrics["train/loss_level0"], rel=0.5)


def test_it_is_the_mean_square_of_what_is_predicted_of_plain_images(tiny: Tiny):
    one_level = {"model.num_hierarchies": 1, "loss.hierarchy_weights": [1.0], "data.batch_size": 719}
    run = build_run(tiny(one_level | RANDOM | {"data.augmentation.color_jitter": 0.5}))
    found = evaluation_loss(run)
    count = len(run.data.val)
    with random_stream(run.config.data.split_seed, LOSS_STREAM):
        masks = sample_masks(run.config.masking, count, run.model.grid, torch.default_generator)
    images = run.augment.plain(torch.from_numpy(run.data.val.images(np.arange(count))))
    model = run.model.eval()
    with torch.no_grad():
        predicted = model.predictor(model.encoder(images, masks.visible_BK), masks.visible_BK)
        target = torch.nn.functional.layer_norm(model.target_encoder(images), (16,))
    # The target is normalised again after the pyramid, whose level 0 changes nothing.
    expected = (predicted - target).square().mean(-1)[masks.target_BN].mean()
    assert found["val/loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_looking_at_the_loss_changes_nothing_of_the_run(tiny: Tiny):
    config = {"training.epochs": 2, **RANDOM, **WHOLE}
    without, with_loss = list(train(tiny(config))), list(train(tiny(config | {"evaluation.val_loss": True})))
    for before, after in zip(without, with_loss, strict=True):
        kept = {name: value for name, value in before.metrics.items() if not name.startswith("time/")}
        assert kept.items() <= after.metrics.items()


def test_training_goes_on_in_training_mode_after_a_look(tiny: Tiny):
    run = build_run(tiny({"evaluation.val_loss": True}))
    evaluate(run)
    assert not run.model.encoder.training
    run.model.train()
    train_step(run, np.arange(run.batch))
    assert run.model.encoder.training


@pytest.mark.parametrize(
    "changed",
    [
        WHOLE | {"loss.vicreg.flatten_patches": True},
        WHOLE | {"loss.ntxent.on_context": False},
        {
            "data.use_multicrop": True,
            "masking.strategy": "global_with_local_context",
            "loss.use_sigreg": True,
        },
        {"loss.use_sigreg": True, "loss.prediction_weight": 0.0},
    ],
    ids=["regularizers", "second view whole", "crops", "nothing predicted"],
)
def test_the_loss_is_the_same_however_few_images_go_through_the_model_at_once(
    tiny: Tiny, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    run = build_run(tiny(changed))
    whole = evaluation_loss(run)
    monkeypatch.setattr(measure, "EVALUATION_IMAGES", 100)
    seen: list[int] = []
    forward = run.model.forward
    monkeypatch.setattr(run.model, "forward", lambda x, *rest: seen.append(len(x)) or forward(x, *rest))
    assert evaluation_loss(run) == pytest.approx(whole, rel=1e-4)
    assert max(seen) <= 100


def test_features_are_the_same_however_few_images_go_through_the_model_at_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    run = build_run(tiny({"evaluation.lidar.enabled": True, "data.augmentation.color_jitter": 0.4}))
    features, views = split_features(run, run.data.val, run.model.features), view_features(run)
    monkeypatch.setattr(measure, "EVALUATION_BYTES", 50 * 2**12)  # of 16 patches x 64 hidden values x 4 bytes
    seen: list[int] = []
    encode = run.model.features
    monkeypatch.setattr(run.model, "features", lambda images: seen.append(len(images)) or encode(images))
    torch.testing.assert_close(split_features(run, run.data.val, run.model.features), features)
    torch.testing.assert_close(view_features(run), views)
    assert max(seen) == 50


@pytest.mark.parametrize("batch", [2, 240, 700])
def test_no_evaluation_image_is_left_out_whatever_the_batch(
    tiny: Tiny, batch: int, monkeypatch: pytest.MonkeyPatch
):
    run = build_run(tiny({"data.batch_size": batch}))
    seen: list[int] = []
    plain = run.augment.plain
    monkeypatch.setattr(run.augment, "plain", lambda images: seen.append(len(images)) or plain(images))
    evaluation_loss(run)
    assert sum(seen) == len(run.data.val)
    assert max(seen) - min(seen) <= 1
    # 719 images in pairs leave one over, which has no statistics.
    assert 2 <= min(seen) <= max(seen) <= max(batch, 3)


@pytest.mark.parametrize(
    ("metric", "mode", "on"),
    [
        ("val/loss", "min", {"evaluation.val_loss": True}),
        ("val/lidar", "max", {"evaluation.lidar.enabled": True}),
        ("val/linear_probe_top1", "max", {"evaluation.linear_probe.enabled": True}),
        ("val/knn_top1_k3", "max", {"evaluation.knn.k_values": [3]}),
    ],
)
def test_checkpoints_are_ranked_only_by_what_is_measured(
    tiny: Tiny, metric: str, mode: str, on: dict[str, Any]
):
    ranked = {"checkpoint.metric": metric, "checkpoint.mode": mode}
    assert tiny(ranked | on).checkpoint.metric == metric
    with pytest.raises(ConfigError, match=f"checkpoint.metric is {metric}, which is not measured"):
        tiny(ranked)


# Raw pixels


def test_the_raw_pixel_baseline_of_a_small_set_of_small_images_is_of_all_its_pixels(tiny: Tiny):
    run = build_run(tiny())
    bank, val = run.data.bank, run.data.val
    whole = knn_accuracy(
        split_features(run, bank, raw_pixel_features),
        labels(run, bank),
        split_features(run, val, raw_pixel_features),
        labels(run, val),
        run.config.evaluation.knn,
    )
    assert raw_pixel_accuracy(run) == whole


def test_the_raw_pixel_baseline_holds_little_of_a_large_set_of_large_images(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(judge, "RAW_PIXEL_BANK", 300)
    monkeypatch.setattr(judge, "RAW_PIXEL_QUERIES", 200)
    monkeypatch.setattr(judge, "_RAW_PIXEL_PART", 128)
    shapes: list[tuple[int, ...]] = []
    pixels = judge.raw_pixel_features
    monkeypatch.setattr(judge, "raw_pixel_features", lambda x: shapes.append(tuple(x.shape)) or pixels(x))
    run = build_run(tiny({"data.image_size": 64, "model.patch_size": 16}))
    assert 0.8 < raw_pixel_accuracy(run) < 1
    assert shapes == [(count, 3, 32, 32) for count in (200, 128, 128, 44)]
