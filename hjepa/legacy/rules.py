"""What each key of the old configs is called now, and what becomes of its value.

A rule is by the old key's name. A key without one is taken over under its own name, if there is a key
of that name now. From the config audit: its appendix B, and which of the keys the old code read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hjepa.legacy.reading import OldFile

# Keys that stood in configs and that the old code read nowhere. Where a file says a thing twice, the
# spelling that was read counts.
UNREAD = frozenset(
    {
        "checkpoint.keep_last_k",
        "checkpoint.metric",
        "checkpoint.mode",
        "checkpoint.resume",
        "checkpoint.save_best",
        "data.augmentation.crop_scale",
        "data.augmentation.gaussian_blur",
        "data.augmentation.horizontal_flip",
        "data.augmentation.random_crop",
        "data.augmentation.random_gray_scale",
        "data.augmentation.solarization",
        "data.augmentation.strategy",
        "data.augmentation.deit3.auto_augment",
        "data.augmentation.deit3.cutmix_alpha",
        "data.augmentation.deit3.mixup_alpha",
        "data.augmentation.deit3.mixup_cutmix_prob",
        "data.augmentation.deit3.mixup_switch_prob",
        "data.augmentation.deit3.rand_aug_magnitude",
        "data.augmentation.deit3.rand_aug_num_ops",
        "data.augmentation.deit3.random_erasing_prob",
        "data.augmentation.deit3.random_erasing_ratio",
        "data.augmentation.deit3.random_erasing_scale",
        "data.multicrop.adaptive",
        "data.multicrop.adaptive_config.max_local_crops",
        "data.multicrop.adaptive_config.min_local_crops",
        "data.multicrop.adaptive_config.warmup_epochs",
        "data.multicrop.global_color_jitter",
        "data.multicrop.global_crop_scale",
        "data.multicrop.global_crop_size",
        "data.multicrop.local_color_jitter",
        "data.multicrop.local_crop_scale",
        "data.multicrop.local_crop_size",
        "data.multicrop.num_global_crops",
        "data.multicrop.num_local_crops",
        "data.transforms.color_jitter",
        "data.transforms.crop_scale",
        "data.transforms.horizontal_flip",
        "data.use_multicrop",
        "distributed.backend",
        "distributed.enabled",
        "distributed.world_size",
        "evaluation.knn.enabled",
        "evaluation.knn.frequency",
        "evaluation.knn.k_values",
        "evaluation.linear_probe.batch_size",
        "evaluation.linear_probe.dataset",
        "evaluation.linear_probe.enabled",
        "evaluation.linear_probe.epochs",
        "evaluation.linear_probe.lr",
        "experiment.description",
        "experiment.eval_frequency",
        "experiment.name",
        "experiment.output_dir",
        "experiment.save_frequency",
        "experiment.seed",
        "logging.eval_freq",
        "logging.log_attention",
        "logging.log_dataset_distribution",
        "logging.log_freq",
        "logging.log_gradients",
        "logging.log_images",
        "logging.metrics",
        "logging.use_tensorboard",
        "logging.use_wandb",
        "logging.wandb",
        "loss.use_vicreg",
        "loss.vicreg.cov_coeff",
        "loss.vicreg.sim_coeff",
        "loss.vicreg.std_coeff",
        "loss.vicreg_weight",
        "masking.aspect_ratio_range",
        "masking.context_scale",
        "masking.max_keep",
        "masking.min_keep",
        "masking.num_context_masks",
        "masking.num_target_masks",
        "masking.num_targets",
        "masking.scale_range",
        "masking.strategy",
        "model.depth",
        "model.layerscale_init",
        "model.num_heads",
        "model.predictor.dropout",
        "model.predictor.qkv_bias",
        "model.rope.theta",
        "model.rope.use_rope",
        "model.rope_theta",
        "model.target_encoder.ema_anneal_end_step",
        "model.target_encoder.ema_decay",
        "model.target_encoder.ema_end_decay",
        "model.use_fpn",
        "model.use_gradient_checkpointing",
        "model.use_layerscale",
        "model.use_rope",
        "training.checkpoint_freq",
        "training.gradient_clip",
        "training.keep_last_n",
        "training.min_lr_ratio",
        "training.mixed_precision",
        "training.optimizer.betas",
        "training.optimizer.lr",
        "training.optimizer.type",
        "training.optimizer.weight_decay",
        "training.scheduler.min_lr",
        "training.scheduler.type",
        "training.scheduler.warmup_type",
        "training.warmup_lr_ratio",
    }
)

RENAMED: dict[str, str] = {
    "data.transforms.color_jitter": "data.augmentation.color_jitter",
    "data.transforms.crop_scale": "data.augmentation.crop_scale",
    "data.transforms.horizontal_flip": "data.augmentation.horizontal_flip",
    "experiment.description": "logging.description",
    "experiment.eval_frequency": "evaluation.eval_frequency",
    "experiment.name": "logging.experiment_name",
    "experiment.output_dir": "checkpoint.checkpoint_dir",
    "experiment.save_frequency": "checkpoint.save_frequency",
    "experiment.seed": "seed",
    "logging.eval_freq": "evaluation.eval_frequency",
    "logging.log_freq": "logging.log_frequency",
    "logging.use_tensorboard": "logging.tensorboard.enabled",
    "logging.use_wandb": "logging.wandb.enabled",
    "logging.wandb": "logging.wandb.enabled",
    "logging.tensorboard": "logging.tensorboard.enabled",
    "loss.contrastive_on_context": "loss.ntxent.on_context",
    "loss.contrastive_temperature": "loss.ntxent.temperature",
    "loss.contrastive_weight": "loss.ntxent.weight",
    "loss.jepa_weight": "loss.prediction_weight",
    "loss.sigreg_fixed_slices": "loss.sigreg.fixed_slices",
    "loss.sigreg_num_slices": "loss.sigreg.num_slices",
    "loss.sigreg_num_test_points": "loss.sigreg.num_points",
    "loss.sigreg_weight": "loss.sigreg.weight",
    "loss.use_contrastive": "loss.use_ntxent",
    "loss.use_cosine_similarity": "loss.ntxent.use_cosine_similarity",
    "masking.aspect_ratio_range": "masking.aspect_ratio",
    "masking.num_target_masks": "masking.num_masks",
    "masking.num_targets": "masking.num_masks",
    "masking.scale_range": "masking.mask_scale",
    "model.rope_theta": "model.rope.theta",
    "model.target_encoder.ema_decay": "model.ema.momentum",
    "model.target_encoder.ema_end_decay": "model.ema.momentum_end",
    "model.use_fpn": "model.fpn.use_fpn",
    "model.use_gradient_checkpointing": "training.use_gradient_checkpointing",
    "model.use_rope": "model.rope.use_rope",
    "training.checkpoint_freq": "checkpoint.save_frequency",
    "training.gradient_clip": "training.clip_grad",
    "training.keep_last_n": "checkpoint.keep_last_k",
    "training.mixed_precision": "training.use_amp",
    "training.optimizer.betas": "training.betas",
    "training.optimizer.lr": "training.lr",
    "training.optimizer.type": "training.optimizer",
    "training.optimizer.weight_decay": "training.weight_decay",
    "training.scheduler.min_lr": "training.min_lr",
    "training.scheduler.type": "training.lr_schedule",
}
"""One name for another, the value as it is."""

TRAINING_IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "digits": 1_437,
    "imagenet": 1_281_167,
    "imagenet100": 126_689,
    "stl10": 5_000,
}
"""Training images as published, by which the old code's steps become epochs."""
_MOST = 10**9  # of steps and of images of one


@dataclass(frozen=True)
class Change:
    """What becomes of an old key."""

    new: str | None
    """The key that takes the value; None where no key does."""
    value: Any
    why: str


def to_number(value: Any, whole: bool = False) -> Any:
    """A number that YAML read as text; if `whole`, one that it read as a float too. All else as it is."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


Rule = Callable[[OldFile, str, Any], Iterator[Change]]


def _save_best(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if "checkpoint.keep_best_n" in old.entries:
        yield Change(None, None, "checkpoint.keep_best_n says how many")
    else:
        yield Change("checkpoint.keep_best_n", int(bool(value)), "the number of best checkpoints to keep")


METRICS = {"val_loss": "val/loss", "loss": "train/loss", "train_loss": "train/loss"}
"""Metrics by the names that the old configs had for them."""


def _metric(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    name = METRICS.get(value, value) if isinstance(value, str) else value
    yield Change(key, name, "" if name == value else "metrics are named by what they are measured on")
    if name == "val/loss":
        yield Change("evaluation.val_loss", True, "measures val/loss, which checkpoint.metric names")


def _anneal_steps(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    names = [str(old.value("data.dataset") or "")]
    if old.value("data.use_multi_dataset"):
        listed = old.value("data.datasets")
        entries = listed if isinstance(listed, list) else []
        names = [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]
    unknown = [name for name in names if name not in TRAINING_IMAGES]
    batch = to_number(old.value("data.batch_size"), whole=True)
    parts = to_number(old.value("training.accumulation_steps", 1), whole=True)
    value = to_number(value, whole=True)
    if not all(isinstance(number, int) and 0 < number < _MOST for number in (value, batch, parts)):
        raise old.error(
            key,
            f"{value!r} steps of data.batch_size {batch!r} x training.accumulation_steps {parts!r} cannot be "
            f"put into epochs: all three must be whole numbers above 0 and below {_MOST:,}.\n"
            "Give model.ema.momentum_warmup_epochs in its place.",
        )
    if unknown or not names:
        missing = f"the size of {', '.join(filter(None, unknown)) or 'the data set'}"
        raise old.error(
            key,
            f"{value} steps cannot be put into epochs without {missing}.\n"
            "Give model.ema.momentum_warmup_epochs in its place.",
        )
    images = sum(TRAINING_IMAGES[name] for name in names)
    steps = images / (batch * parts)
    epochs = round(value / steps, 1)
    by = f"{batch} x {parts}" if parts != 1 else str(batch)
    yield Change(
        "model.ema.momentum_warmup_epochs",
        epochs,
        f"steps to epochs: {value:,} / ({images:,} images / {by}) = {epochs:g}",
    )


LOSS_TYPES: dict[str, dict[str, bool]] = {
    "cjepa": {"loss.use_ntxent": True},
    "jepa": {},
    "hjepa": {},
    "sigreg": {"loss.use_sigreg": True},
    "vicreg": {"loss.use_vicreg": True},
    "combined": {"loss.use_vicreg": True},
}
"""Old values of loss.type that name more than a distance: what they stand for beside it."""


def _loss_type(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if not isinstance(value, str) or value not in LOSS_TYPES:
        yield Change(key, value, "")
        return
    distance = old.value("loss.jepa_loss_type")
    if distance is None:
        yield Change(key, "mse", f"{value} is a distance, mse, with what is added to it")
    for new, switch in LOSS_TYPES[value].items():
        yield Change(new, switch, f"what {value} adds to the prediction loss")
    if distance is not None and not LOSS_TYPES[value]:
        yield Change(None, None, "loss.jepa_loss_type names the distance")


def _jepa_loss_type(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if str(old.value("loss.type", "jepa")) in LOSS_TYPES:
        yield Change("loss.type", value, "the distance of the prediction loss")
    else:
        yield Change(None, None, f"loss.type names the distance: {old.value('loss.type')}")


def _invariance_weight(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    yield Change("loss.prediction_weight", value, "the invariance term was the prediction error")


def _vicreg_weight(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    weight = to_number(value)
    yield Change("loss.vicreg.weight", weight, "")
    if "loss.use_vicreg" not in old.entries and isinstance(weight, int | float):
        yield Change("loss.use_vicreg", weight > 0, "a weight was given to it, to prevent collapse")


def _flatten_patches(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if old.value("loss.type") == "sigreg":
        yield Change("loss.sigreg.flatten_patches", value, "")
    else:
        yield Change("loss.vicreg.flatten_patches", value, "")


def _eps(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if old.value("loss.type") == "sigreg":
        yield Change(None, None, "kept a division from zero that SIGReg has no longer")
    else:
        yield Change("loss.vicreg.eps", value, "")


def _k_values(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    given = [to_number(k, whole=True) for k in value] if isinstance(value, list) else []
    if not given or not all(type(k) is int and k > 0 for k in given):
        raise old.error(key, f"{value!r} must be a list of numbers of neighbours, whole and above 0.")
    numbers = sorted(set(given))
    yield Change("evaluation.knn.k", numbers[-1], "the largest is val/knn_top1's")
    if numbers[:-1]:
        yield Change("evaluation.knn.k_values", numbers[:-1], "the others are measured beside it")


def _knn_enabled(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    yield Change(None, None, "k-NN is measured at every evaluation: runs are compared by it")


def _knn_frequency(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if {"evaluation.eval_frequency", "experiment.eval_frequency", "logging.eval_freq"} & old.entries.keys():
        yield Change(None, None, "evaluation.eval_frequency counts for all measures")
    else:
        yield Change("evaluation.eval_frequency", value, "one frequency for all measures")


def _listed_metrics(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    yield Change(None, None, "every metric is always recorded")


def _warmup_type(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    if value != "linear":
        raise old.error(key, f"{value!r} is not allowed: warm-up is linear.")
    yield Change(None, None, "warm-up is linear")


def _min_lr_ratio(old: OldFile, key: str, value: Any) -> Iterator[Change]:
    # Both at once are refused now. The old code read min_lr alone.
    given = [name for name in ("training.min_lr", "training.scheduler.min_lr") if name in old.entries]
    if given:
        line = old.entries[given[0]].line
        yield Change(None, None, f"{given[0]} (line {line}) says it, and was what the old code read")
    else:
        yield Change(key, value, "")


SPECIAL: dict[str, Rule] = {
    "checkpoint.metric": _metric,
    "checkpoint.save_best": _save_best,
    "evaluation.knn.enabled": _knn_enabled,
    "evaluation.knn.frequency": _knn_frequency,
    "evaluation.knn.k_values": _k_values,
    "logging.metrics": _listed_metrics,
    "loss.eps": _eps,
    "loss.flatten_patches": _flatten_patches,
    "loss.jepa_loss_type": _jepa_loss_type,
    "loss.sigreg_invariance_weight": _invariance_weight,
    "loss.type": _loss_type,
    "loss.vicreg_weight": _vicreg_weight,
    "model.target_encoder.ema_anneal_end_step": _anneal_steps,
    "training.min_lr_ratio": _min_lr_ratio,
    "training.scheduler.warmup_type": _warmup_type,
}
"""Keys whose value, or whose meaning, depends on more than themselves."""


def old_names() -> list[str]:
    """Every old key that has a rule of its own."""
    return sorted({*RENAMED, *SPECIAL})
