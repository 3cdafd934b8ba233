"""RunConfig, the whole of a run, and loading it from YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hjepa.checkpoint import CheckpointConfig
from hjepa.data import DataConfig
from hjepa.distributed import DistributedConfig, require_divisible
from hjepa.evaluate import EvaluationConfig
from hjepa.losses import LossConfig
from hjepa.masking import MaskingConfig
from hjepa.model import ModelConfig
from hjepa.optim import TrainingConfig
from hjepa.records import LoggingConfig
from hjepa.schema import NO_EFFECT, Config, Layers


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
    seed: int = Field(default=42, ge=0)
    """Seed of everything random but the evaluation split."""
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", json_schema_extra=NO_EFFECT)
    """Where to run; auto takes CUDA, then MPS, then CPU."""
    threads: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """CPU threads; null: torch's default. The same number gives the same result to the bit."""

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
        probed = self.evaluation.linear_probe.enabled
        if self.checkpoint.metric == "val/linear_probe_top1" and not probed:
            raise ValueError(
                "checkpoint.metric is val/linear_probe_top1, "
                "which evaluation.linear_probe.enabled: false does not measure"
            )
        change = self.data.augmentation
        cropped = change.random_crop and change.crop_scale != (1.0, 1.0)
        varied = cropped or 0 < change.flip_probability < 1 or change.color_jitter > 0
        if self.evaluation.lidar.enabled and not varied:
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
        if self.masking.min_keep >= side * side:
            raise ValueError(
                f"masking.min_keep {self.masking.min_keep} leaves nothing of {side * side} patches"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share(self) -> Self:
        ranks = self.distributed
        if not ranks.enabled:
            return self
        if ranks.world_size is not None:
            require_divisible(self.data.batch_size, ranks.world_size)
        if ranks.backend == "nccl" and self.device in ("cpu", "mps"):
            raise ValueError(f"distributed.backend nccl needs CUDA, but device is {self.device}")
        return self

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        rise = self.model.ema.momentum_warmup_epochs
        if rise == 0:
            found["model.ema.momentum"] = "model.ema.momentum_warmup_epochs is 0"
        patches, most = (self.data.image_size // self.model.shape.patch_size) ** 2, self.masking.max_keep
        if most is not None and most >= patches - 1:
            found["masking.max_keep"] = f"masking.max_keep {most} is no limit to {patches} patches"
        if self.loss.prediction_weight == 0 and self.model.predictor.dropout == 0:
            found["model.predictor.mode"] = "loss.prediction_weight is 0"
        if not self.data.use_multi_dataset:
            found["logging.log_dataset_distribution"] = "data.use_multi_dataset is false"
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
