"""Every key does something: changed where it is active, it changes the run; where inert, not a bit.

The predecessor of this code read 72 of its 179 keys.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from hjepa.config import RunConfig
from hjepa.data.cifar import CIFAR10, IMAGE_BYTES
from hjepa.run import build_run
from hjepa.schema import has_effect, inert_reason, leaves
from hjepa.train import train_run

Tiny = Callable[..., RunConfig]

# Speed and place only. A key belongs here where it changes neither weights nor metrics; the last of
# logging's adds a count to the records.
EXEMPT = (
    "model.use_flash_attention",
    "data.cache_budget_gb",
    "data.num_workers",
    "data.max_bad",
    "data.pin_memory",
    "data.cache_dir",
    "data.multicrop.global_crop_size",
    "training.use_gradient_checkpointing",
    "checkpoint.save_frequency",
    "checkpoint.keep_last_k",
    "checkpoint.keep_best_n",
    "checkpoint.metric",
    "checkpoint.mode",
    "checkpoint.checkpoint_dir",
    "checkpoint.resume",
    "logging.experiment_name",
    "logging.description",
    "logging.log_dir",
    "logging.log_frequency",
    "logging.log_gradients",
    "logging.log_attention",
    "logging.log_images",
    "logging.log_dataset_distribution",
    "logging.wandb.enabled",
    "logging.wandb.project",
    "logging.wandb.entity",
    "logging.wandb.tags",
    "logging.tensorboard.enabled",
    "logging.mlflow.enabled",
    "logging.mlflow.tracking_uri",
    "logging.mlflow.experiment",
    "distributed.enabled",
    "distributed.backend",
    "distributed.world_size",
    "device",
    "threads",
)


class Row(NamedTuple):
    """A value that differs from the tiny run's, and what else must be set for the key to be active."""

    value: Any
    base: dict[str, Any] = {}  # noqa: RUF012 (never changed)


ROPE = {"model.rope.use_rope": True}
LAYERSCALE = {"model.use_layerscale": True}
FPN = {"model.fpn.use_fpn": True}
THREE_LEVELS = {"data.image_size": 16, "loss.hierarchy_weights": [1.0, 0.5, 0.25], "model.num_hierarchies": 3}
WARM = {"training.epochs": 2, "training.warmup_epochs": 1}
VICREG = {"loss.use_vicreg": True}
SIGREG = {"loss.use_sigreg": True}
NTXENT = {"loss.use_ntxent": True}
PROBE = {"evaluation.linear_probe.enabled": True, "evaluation.linear_probe.epochs": 2}
PROBE_CIFAR = PROBE | {
    "evaluation.linear_probe.dataset": "cifar10",
    "evaluation.linear_probe.data_path": "ONE FOLDER",
    "evaluation.linear_probe.epochs": 20,
}
LIDAR = {"evaluation.lidar.enabled": True, "evaluation.lidar.num_views": 3}
CROPS = {"data.use_multicrop": True}
GROWING = CROPS | {
    "training.epochs": 2,
    "data.multicrop.adaptive": True,
    "data.multicrop.adaptive_config.max_local_crops": 4,
    "data.multicrop.adaptive_config.warmup_epochs": 1,
}
ONE_CROP = CROPS | {"data.multicrop.num_global_crops": 1, "data.multicrop.num_local_crops": 0}
UNUSED_CROPS = CROPS | {"loss.multicrop.weight": 0.0}
CROSS = CROPS | {"masking.strategy": "cross_crop_prediction", "data.multicrop.num_global_crops": 1}
CROWDED = {"masking.mask_scale": [0.8, 0.9]}
ROOMY = {"masking.min_keep": 1, "masking.num_masks": 1}
MOMENTUM = {"model.ema.momentum": 0.5, "model.ema.momentum_end": 0.9}
DEIT3 = {"data.augmentation.strategy": "deit3"}
RANDAUGMENT = DEIT3 | {"data.augmentation.deit3.auto_augment": True}
UNMIXED = {"data.augmentation.deit3.mixup_alpha": 0.0, "data.augmentation.deit3.cutmix_alpha": 0.0}
ERASING = DEIT3 | {"data.augmentation.deit3.random_erasing_prob": 0.5}
# Folders of a few made-up images each, in the public format.
CIFAR = {"data.dataset": "cifar10", "data.data_path": "ONE FOLDER", "data.batch_size": 16}
STL10 = {"data.dataset": "stl10", "data.data_path": "STL10 FOLDER", "data.batch_size": 20}
FOLDER = {"data.dataset": "imagefolder", "data.data_path": "IMAGE FOLDER", "data.batch_size": 10}
CIFAR_SET, STL10_SET = ("cifar10", "ONE FOLDER"), ("stl10", "STL10 FOLDER")


def several(*sets: tuple[str, str], weight: float = 1.0) -> dict[str, Any]:
    """Data sets by name and folder; the first has the weight."""
    entries = [{"name": name, "path": path, "weight": 1.0} for name, path in sets]
    entries[0]["weight"] = weight
    return {"data.use_multi_dataset": True, "data.datasets": entries, "data.batch_size": 20}


SEVERAL = several(CIFAR_SET, STL10_SET)
NAMED: dict[str, Any] = {
    "model.encoder_type": "test_vit",
    "model.embed_dim": None,
    "model.depth": None,
    "model.num_heads": None,
    "model.patch_size": None,
    "data.image_size": 32,
    "masking.min_keep": 1,
}

PATHS = ("data.data_path", "data.class_list", "model.pretrained", "evaluation.linear_probe.data_path")

TABLE: dict[str, Row] = {
    "model.encoder_type": Row("test_vit2", NAMED),
    "model.pretrained": Row("WEIGHTS", NAMED),
    "model.embed_dim": Row(24),
    "model.depth": Row(1),
    "model.num_heads": Row(4),
    "model.patch_size": Row(4, {"masking.min_keep": 1}),
    "model.mlp_ratio": Row(2.0),
    "model.use_layerscale": Row(True),
    "model.layerscale_init": Row(0.5, LAYERSCALE),
    "model.drop_path_rate": Row(0.5),
    "model.rope.use_rope": Row(True),
    "model.rope.theta": Row(10.0, ROPE),
    "model.num_hierarchies": Row(2, THREE_LEVELS),  # with one weight less
    "model.use_target_encoder": Row(False, SIGREG),
    "model.predictor.mode": Row("per_block"),
    "model.predictor.embed_dim": Row(12),
    "model.predictor.depth": Row(2),
    "model.predictor.num_heads": Row(4),
    "model.predictor.mlp_ratio": Row(2.0),
    "model.predictor.dropout": Row(0.5),
    "model.predictor.qkv_bias": Row(False),
    "model.ema.momentum": Row(0.9),
    "model.ema.momentum_end": Row(0.5, MOMENTUM),
    "model.ema.momentum_warmup_epochs": Row(0.5, MOMENTUM),
    "model.fpn.use_fpn": Row(True),
    "model.fpn.feature_dim": Row(8, FPN),
    "model.fpn.fusion_method": Row("concat", FPN),
    "data.dataset": Row("digits", CIFAR),
    "data.data_path": Row("ANOTHER FOLDER", CIFAR),
    "data.class_list": Row("CLASS LIST", FOLDER),
    "data.stored_size": Row(12, FOLDER),
    "data.unlabeled": Row(True, STL10),
    "data.use_multi_dataset": Row(False, SEVERAL),
    "data.datasets": Row(several(CIFAR_SET, STL10_SET, weight=3.0)["data.datasets"], SEVERAL),
    "data.sampling_strategy": Row("balanced", several(CIFAR_SET, STL10_SET, weight=3.0)),
    "data.evaluate_on": Row("stl10", SEVERAL),
    "data.image_size": Row(12),
    "data.batch_size": Row(240),
    "data.val_fraction": Row(0.4),
    "data.split_seed": Row(1),
    "data.augmentation.random_crop": Row(False),
    "data.augmentation.crop_scale": Row([0.3, 0.9]),
    "data.augmentation.horizontal_flip": Row(True),
    "data.augmentation.color_jitter": Row(0.4),
    "data.use_multicrop": Row(True),
    "data.multicrop.num_global_crops": Row(3, CROPS),
    "data.multicrop.num_local_crops": Row(2, CROPS),
    "data.multicrop.local_crop_size": Row(6, CROPS),
    "data.multicrop.global_crop_scale": Row([0.6, 1.0], CROPS),
    "data.multicrop.local_crop_scale": Row([0.3, 0.6], CROPS),
    "data.multicrop.global_color_jitter": Row(0.4, CROPS),
    "data.multicrop.local_color_jitter": Row(0.4, CROPS),
    "data.multicrop.adaptive": Row(True, CROPS),
    "data.multicrop.adaptive_config.min_local_crops": Row(1, GROWING),
    "data.multicrop.adaptive_config.max_local_crops": Row(3, GROWING),
    "data.multicrop.adaptive_config.warmup_epochs": Row(2, GROWING),
    "data.augmentation.random_gray_scale": Row(0.5, CIFAR),
    "data.augmentation.gaussian_blur": Row(0.5),
    "data.augmentation.solarization": Row(0.5),
    "data.augmentation.strategy": Row("deit3"),
    "data.augmentation.deit3.three_augment": Row(False, DEIT3),
    "data.augmentation.deit3.auto_augment": Row(True, DEIT3),
    "data.augmentation.deit3.rand_aug_num_ops": Row(1, RANDAUGMENT),
    "data.augmentation.deit3.rand_aug_magnitude": Row(20, RANDAUGMENT),
    "data.augmentation.deit3.random_erasing_prob": Row(0.5, DEIT3),
    "data.augmentation.deit3.random_erasing_scale": Row([0.3, 0.6], ERASING),
    "data.augmentation.deit3.random_erasing_ratio": Row([3.0, 4.0], ERASING),
    "data.augmentation.deit3.mixup_alpha": Row(0.2, DEIT3),
    "data.augmentation.deit3.cutmix_alpha": Row(0.2, DEIT3),
    "data.augmentation.deit3.mixup_cutmix_prob": Row(0.5, DEIT3),
    "data.augmentation.deit3.mixup_switch_prob": Row(0.1, DEIT3),
    "masking.num_masks": Row(2),
    "masking.mask_scale": Row([0.4, 0.5]),
    "masking.aspect_ratio": Row([4.0, 6.0]),
    "masking.num_context_masks": Row(3, {"masking.context_scale": [0.3, 0.4]}),
    "masking.context_scale": Row([0.3, 0.4]),
    "masking.min_keep": Row(6, CROWDED),
    "masking.max_keep": Row(3, ROOMY),
    "masking.strategy": Row("cross_crop_prediction", CROPS),
    "masking.reference_offsets": Row(True),
    "training.epochs": Row(2),
    "training.warmup_epochs": Row(0.5),
    "training.warmup_lr_ratio": Row(0.5, WARM),
    "training.lr": Row(0.02),
    "training.min_lr": Row(0.005),
    "training.min_lr_ratio": Row(0.5),
    "training.lr_schedule": Row("linear", {"training.min_lr_ratio": 0.1, "data.batch_size": 120}),
    "training.optimizer": Row("sgd"),
    "training.betas": Row([0.5, 0.95]),
    "training.weight_decay": Row(0.5),
    "training.clip_grad": Row(0.01, {"training.optimizer": "sgd"}),
    "training.accumulation_steps": Row(2),
    "training.use_amp": Row(True),
    "loss.type": Row("smoothl1"),
    "loss.hierarchy_weights": Row([0.1, 1.0]),
    "loss.prediction_weight": Row(0.1, SIGREG),
    "loss.normalize_embeddings": Row(True),
    "loss.smoothl1.beta": Row(0.1, {"loss.type": "smoothl1"}),
    "loss.huber.delta": Row(0.1, {"loss.type": "huber"}),
    "loss.use_vicreg": Row(True),
    "loss.vicreg.weight": Row(1.0, VICREG),
    "loss.vicreg.sim_coeff": Row(1.0, VICREG),
    "loss.vicreg.std_coeff": Row(1.0, VICREG),
    "loss.vicreg.cov_coeff": Row(25.0, VICREG),
    "loss.vicreg.eps": Row(0.1, VICREG),
    "loss.vicreg.flatten_patches": Row(True, VICREG),
    "loss.use_sigreg": Row(True),
    "loss.sigreg.weight": Row(1.0, SIGREG),
    "loss.sigreg.num_slices": Row(16, SIGREG),
    "loss.sigreg.num_points": Row(5, SIGREG),
    "loss.sigreg.fixed_slices": Row(True, SIGREG),
    "loss.sigreg.flatten_patches": Row(True, SIGREG),
    "loss.use_ntxent": Row(True),
    "loss.ntxent.weight": Row(1.0, NTXENT),
    "loss.ntxent.temperature": Row(1.0, NTXENT),
    "loss.ntxent.on_context": Row(False, NTXENT),
    "loss.ntxent.use_cosine_similarity": Row(False, NTXENT),
    "loss.multicrop.weight": Row(0.1, CROPS),
    "evaluation.eval_frequency": Row(2, {"training.epochs": 3}),
    "evaluation.knn.k": Row(1),
    "evaluation.knn.temperature": Row(1e-4),
    "evaluation.knn.k_values": Row([1, 5]),
    "evaluation.linear_probe.enabled": Row(True, {"evaluation.linear_probe.epochs": 2}),
    "evaluation.linear_probe.dataset": Row("digits", PROBE_CIFAR),
    "evaluation.linear_probe.data_path": Row("ANOTHER FOLDER", PROBE_CIFAR),
    "evaluation.linear_probe.epochs": Row(3, PROBE),
    "evaluation.linear_probe.lr": Row(1.0, PROBE),
    "evaluation.linear_probe.batch_size": Row(64, PROBE),
    "evaluation.lidar.enabled": Row(True, {"evaluation.lidar.num_views": 3}),
    "evaluation.lidar.num_images": Row(50, LIDAR),
    "evaluation.lidar.num_views": Row(4, LIDAR),
    "evaluation.val_loss": Row(True),
    "evaluation.collapse.min_rank": Row(100.0),
    "evaluation.collapse.min_std": Row(100.0),
    "seed": Row(7),
}

# What has to change along with a key for the config to stay legal.
ALONG = {"model.num_hierarchies": {"loss.hierarchy_weights": [1.0, 0.5]}}
ALONG_INERT = {"model.num_hierarchies": {"loss.hierarchy_weights": [1.0, 0.5, 0.25]}}
# Weights that are there and that nothing computes with.
UNUSED_WITHOUT_PREDICTION = ("predictor.", "pyramid.", "target_pyramid.", "heads.")


class Result(NamedTuple):
    """What a run leaves behind, less its speed."""

    weights: dict[str, Tensor]
    reports: list[dict[str, Any]]

    def same_weights(self, other: "Result", unused: tuple[str, ...] = ()) -> bool:
        own, others = (
            {name: value for name, value in one.weights.items() if not name.startswith(unused)}
            for one in (self, other)
        )
        if own.keys() != others.keys():
            return False
        return all(torch.equal(value, others[name]) for name, value in own.items())


def write_cifar10(folder: Path, seed: int) -> str:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for batch in CIFAR10.train + CIFAR10.test:
        rows = random.integers(0, 256, (20, 1 + IMAGE_BYTES), dtype=np.uint8)
        rows[:, 0] = np.arange(20) % 10
        if seed:  # as bright as its class is late, which can be learnt
            rows[:, 1:] = rows[:, 1:] // 8 + 22 * rows[:, :1]
        (folder / f"{batch}.bin").write_bytes(rows.tobytes())
    return str(folder)


def write_stl10(folder: Path) -> str:
    folder.mkdir()
    random = np.random.default_rng(0)
    for part in ("train", "test", "unlabeled"):
        images = random.integers(0, 256, (40, 3, 96, 96), dtype=np.uint8)
        (folder / f"{part}_X.bin").write_bytes(images.tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(40)))
    return str(folder)


def write_image_folder(folder: Path) -> str:
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 256, (14, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def configured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("data")
    folders = {
        name: write_cifar10(root / name, seed) for seed, name in enumerate(("ONE FOLDER", "ANOTHER FOLDER"))
    }
    folders["STL10 FOLDER"] = write_stl10(root / "STL10 FOLDER")
    folders["IMAGE FOLDER"] = write_image_folder(root / "IMAGE FOLDER")
    (root / "CLASS LIST").write_text("ant\ncow\n")
    folders["CLASS LIST"] = str(root / "CLASS LIST")
    for name, scale in (("WEIGHTS", None), ("SCALED WEIGHTS", 0.1)):
        model = timm.create_model("test_vit", num_classes=0, init_values=scale)
        torch.save(model.state_dict(), root / name)
        folders[name] = str(root / name)

    def config(changed: dict[str, Any]) -> RunConfig:
        paths = {key: folders[value] for key, value in changed.items() if key in PATHS}
        if "data.datasets" in changed:
            sets = [one | {"path": folders[one["path"]]} for one in changed["data.datasets"]]
            paths["data.datasets"] = sets
        return tiny(changed | paths)

    return config


@cache
def result(config: RunConfig) -> Result:
    run = build_run(config)
    reports = []
    for report in train_run(run):
        metrics = {name: value for name, value in report.metrics.items() if not name.startswith("time/")}
        reports.append(metrics | {"collapsed": report.collapsed})
    return Result(run.model.state_dict(), reports)


def test_every_leaf_has_a_row_or_is_exempt():
    keys = dict(leaves(RunConfig))
    print("exempt, as they change speed and place only:", *EXEMPT, sep="\n  ")
    assert tuple(key for key, field in keys.items() if not has_effect(field)) == EXEMPT
    wanted = [key for key in keys if key not in EXEMPT]
    missing = [key for key in wanted if key not in TABLE]
    assert not missing, f"TABLE lacks a row for {', '.join(missing)}: a value that must change the result"
    assert [key for key in TABLE if key not in wanted] == [], "rows for keys that are not there"


@pytest.mark.parametrize("key", TABLE)
def test_the_key_matters(configured: Tiny, key: str):
    value, base = TABLE[key]
    before = configured(base)
    after = configured(base | {key: value} | ALONG.get(key, {}))
    assert inert_reason(before, key) is None or inert_reason(after, key) is None
    assert before != after
    if "evaluat" in key:
        assert result(before).reports != result(after).reports
        return
    assert not result(before).same_weights(result(after))
    # Weights differ as soon as there are more of them; they must be used as well.
    assert measured(result(before)) != measured(result(after))


def measured(found: Result) -> list[dict[str, Any]]:
    return [{name: v for name, v in report.items() if name != "train/lr"} for report in found.reports]


@pytest.mark.parametrize("key", [key for key in TABLE if "evaluat" in key])
def test_looking_changes_nothing(configured: Tiny, key: str):
    value, base = TABLE[key]
    found, expected = result(configured(base | {key: value})), result(configured(base))
    if len(found.reports) == len(expected.reports):  # a run that counts as collapsed ends early
        assert found.same_weights(expected)


def test_betas_matter_each(configured: Tiny):
    assert not result(configured({})).same_weights(result(configured({"training.betas": [0.9, 0.5]})))


def test_the_weight_of_a_single_level_matters(configured: Tiny):
    one = {"model.num_hierarchies": 1, "training.optimizer": "sgd", "loss.hierarchy_weights": [1.0]}
    half = one | {"loss.hierarchy_weights": [0.5]}
    assert inert_reason(configured(one), "loss.hierarchy_weights") is None
    assert not result(configured(one)).same_weights(result(configured(half)))


def test_boxes_of_the_whole_image_are_drawn(configured: Tiny):
    """So the key is not inert: what is drawn after them differs."""
    whole = {"data.augmentation.crop_scale": [1.0, 1.0]}
    uncropped = whole | {"data.augmentation.random_crop": False}
    assert inert_reason(configured(whole), "data.augmentation.random_crop") is None
    assert not result(configured(whole)).same_weights(result(configured(uncropped)))


UNWEIGHTED = VICREG | {"loss.prediction_weight": 0.0}
UNPREDICTED = UNWEIGHTED | {"model.predictor.dropout": 0.5}
WITHOUT_FALL = {"training.warmup_epochs": 1}
WEIGHTLESS = {"loss.vicreg.weight": 0.0, "loss.sigreg.weight": 0.0, "loss.ntxent.weight": 0.0}
NO_TARGET = SIGREG | {"model.use_target_encoder": False}

INERT: list[tuple[str, Any, dict[str, Any]]] = [
    ("model.ema.momentum", 0.5, NO_TARGET),
    ("model.ema.momentum_end", 0.5, NO_TARGET),
    ("model.layerscale_init", 0.5, {}),
    ("model.layerscale_init", 0.5, NAMED | LAYERSCALE | {"model.pretrained": "SCALED WEIGHTS"}),
    ("model.drop_path_rate", 0.5, {"model.depth": 1}),
    ("model.rope.theta", 10.0, {}),
    ("model.ema.momentum", 0.5, {"model.ema.momentum_warmup_epochs": 0}),
    ("model.ema.momentum_warmup_epochs", 0.5, {"model.ema.momentum": 0.9, "model.ema.momentum_end": 0.9}),
    ("model.fpn.feature_dim", 8, {}),
    ("model.fpn.fusion_method", "concat", {}),
    (
        "model.fpn.fusion_method",
        "concat",
        FPN | {"model.num_hierarchies": 1, "loss.hierarchy_weights": [1.0]},
    ),
    ("data.data_path", "ONE FOLDER", {}),
    ("data.class_list", "CLASS LIST", {}),
    ("data.dataset", "cifar10", SEVERAL),
    ("data.data_path", "ONE FOLDER", SEVERAL),
    ("data.unlabeled", True, SEVERAL),
    ("data.datasets", SEVERAL["data.datasets"], {}),
    ("data.sampling_strategy", "balanced", {}),
    ("data.sampling_strategy", "concat", several(CIFAR_SET)),
    ("data.evaluate_on", "stl10", {}),
    ("data.stored_size", 12, {}),
    ("data.unlabeled", True, {}),
    ("data.augmentation.crop_scale", [0.3, 0.9], {"data.augmentation.random_crop": False}),
    ("masking.max_keep", 15, {"masking.max_keep": 16}),
    ("data.augmentation.random_crop", False, CROPS),
    ("data.augmentation.crop_scale", [0.3, 0.9], CROPS),
    (
        "data.augmentation.color_jitter",
        0.4,
        CROPS | {"data.multicrop.global_color_jitter": 0.1, "data.multicrop.local_color_jitter": 0.2},
    ),
    ("data.multicrop.num_global_crops", 3, {}),
    ("data.multicrop.local_crop_scale", [0.3, 0.6], ONE_CROP),
    ("data.multicrop.num_local_crops", 2, UNUSED_CROPS),
    ("data.multicrop.num_local_crops", 2, GROWING),
    ("data.multicrop.local_crop_size", 6, UNUSED_CROPS),
    ("data.multicrop.adaptive", True, UNUSED_CROPS),
    ("data.multicrop.adaptive_config.max_local_crops", 12, CROPS),
    ("data.multicrop.adaptive_config.max_local_crops", 12, CROPS | {"data.multicrop.adaptive": True}),
    (
        "data.multicrop.adaptive_config.min_local_crops",
        3,
        GROWING | {"data.multicrop.adaptive_config.warmup_epochs": 0},
    ),
    (
        "data.multicrop.adaptive_config.warmup_epochs",
        2,
        GROWING | {"data.multicrop.adaptive_config.min_local_crops": 4},
    ),
    ("masking.strategy", "cross_crop_prediction", {}),
    ("masking.strategy", "global_with_local_context", CROPS | {"data.multicrop.num_local_crops": 0}),
    ("masking.strategy", "cross_crop_prediction", CROPS | SIGREG | {"loss.prediction_weight": 0.0}),
    ("masking.context_scale", [0.3, 0.4], CROSS),
    ("loss.multicrop.weight", 0.1, {}),
    ("loss.multicrop.weight", 0.1, ONE_CROP),
    ("data.augmentation.deit3.auto_augment", True, {}),
    ("data.augmentation.deit3.mixup_alpha", 0.2, {}),
    ("data.augmentation.deit3.three_augment", False, RANDAUGMENT),
    ("data.augmentation.deit3.rand_aug_num_ops", 1, DEIT3),
    ("data.augmentation.deit3.rand_aug_magnitude", 20, DEIT3),
    ("data.augmentation.deit3.random_erasing_scale", [0.3, 0.6], DEIT3),
    ("data.augmentation.deit3.random_erasing_ratio", [3.0, 4.0], DEIT3),
    ("data.augmentation.deit3.mixup_alpha", 0.0, DEIT3 | {"data.augmentation.deit3.mixup_switch_prob": 1.0}),
    ("data.augmentation.deit3.cutmix_alpha", 0.2, DEIT3 | {"data.augmentation.deit3.mixup_switch_prob": 0.0}),
    ("data.augmentation.deit3.mixup_alpha", 0.2, DEIT3 | {"data.augmentation.deit3.mixup_cutmix_prob": 0.0}),
    ("data.augmentation.deit3.mixup_switch_prob", 0.1, DEIT3 | {"data.augmentation.deit3.cutmix_alpha": 0.0}),
    ("data.augmentation.deit3.mixup_cutmix_prob", 0.5, DEIT3 | UNMIXED),
    ("training.warmup_lr_ratio", 0.5, {}),
    ("training.min_lr", 0.005, {"training.lr_schedule": "constant"}),
    ("training.min_lr_ratio", 0.5, {"training.lr_schedule": "constant"}),
    ("loss.normalize_embeddings", True, {"loss.type": "cosine"}),
    ("loss.smoothl1.beta", 0.1, {}),
    ("loss.huber.delta", 0.1, {}),
    ("loss.type", "cosine", UNWEIGHTED),
    ("model.predictor.mode", "per_block", UNWEIGHTED),
    ("model.predictor.mode", "per_block", UNPREDICTED),
    ("model.predictor.embed_dim", 12, UNPREDICTED),
    ("model.predictor.depth", 2, UNPREDICTED),
    ("model.predictor.dropout", 0.0, UNPREDICTED),
    ("model.fpn.use_fpn", True, UNWEIGHTED),
    ("model.fpn.feature_dim", 8, UNWEIGHTED | FPN),
    ("model.num_hierarchies", 3, UNWEIGHTED | {"data.image_size": 16}),
    ("loss.hierarchy_weights", [0.1, 1.0], UNWEIGHTED),
    ("loss.normalize_embeddings", True, UNWEIGHTED),
    ("loss.smoothl1.beta", 0.1, UNWEIGHTED | {"loss.type": "smoothl1"}),
    ("training.lr_schedule", "linear", WITHOUT_FALL),
    ("training.min_lr", 0.005, WITHOUT_FALL),
    ("training.min_lr_ratio", 0.5, WITHOUT_FALL),
    ("training.lr_schedule", "linear", {"training.min_lr": 0.01}),
    (
        "training.warmup_epochs",
        1,
        {"training.warmup_lr_ratio": 1.0, "training.min_lr_ratio": 1.0}
        | WITHOUT_FALL
        | {"training.warmup_epochs": 0.5},
    ),
    ("training.betas[1]", [0.9, 0.5], {"training.optimizer": "sgd"}),
    ("loss.use_vicreg", False, VICREG | WEIGHTLESS),
    ("loss.vicreg.std_coeff", 1.0, VICREG | WEIGHTLESS),
    ("loss.vicreg.eps", 0.1, VICREG | {"loss.vicreg.std_coeff": 0.0}),
    (
        "loss.vicreg.weight",
        1.0,
        VICREG | {f"loss.vicreg.{name}_coeff": 0.0 for name in ("sim", "std", "cov")},
    ),
    ("loss.sigreg.num_slices", 16, SIGREG | WEIGHTLESS),
    ("loss.use_sigreg", False, SIGREG | WEIGHTLESS),
    ("loss.ntxent.on_context", False, NTXENT | WEIGHTLESS),
    ("loss.use_ntxent", False, NTXENT | WEIGHTLESS),
    ("data.multicrop.num_local_crops", 2, UNUSED_CROPS | SIGREG | WEIGHTLESS),
    ("loss.vicreg.weight", 1.0, {}),
    ("loss.vicreg.std_coeff", 1.0, {}),
    ("loss.sigreg.num_slices", 16, {}),
    ("loss.sigreg.fixed_slices", True, {}),
    ("loss.ntxent.temperature", 1.0, {}),
    ("loss.ntxent.on_context", False, {}),
    ("evaluation.eval_frequency", 2, {}),
    ("evaluation.knn.temperature", 1e-4, {"evaluation.knn.k": 1}),
    ("evaluation.linear_probe.lr", 1.0, {}),
    ("evaluation.linear_probe.dataset", "cifar10", {}),
    ("evaluation.linear_probe.data_path", "ONE FOLDER", PROBE),
    ("evaluation.lidar.num_views", 3, {}),
    ("distributed.backend", "nccl", {"distributed.enabled": False}),
    ("distributed.world_size", 2, {"distributed.enabled": False}),
]


@pytest.mark.parametrize(
    ("key", "value", "base"), INERT, ids=[f"{key} {i}" for i, (key, *_) in enumerate(INERT)]
)
def test_an_inert_key_changes_not_a_bit(configured: Tiny, key: str, value: Any, base: dict[str, Any]):
    changed = {key.partition("[")[0]: value} | ALONG_INERT.get(key, {})
    before, after = configured(base), configured(base | changed)
    assert inert_reason(before, key)
    unused = UNUSED_WITHOUT_PREDICTION if before.loss.prediction_weight == 0 else ()
    assert result(before).same_weights(result(after), unused)
    assert result(before).reports == result(after).reports


@pytest.mark.parametrize(
    ("key", "value", "base"),
    [
        ("training.use_gradient_checkpointing", True, {}),
        ("data.pin_memory", False, {}),
        ("logging.log_frequency", 1, {}),
        ("logging.log_gradients", True, {}),
        ("distributed.enabled", True, {}),
        ("distributed.world_size", 1, {"distributed.enabled": True}),
        ("data.cache_budget_gb", 1e-9, FOLDER),
    ],
)
def test_a_key_of_speed_changes_not_a_bit(configured: Tiny, key: str, value: Any, base: dict[str, Any]):
    before, after = configured(base), configured(base | {key: value})
    assert result(before).same_weights(result(after))
    for told, expected in zip(result(after).reports, result(before).reports, strict=True):
        assert expected.items() <= told.items()
