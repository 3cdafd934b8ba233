"""One optimizer step: views, masks, losses, gradients, and the target that follows.

Shape letters: B images of one optimizer step, L positions of a level.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hjepa.masking import Masks, sample_masks
from hjepa.objective import losses
from hjepa.optim import ema_momentum, learning_rate
from hjepa.run import Run, autocast, to_device


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is NaN or infinite; the text names the step."""


def train_step(run: Run, indices_B: np.ndarray) -> dict[str, Tensor]:
    """One optimizer step on some of the training images; its losses, still on the device.

    Augmentation and masks are drawn for all images at once, whatever the parts they are cut into.
    """
    stored_BCHW = to_device(run, run.data.train, indices_B)
    images_BCHW = run.augment(stored_BCHW)
    masks = sample_masks(run.config.masking, run.batch, run.model.grid, torch.default_generator)
    masks = masks.to(run.device)
    second_BCHW = run.augment(stored_BCHW) if run.config.loss.use_ntxent else None
    return optimize(run, images_BCHW, masks, second_BCHW)


def optimize(
    run: Run, images_BCHW: Tensor, masks: Masks, second_BCHW: Tensor | None = None
) -> dict[str, Tensor]:
    """One optimizer step on these images, the target's included; its losses, still on the device.

    `second_BCHW`, another view of the same images, is for NT-Xent, which needs it.
    Losses are divided by the counts of the whole step, so that cutting it into `accumulation_steps`
    parts changes rounding only. A regularizer sees one part at a time: its statistics are those of
    data.batch_size samples.
    """
    config, model = run.config, run.model
    totals = [weights_BL.sum() for weights_BL in model.level_weights(masks)]
    parts = config.training.accumulation_steps
    sizes = [config.data.batch_size] * parts

    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config.training, run.step, run.steps_per_epoch)
    run.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    seconds = [None] * parts if second_BCHW is None else second_BCHW.split(sizes)
    for part, part_masks, second in zip(images_BCHW.split(sizes), masks.chunks(sizes), seconds, strict=True):
        with autocast(run):
            prediction = model(part, part_masks, second, config.loss.ntxent.on_context)
        terms = losses(config, prediction, model.level_weights(part_masks), totals, parts)
        terms["train/loss"] = torch.stack(list(terms.values())).sum()
        terms["train/loss"].backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
    by_part = gradient_norms(model) if config.logging.log_gradients else {}
    trained = [p for p in model.parameters() if p.grad is not None]
    limit = config.training.clip_grad or float("inf")
    sums["train/grad_norm"] = torch.nn.utils.clip_grad_norm_(trained, limit)
    sums |= by_part
    run.optimizer.step()
    # The target follows after the step: before it, it would lag one step behind.
    model.update_target(ema_momentum(config.model.ema, run.step, run.steps_per_epoch, config.training.epochs))
    return sums


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norm of the gradient of each part as gradients/<part>, on the device: patch embedding, positions,
    each block and last norm of the encoder, predictor, pyramid, heads."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            path = name.split(".")
            depth = 1 if path[0] != "encoder" else 3 if path[1] == "blocks" else 2
            parts.setdefault(".".join(path[:depth]), []).append(parameter.grad)
    return {f"gradients/{part}": torch.nn.utils.get_total_norm(grads) for part, grads in parts.items()}


class Meter:
    """Means of what the steps of an epoch report, without waiting for the device at each."""

    def __init__(self, frequency: int):
        self.frequency = frequency
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor], step: int) -> None:
        """Take in a step; NonFiniteError, at the latest `frequency` steps on, where it holds no numbers."""
        self.pending.append((step, values))
        if len(self.pending) >= self.frequency:
            self._settle()

    def means(self) -> dict[str, float]:
        """Mean of each value over the steps so far."""
        self._settle()
        return {name: total / self.count for name, total in self.sums.items()}

    def _settle(self) -> None:
        if not self.pending:
            return
        names = list(self.pending[0][1])
        table = torch.stack([torch.stack([values[n] for n in names]) for _, values in self.pending]).cpu()
        for (step, _), row in zip(self.pending, table.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if not np.isfinite(value):
                    raise NonFiniteError(f"{name} is {value} at step {step}")
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += len(self.pending)
        self.pending = []
