"""Optimizer and schedules. Every schedule is a function of the step, so resuming needs no state."""

import inspect
import math
from typing import Literal, Self, TypeVar, cast

import torch
from pydantic import Field, model_validator
from torch import nn

from hjepa.model import EmaConfig
from hjepa.schema import NO_EFFECT, Config

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def _eager(optimizer: type[Kind]) -> type[Kind]:
    """One of torch's optimizers without what its methods do for torch.compile, which nothing here uses: the
    first call of each would import the compiler, over a second of CPU and 100 MB in every process."""
    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: inspect.unwrap(getattr(optimizer, name)) for name in methods}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return cast(type[Kind], type(optimizer.__name__, (optimizer,), {**plain, "step": step}))


AdamW = _eager(torch.optim.AdamW)
SGD = _eager(torch.optim.SGD)


class TrainingConfig(Config):
    """Length, optimizer and schedule of a run."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the training images."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs over which the learning rate rises linearly to lr; at most epochs, and then it never falls."""
    warmup_lr_ratio: float = Field(default=0.01, ge=0, le=1)
    """Learning rate of the very first step, as a share of lr."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate, as it is: not scaled by batch size."""
    min_lr: float | None = Field(default=None, ge=0)
    """Learning rate of the last step; null: from min_lr_ratio."""
    min_lr_ratio: float | None = Field(default=None, ge=0, le=1)
    """Learning rate of the last step as a share of lr; at most one of the two. Both null: 0."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warm-up."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer; sgd takes betas[0] as its momentum."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the gradient's first and second moment, each in [0, 1)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of weights; biases, norms, other 1-D parameters and positions take none."""
    clip_grad: float | None = Field(default=3.0, gt=0)
    """Largest norm of the whole gradient; null: no limit."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Batches of data.batch_size whose gradients make one optimizer step."""
    use_amp: bool = False
    """bfloat16 autocast, on CPU and CUDA; on MPS the run stays in float32 and says so."""
    use_gradient_checkpointing: bool = Field(default=False, json_schema_extra=NO_EFFECT)
    """Recompute activations in the backward pass: less memory, more time, same gradients."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is more than epochs {self.epochs}")
        if self.min_lr is not None and self.min_lr_ratio is not None:
            raise ValueError("min_lr and min_lr_ratio are both given; set one of them to null")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is more than lr {self.lr:g}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}; each must be in [0, 1)")
        return self

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.warmup_epochs == self.epochs:
            reason = f"all of training.epochs {self.epochs} is warm-up (training.warmup_epochs)"
            found |= dict.fromkeys(("lr_schedule", "min_lr", "min_lr_ratio"), reason)
        elif self.lr_schedule == "constant":
            found |= dict.fromkeys(("min_lr", "min_lr_ratio"), "training.lr_schedule is constant")
        elif self.final_lr == self.lr:
            found["lr_schedule"] = "the learning rate of the last step is training.lr"
        if self.warmup_epochs == 0:
            found["warmup_lr_ratio"] = "training.warmup_epochs is 0"
        elif self.warmup_lr_ratio == 1 and (self.lr_schedule == "constant" or self.final_lr == self.lr):
            found["warmup_epochs"] = "training.warmup_lr_ratio is 1, and the learning rate does not fall"
        if self.optimizer == "sgd":
            found["betas[1]"] = "training.optimizer is sgd, whose momentum is betas[0]"
        return found

    @property
    def final_lr(self) -> float:
        """Learning rate of the last step."""
        return self.min_lr if self.min_lr is not None else self.lr * (self.min_lr_ratio or 0.0)


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of `step`, counted from 0 over the whole run.

    The last step's is final_lr, or lr in a run that is all warm-up.
    """
    last = config.epochs * steps_per_epoch - 1
    warmup = min(config.warmup_epochs * steps_per_epoch, last)
    if step < warmup:
        return config.lr * (config.warmup_lr_ratio + (1 - config.warmup_lr_ratio) * step / warmup)
    if config.lr_schedule == "constant":
        return config.lr
    # A run that is all warm-up, or a single step, ends at lr: there is nothing left to fall in.
    progress = min((step - warmup) / (last - warmup), 1.0) if last > warmup else 0.0
    share = (1 + math.cos(math.pi * progress)) / 2 if config.lr_schedule == "cosine" else 1 - progress
    return config.final_lr + (config.lr - config.final_lr) * share


def ema_momentum(config: EmaConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The target's momentum after optimizer step `step`, counted from 0 over the whole run."""
    last = epochs * steps_per_epoch - 1
    if config.momentum_warmup_epochs is not None:
        last = config.momentum_warmup_epochs * steps_per_epoch
    progress = min(step / last, 1.0) if last > 0 else 1.0
    return config.momentum + (config.momentum_end - config.momentum) * progress


def build_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over `model`'s trained parameters, in two groups: with and without decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def decays(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1 and not name.endswith("pos_embed")

    groups = [
        {"params": [p for n, p in trained if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in trained if not decays(n, p)], "weight_decay": 0.0},
    ]
    fused = trained[0][1].device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.betas[0], fused=fused)
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
