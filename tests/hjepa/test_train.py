"""Training: the numbers do not depend on how a run is cut, resumed or watched."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hjepa import Report, RunConfig, train
from hjepa.judge import baselines
from hjepa.run import build_run, to_device
from hjepa.schema import ConfigError
from hjepa.step import NonFiniteError
from hjepa.train import train_run
from tests.hjepa.data.formats import write_image_folder

Tiny = Callable[..., RunConfig]

# Every source of chance that a run has, over four epochs.
LONG: dict[str, Any] = {
    "training.epochs": 4,
    "training.warmup_epochs": 1,
    "loss.use_sigreg": True,
    "loss.use_ntxent": True,
    "data.augmentation.horizontal_flip": True,
    "data.augmentation.color_jitter": 0.2,
    "evaluation.linear_probe.enabled": True,
    "evaluation.linear_probe.epochs": 2,
    "evaluation.lidar.enabled": True,
    "evaluation.lidar.num_views": 2,
    "model.fpn.use_fpn": True,
    "model.drop_path_rate": 0.3,
    "model.predictor.dropout": 0.1,
}


def numbers(report: Report) -> dict[str, float]:
    """What of a report is no matter of speed."""
    found = {name: value for name, value in report.metrics.items() if not name.startswith("time/")}
    return {"epoch": report.epoch, "step": report.step} | found


def saved(report: Report, path: Path) -> dict[str, Any]:
    report.save(path)
    return torch.load(path, weights_only=True)


def assert_same_bits(found: Any, expected: Any, where: str = "") -> None:
    assert type(found) is type(expected), where
    if isinstance(found, Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(found, dict):
        assert found.keys() == expected.keys(), where
        for key in found:
            assert_same_bits(found[key], expected[key], f"{where}.{key}")
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_same_bits(*pair, f"{where}.{i}")
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def straight(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict[str, Any]]:
    """Four epochs without a break: the numbers of each, and what is saved at the end."""
    reports = list(train(tiny(LONG)))
    return [*map(numbers, reports)], saved(reports[-1], tmp_path_factory.mktemp("straight") / "end.pt")


# Cut and resumed


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny: Tiny, tmp_path: Path, straight: Any):
    first = train(tiny(LONG))
    found = [numbers(next(first))]
    report = next(first)
    report.save(tmp_path / "middle.pt")
    found.append(numbers(report))
    first.close()
    rest = list(train(tiny(LONG), resume=tmp_path / "middle.pt"))
    assert [*found, *map(numbers, rest)] == straight[0]
    assert_same_bits(saved(rest[-1], tmp_path / "end.pt"), straight[1])


def test_saving_is_no_part_of_the_run(tiny: Tiny, tmp_path: Path, straight: Any):
    found = []
    for report in train(tiny(LONG)):
        report.save(tmp_path / f"{report.epoch}.pt")
        report.save(tmp_path / "again.pt")
        found.append(numbers(report))
    assert found == straight[0]


def test_a_finished_run_resumed_has_nothing_to_report(tiny: Tiny, tmp_path: Path):
    (report,) = train(tiny())
    report.save(tmp_path / "end.pt")
    assert list(train(tiny(), resume=tmp_path / "end.pt")) == []


def test_resuming_keeps_the_settings_of_the_config(tiny: Tiny, tmp_path: Path):
    (report,) = train(tiny())
    report.save(tmp_path / "end.pt")
    run = build_run(tiny({"training.epochs": 2, "training.weight_decay": 0.3, "training.betas": [0.5, 0.6]}))
    run.load(tmp_path / "end.pt")
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.3, 0.0]
    assert all(tuple(group["betas"]) == (0.5, 0.6) for group in run.optimizer.param_groups)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model.embed_dim": 24}, "model.embed_dim was 16, is 24"),
        ({"model.num_heads": 1}, "model.num_heads was 2, is 1"),
        ({"model.fpn.use_fpn": True}, "model.fpn.use_fpn was false, is true"),
        ({"training.optimizer": "sgd"}, 'training.optimizer was "adamw", is "sgd"'),
        ({"data.split_seed": 9}, "data.split_seed was 0, is 9"),
        (
            {"data.val_fraction": 0.25, "model.depth": 3},
            "depth was 2, is 3; data.val_fraction was 0.5",
        ),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(
    tiny: Tiny, tmp_path: Path, other: dict[str, Any], told: str
):
    build_run(tiny()).save(tmp_path / "start.pt")
    with pytest.raises(ConfigError, match=rf"start\.pt: is of another run: .*{told}.*\. Give"):
        build_run(tiny(other)).load(tmp_path / "start.pt")


def test_a_run_goes_on_where_only_its_training_changed(tiny: Tiny, tmp_path: Path):
    build_run(tiny()).save(tmp_path / "start.pt")
    changed = {
        "model.drop_path_rate": 0.1,
        "model.ema.momentum": 0.9,
        "model.use_flash_attention": False,
        "model.fpn.fusion_method": "concat",  # without effect, as there is no FPN
        "data.augmentation.color_jitter": 0.1,
    }
    build_run(tiny(changed)).load(tmp_path / "start.pt")


@pytest.mark.parametrize(
    ("other", "steps"), [({"data.batch_size": 120}, 5), ({"training.accumulation_steps": 3}, 1)], ids=str
)
def test_with_steps_of_another_size_schedules_go_on_at_the_same_epoch(
    tiny: Tiny, tmp_path: Path, other: dict[str, Any], steps: int
):
    long = {"training.epochs": 2}
    first = train(tiny(long))
    next(first).save(tmp_path / "one.pt")
    first.close()
    (report,) = train(tiny(long | other), resume=tmp_path / "one.pt")
    assert (report.epoch, report.step) == (2, 2 * steps)
    assert report.metrics["train/lr"] == 0  # the cosine has come to its end


# Randomness


def global_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest


def test_a_run_leaves_the_process_generators_as_they_were(tiny: Tiny):
    torch.manual_seed(1)
    before = global_states()
    reports = train(tiny(LONG))
    next(reports)
    assert global_states() == before
    next(reports)
    reports.close()
    assert global_states() == before
    baselines(tiny())
    assert global_states() == before


def test_nothing_drawn_between_reports_can_disturb_a_run(tiny: Tiny, straight: Any):
    found = []
    for report in train(tiny(LONG)):
        found.append(numbers(report))
        torch.manual_seed(report.epoch)
        torch.rand(report.epoch)
        np.random.seed(report.epoch)
        random.seed(report.epoch)
    assert found == straight[0]


def alternate(*generators: Iterator[Report]) -> list[list[dict[str, float]]]:
    return [[numbers(report) for report in row] for row in zip(*generators, strict=True)]


def test_two_runs_in_turns_give_the_numbers_of_each_alone(tiny: Tiny, straight: Any):
    other = LONG | {"seed": 7, "training.lr": 0.003, "model.rope.use_rope": True}
    apart = [*map(numbers, train(tiny(other)))]
    together = alternate(train(tiny(LONG)), train(tiny(other)))
    assert [row[0] for row in together] == straight[0]
    assert [row[1] for row in together] == apart


def test_another_seed_gives_other_numbers(tiny: Tiny, straight: Any):
    first = numbers(next(train(tiny(LONG | {"seed": 43}))))
    assert first["train/loss"] != straight[0][0]["train/loss"]
    assert first["val/rankme"] != straight[0][0]["val/rankme"]


def test_epochs_draw_from_streams_of_their_own(tiny: Tiny):
    # With the learning rate at almost nothing, equal draws would give equal losses.
    config = tiny({"training.epochs": 3, "training.lr": 1e-12})
    losses = [report.metrics["train/loss"] for report in train(config)]
    assert len({round(loss, 6) for loss in losses}) == 3


# Accumulation


def after_one_step(config: RunConfig) -> tuple[dict[str, Tensor], dict[str, float]]:
    run = build_run(config)
    assert run.steps_per_epoch == 1
    (report,) = train_run(run)
    return run.model.state_dict(), report.metrics


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(
    "kind",
    [
        *({"loss.type": kind} for kind in ("mse", "smoothl1", "huber", "cosine")),
        {"model.predictor.mode": "per_block"},
    ],
    ids=str,
)
def test_accumulating_parts_matches_one_batch(tiny: Tiny, kind: dict[str, Any], parts: int):
    changed = kind | {"training.optimizer": "sgd", "training.lr_schedule": "constant"}
    changed |= {"training.lr": 0.5, "data.augmentation.color_jitter": 0.3}
    start = build_run(tiny(changed)).model.state_dict()
    whole, whole_metrics = after_one_step(tiny(changed | {"data.batch_size": 600}))
    cut, cut_metrics = after_one_step(
        tiny(changed | {"data.batch_size": 600 // parts, "training.accumulation_steps": parts})
    )
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert (whole["encoder.patch_embed.weight"] - start["encoder.patch_embed.weight"]).abs().max() > 1e-3
    for name in ("train/loss", "train/loss_level0", "train/loss_level1", "train/grad_norm"):
        assert cut_metrics[name] == pytest.approx(whole_metrics[name], rel=1e-4)


def test_more_images_to_a_step_than_there_are_is_refused(tiny: Tiny):
    config = tiny({"data.batch_size": 400, "training.accumulation_steps": 2})
    with pytest.raises(
        ConfigError, match=r"batch_size 400 x training.accumulation_steps 2 is more than the 719"
    ):
        next(train(config))


# Two views


@pytest.mark.parametrize("key", ["seed", "data.split_seed"])
def test_a_seed_is_a_number_of_63_bits(tiny: Tiny, key: str):
    largest = {key: 2**63 - 1, "evaluation.linear_probe.enabled": True, "evaluation.linear_probe.epochs": 1}
    assert next(train(tiny(largest))).epoch == 1
    with pytest.raises(ConfigError, match=rf"{key}: {2**63} is not allowed: .* less than {2**63}"):
        tiny({key: 2**63})


def few(folder: Path, count: int) -> dict[str, Any]:
    """Images of one class, and one of another."""
    write_image_folder(folder / "train", count, classes=("ant",))
    write_image_folder(folder / "train", 1, classes=("bee",))
    return {"dataset": "imagefolder", "data_path": str(folder)}


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, "no class of .* has two images"), (2, r"0\.5 of the images of .* is one image")],
)
def test_too_few_images_to_evaluate_on_are_told_before_training(
    tiny: Tiny, tmp_path: Path, count: int, told: str
):
    # Of several sets, for the batch needs more images than are left to learn from.
    sets = [{"name": "few", "path": few(tmp_path, count)["data_path"], "dataset": "imagefolder"}]
    sets.append({"name": "digits", "dataset": "digits"})
    with pytest.raises(ConfigError, match=f"data.val_fraction: .*{told}"):
        build_run(tiny({"data.use_multi_dataset": True, "data.datasets": sets, "data.evaluate_on": "few"}))


def test_a_probe_on_too_few_images_is_told_before_training(tiny: Tiny, tmp_path: Path):
    probe = {f"evaluation.linear_probe.{key}": value for key, value in few(tmp_path, 1).items()}
    with pytest.raises(ConfigError, match=r"linear_probe\.dataset: imagefolder leaves 2 images .* and 0 to"):
        build_run(tiny(probe | {"evaluation.linear_probe.enabled": True}))


def test_ntxent_contrasts_two_augmentations_of_each_image(tiny: Tiny):
    still = {"loss.use_ntxent": True, "data.batch_size": 600}
    _, apart = after_one_step(tiny(still))
    _, same = after_one_step(tiny(still | {"data.augmentation.random_crop": False}))
    _, one = after_one_step(tiny({"data.batch_size": 600}))
    assert apart["train/ntxent"] > same["train/ntxent"] > 0  # to find one's own copy is easier
    # The first view and the masks are those of a run without a second view.
    assert apart["train/loss_level0"] == one["train/loss_level0"]


# What is reported


def test_reports_count_epochs_and_steps_and_add_up(tiny: Tiny):
    used = {f"loss.use_{name}": True for name in ("vicreg", "sigreg", "ntxent")}
    config = tiny(used | {"training.epochs": 2})
    reports = list(train(config))
    assert [(report.epoch, report.step) for report in reports] == [(1, 3), (2, 6)]
    for report in reports:
        terms = ("loss_level0", "loss_level1", "vicreg_sim", "vicreg_std", "vicreg_cov", "sigreg", "ntxent")
        total = sum(report.metrics[f"train/{term}"] for term in terms)
        assert report.metrics["train/loss"] == pytest.approx(total, rel=1e-5)
        assert report.collapsed is None
    assert reports[-1].metrics["train/lr"] == 0.0


def test_evaluation_comes_every_nth_epoch_and_at_the_end(tiny: Tiny):
    reports = train(tiny({"training.epochs": 5, "evaluation.eval_frequency": 2}))
    assert [r.epoch for r in reports if "val/knn_top1" in r.metrics] == [2, 4, 5]


def test_the_target_follows_after_the_step(tiny: Tiny):
    # With a momentum of 0 the target is the encoder as the step left it, not as it was before.
    run = build_run(tiny({"model.ema.momentum": 0.0, "model.ema.momentum_end": 0.0}))
    before = run.model.encoder.patch_embed.weight.clone()
    list(train_run(run))
    assert run.model.target_encoder is not None
    assert torch.equal(run.model.target_encoder.patch_embed.weight, run.model.encoder.patch_embed.weight)
    assert not torch.equal(run.model.encoder.patch_embed.weight, before)


def test_a_target_that_stands_still_is_learnt(tiny: Tiny):
    still = {"model.ema.momentum": 1.0, "model.ema.momentum_end": 1.0}
    first, *_, last = train(tiny(still | {"training.epochs": 4, "data.batch_size": 64}))
    for level in (0, 1):
        name = f"train/loss_level{level}"
        assert last.metrics[name] < 0.8 * first.metrics[name]


# Without a target of its own

ALONE: dict[str, Any] = {
    "model.use_target_encoder": False,
    "loss.use_sigreg": True,
    "training.epochs": 4,
    "data.batch_size": 64,
}


@pytest.mark.parametrize(
    "unregularized",
    [
        {"loss.use_sigreg": False},
        {"loss.sigreg.weight": 0.0},
        {"loss.use_sigreg": False, "loss.use_vicreg": True, "loss.vicreg.weight": 0.0},
        {"loss.use_sigreg": False, "loss.use_vicreg": True, "loss.vicreg.std_coeff": 0.0},
        {"loss.use_sigreg": False, "loss.use_ntxent": True},
    ],
    ids=str,
)
def test_without_a_target_encoder_something_must_keep_features_apart(
    tiny: Tiny, unregularized: dict[str, Any]
):
    with pytest.raises(
        ConfigError, match=r"use_target_encoder is false.* set loss.use_sigreg: true .* or loss.use_vicreg"
    ):
        tiny(ALONE | unregularized)


def test_a_contrast_with_a_target_encoder_needs_one(tiny: Tiny):
    with pytest.raises(
        ConfigError, match=r"loss.ntxent.on_context is false.* model.use_target_encoder is false"
    ):
        tiny(ALONE | {"loss.use_ntxent": True, "loss.ntxent.on_context": False})


def spread(config: RunConfig) -> float:
    *_, last = train(config)
    return last.metrics["val/feature_std"]


@pytest.mark.parametrize("fpn", [False, True])
def test_without_a_target_encoder_the_regularizer_keeps_features_apart(tiny: Tiny, fpn: bool):
    quiet = ALONE | {"model.fpn.use_fpn": fpn, "evaluation.eval_frequency": 4}
    held = spread(tiny(quiet | {"loss.sigreg.weight": 0.5}))
    fallen = spread(tiny(quiet | {"loss.sigreg.weight": 1e-9}))
    assert held > 0.5
    assert held > 2 * fallen


def test_without_a_target_encoder_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    tiny: Tiny, tmp_path: Path
):
    flat = {
        "loss.sigreg.fixed_slices": True,
        "loss.sigreg.flatten_patches": True,
        "loss.sigreg.num_slices": 16,
    }
    config = tiny(LONG | flat | {"model.use_target_encoder": False, "training.epochs": 3})
    reports, found = train(config), []
    for report in reports:
        found.append(numbers(report))
        if report.epoch == 2:
            state = saved(report, tmp_path / "middle.pt")
    assert not [name for name in state["model"] if name.startswith("target_")]
    assert [*map(numbers, train(config, resume=tmp_path / "middle.pt"))] == found[2:]


# Bad ends


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(tiny: Tiny):
    absurd = {"training.optimizer": "sgd", "training.lr": 1e30, "training.clip_grad": None}
    with pytest.raises(NonFiniteError, match=r"is (nan|inf|-inf) at step [1-9]"):
        list(train(tiny(absurd | {"training.lr_schedule": "constant", "training.epochs": 2})))


def test_targets_that_are_no_numbers_end_the_run_though_every_loss_was_one(tiny: Tiny):
    # One step: its loss is that of the first weights, and what it leaves is beyond numbers.
    absurd = {"training.optimizer": "sgd", "training.lr": 1e30, "training.clip_grad": None}
    one = {"data.batch_size": 600, "training.lr_schedule": "constant", "model.ema.momentum_end": 0.0}
    with pytest.raises(NonFiniteError, match="not finite at step 1"):
        list(train(tiny(absurd | one)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"evaluation.collapse.min_std": 100.0}, "nearly the same features"),
        ({"evaluation.collapse.min_rank": 100.0}, "too few directions"),
    ],
    ids=["spread", "rank"],
)
def test_a_collapsed_run_says_so_and_ends(tiny: Tiny, changed: dict[str, Any], reason: str):
    (report,) = train(tiny(changed | {"training.epochs": 3}))
    assert report.epoch == 1
    assert reason in (report.collapsed or "")


def test_a_device_that_is_not_there_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: cuda is not available here; available: "):
        next(train(tiny({"device": "cuda"})))


def test_every_report_says_what_share_of_its_steps_waited_for_images(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    run = build_run(tiny({"training.epochs": 2}))
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    read = type(run.data.train).images

    def slowly(split: Any, indices_B: np.ndarray) -> np.ndarray:
        clock[0] += 3.0
        return read(split, indices_B)

    def step(run: Any, batch: np.ndarray) -> dict[str, Tensor]:
        to_device(run, run.data.train, batch)
        clock[0] += 1.0
        return {"train/loss": torch.tensor(0.0)}

    monkeypatch.setattr("hjepa.data.split.Split.images", slowly)
    monkeypatch.setattr(sys.modules["hjepa.train"], "train_step", step)
    waits = [report.metrics["time/data_wait"] for report in train_run(run)]
    assert waits == [0.75, 0.75]  # evaluation reads images too, and counts in neither
