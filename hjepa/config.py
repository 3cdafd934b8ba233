"""RunConfig, the whole of a run, and loading it from YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hjepa.checkpoint import CheckpointConfig
from hjepa.data import DataConfig
from hjepa.data.multicrop import LOCAL_KEYS, NUMBER_KEYS
from hjepa.distributed import DistributedConfig, require_divisible
from hjepa.evaluate import EvaluationConfig
from hjepa.losses import LossConfig
from hjepa.masking import MaskingConfig
from hjepa.model import ModelConfig
from hjepa.optim import TrainingConfig
from hjepa.records import LoggingConfig
from hjepa.schema import NO_EFFECT, Config, Layers

# Of `data`, what holds for another data set that the linear probe is given as well.
_SHARED_WITH_PROBE = (
    "image_size",
    "val_fraction",
    "split_seed",
    "cache_dir",
    "cache_budget_gb",
    "num_workers",
    "max_bad",
)
_SHARED_WITH_SAME_KIND = ("class_list", "stored_size")
MOST_SIDE = 1024
"""Patches along a side of the grid: the positions of more would not fit into memory, let alone a step."""


class RunConfig(Config):
    """One training run of H-JEPA."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    masking: MaskingConfig = MaskingConfig()
    training: TrainingConfig = TrainingConfig()
    loss: LossConfig = LossConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distributed: DistributedConfig = DistributedConfig()
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Seed of everything random but the evaluation split."""
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", json_schema_extra=NO_EFFECT)
    """Where to run; auto takes CUDA, then MPS, then CPU."""
    threads: int | None = Field(default=None, ge=1, le=1024, json_schema_extra=NO_EFFECT)
    """CPU threads; null: torch's default. The same number gives the same result to the bit."""

    @property
    def probe_data(self) -> DataConfig:
        """The data set of evaluation.linear_probe; `data` itself where that is the run's own.

        Raises ValidationError where there can be no such data set.
        """
        own, probe = self.data, self.evaluation.linear_probe
        dataset = probe.dataset or own.dataset
        if probe.dataset is None and probe.data_path is None:
            return own
        same = dataset == own.dataset and not own.use_multi_dataset
        path = probe.data_path or (own.data_path if same else None)
        if same and (path == own.data_path or dataset == "digits"):
            return own
        shared = _SHARED_WITH_PROBE + (_SHARED_WITH_SAME_KIND if same else ())
        given: dict[str, Any] = {name: getattr(own, name) for name in shared}
        return DataConfig(dataset=dataset, data_path=path, **given)

    @model_validator(mode="after")
    def _probe_has_data(self) -> Self:
        probe = self.evaluation.linear_probe
        if probe.enabled and self.data.use_multi_dataset and probe.data_path and probe.dataset is None:
            raise ValueError(
                f"evaluation.linear_probe.data_path {probe.data_path} is a folder of which data set? Under "
                "data.use_multi_dataset the run has several: name it by evaluation.linear_probe.dataset, or "
                "leave both out to probe on the one of data.datasets that is evaluated on"
            )
        same = probe.dataset == self.data.dataset and not self.data.use_multi_dataset
        if not probe.enabled or same or probe.dataset in (None, "digits"):
            return self
        where = f"evaluation.linear_probe.dataset {probe.dataset} is not the run's own"
        if probe.data_path is None:
            raise ValueError(f"{where}; evaluation.linear_probe.data_path must name the folder of its files")
        if probe.dataset == "imagenet100":
            raise ValueError(
                f"{where}, and would need a data.class_list of its own; give "
                "imagefolder and a folder that holds those classes alone"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        levels, weights = self.model.num_hierarchies, self.loss.hierarchy_weights
        if len(weights) != levels:
            raise ValueError(
                f"loss.hierarchy_weights has {len(weights)} weights, {list(weights)}, "
                f"but model.num_hierarchies is {levels}; give one weight per level"
            )
        if not self.model.use_target_encoder and not self.loss.prevents_collapse:
            raise ValueError(
                "model.use_target_encoder is false, so the encoder learns its own target, and all features "
                "could become the same: set loss.use_sigreg: true with loss.sigreg.weight above 0, or "
                "loss.use_vicreg: true with loss.vicreg.weight and loss.vicreg.std_coeff above 0"
            )
        if self.loss.use_ntxent and not (self.loss.ntxent.on_context or self.model.use_target_encoder):
            raise ValueError(
                "loss.ntxent.on_context is false, so the second view needs a target encoder, but "
                "model.use_target_encoder is false; set one of them to true"
            )
        if reason := self.evaluation.unmeasured(self.checkpoint.metric):
            raise ValueError(
                f"checkpoint.metric is {self.checkpoint.metric}, which is not measured: {reason[0]}"
            )
        if self.evaluation.lidar.enabled and not self.data.augmentation.varies:
            raise ValueError(
                "evaluation.lidar compares augmented views of an image, "
                "but data.augmentation as it stands makes them all the same"
            )
        patch, image = self.model.shape.patch_size, self.data.image_size
        if image % patch:
            raise ValueError(
                f"data.image_size {image} is no multiple of the patch size {patch} "
                "(model.patch_size, or model.encoder_type's)"
            )
        side = image // patch
        if side < max(2, 2 ** (levels - 1)):
            raise ValueError(
                f"data.image_size {image} over model.patch_size {patch} gives a grid of {side} x {side}, "
                f"too small for model.num_hierarchies {levels}; the least side is {max(2, 2 ** (levels - 1))}"
            )
        if side > MOST_SIDE:
            raise ValueError(
                f"data.image_size {image} over model.patch_size {patch} gives a grid of {side} x {side}; "
                f"at most {MOST_SIDE} x {MOST_SIDE} are allowed"
            )
        if self.data.use_multicrop:
            self._require_crops_fit(patch)
        if self.masking.min_keep >= side * side:
            raise ValueError(
                f"masking.min_keep {self.masking.min_keep} leaves nothing of {side * side} patches"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share(self) -> Self:
        ranks = self.distributed
        if ranks.enabled is False:
            return self
        if ranks.world_size is not None:
            mixes = self.data.augmentation.mixing is not None
            require_divisible(self.data.batch_size, ranks.world_size, mixes)
        if ranks.backend == "nccl" and self.device in ("cpu", "mps"):
            raise ValueError(f"distributed.backend nccl needs CUDA, but device is {self.device}")
        return self

    def _require_crops_fit(self, patch: int) -> None:
        crops = self.data.multicrop
        crops.require_fit(self.data.image_size, patch)
        if self.masking.strategy == "cross_crop_prediction" and crops.local_crops(0) == 0:
            number = "adaptive_config.min_local_crops" if crops.adaptive else "num_local_crops"
            raise ValueError(
                "masking.strategy cross_crop_prediction predicts from local crops alone, "
                f"and data.multicrop.{number} is 0; give 1 or more"
            )
        if self.data.augmentation.mixing is not None:
            raise ValueError(
                "data.augmentation.deit3 mixes images, and data.use_multicrop compares crops of one image; "
                "set data.augmentation.deit3.mixup_alpha and .cutmix_alpha to 0"
            )
        if self.loss.use_ntxent:
            raise ValueError(
                "loss.use_ntxent and data.use_multicrop are both true; with several crops, loss.multicrop "
                "compares the views of an image, so set loss.use_ntxent: false"
            )

    @property
    def global_crops(self) -> int:
        """Views of an image that are masked and predicted in a step."""
        return self.data.multicrop.num_global_crops if self.data.use_multicrop else 1

    def local_crops(self, epoch: int) -> int:
        """Local crops of an image in an epoch, counted from 0; none where nothing learns from them."""
        predicted_from = self.masking.strategy != "global_only" and self.loss.predicts
        learnt = predicted_from or self.loss.multicrop.weight > 0 or self.loss.adds_sigreg
        return self.data.multicrop.local_crops(epoch) if self.data.use_multicrop and learnt else 0

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        rise = self.model.ema.momentum_warmup_epochs
        if rise == 0:
            found["model.ema.momentum"] = "model.ema.momentum_warmup_epochs is 0"
        if self.evaluation.linear_probe.enabled and self.probe_data.dataset == "digits":
            found["evaluation.linear_probe.data_path"] = "digits is embedded"
        patches, most = (self.data.image_size // self.model.shape.patch_size) ** 2, self.masking.max_keep
        if most is not None and most >= patches - 1:
            found["masking.max_keep"] = f"masking.max_keep {most} is no limit to {patches} patches"
        if not self.loss.predicts:
            unused = ("model.num_hierarchies", "model.predictor", "model.fpn")
            found |= dict.fromkeys(unused, "loss.prediction_weight is 0, so nothing is predicted")
        if self.training.epochs == 1:
            found["evaluation.eval_frequency"] = "training.epochs is 1, and the last is always evaluated"
        unranked = self.checkpoint.unranked(self.training.epochs, self.evaluation.eval_frequency)
        if unranked:
            ranking = ("checkpoint.keep_best_n", "checkpoint.metric", "checkpoint.mode")
            found |= dict.fromkeys(ranking, unranked)
        if not self.data.use_multi_dataset:
            found["logging.log_dataset_distribution"] = "data.use_multi_dataset is false"
        return found | self._inert_by_crops()

    def _inert_by_crops(self) -> dict[str, str]:
        """What of other sections several crops of an image, or their absence, leave without effect."""
        if not self.data.use_multicrop:
            reason = "data.use_multicrop is false"
            return {"masking.strategy": reason, "loss.multicrop": reason}
        found: dict[str, str] = {}
        crops, change = self.data.multicrop, "data.augmentation"
        if not self.evaluation.lidar.enabled:
            reason = "data.use_multicrop is true, whose crops have areas of their own"
            found |= {f"{change}.random_crop": reason, f"{change}.crop_scale": reason}
            if None not in (crops.global_color_jitter, crops.local_color_jitter):
                found[f"{change}.color_jitter"] = "global and local crops have colour jitter of their own"
        last = self.training.epochs - 1
        if crops.adaptive and last == 0 and crops.adaptive_config.warmup_epochs > 0:
            found["data.multicrop.adaptive_config.max_local_crops"] = "training.epochs is 1"
        if crops.local_crops(last) == 0:
            found |= {f"data.multicrop.{key}": "there are no local crops" for key in LOCAL_KEYS}
            found["masking.strategy"] = "there are no local crops"
            if crops.num_global_crops == 1:
                found["loss.multicrop"] = "there is one crop of an image, with no other to compare it to"
        elif self.local_crops(last) == 0:
            reason = (
                "nothing learns from local crops: masking.strategy is global_only or "
                "loss.prediction_weight 0, loss.multicrop.weight 0 and no SIGReg"
            )
            found |= {f"data.multicrop.{key}": reason for key in (*NUMBER_KEYS, *LOCAL_KEYS)}
        if not self.loss.predicts:
            found["masking.strategy"] = "loss.prediction_weight is 0"
        apart = crops.num_global_crops == 1 or self.loss.multicrop.weight == 0
        alone = self.masking.strategy == "cross_crop_prediction"
        if alone and apart and not (self.loss.adds_vicreg or self.loss.adds_sigreg):
            found["masking.context_scale"] = "nothing learns from the visible patches of global crops"
        return found


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A run's config from a YAML file, its parents, and overrides by dotted key.

    Raises ConfigError on anything wrong with any of them.
    """
    return load_layers(path, overrides).build(RunConfig, str(path))


def load_layers(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Layers:
    """The same, before validation: what was set, and by which file."""
    layers = Layers()
    layers.add_file(Path(path))
    for key, value in (overrides or {}).items():
        layers.set(key, value, f"--set {key}")
    return layers
