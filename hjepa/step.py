"""One optimizer step: views, masks, losses, gradients, and the target that follows.

Shape letters: B images of one optimizer step, L positions of a level.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from hjepa.config import RunConfig
from hjepa.data import LocalCrops
from hjepa.distributed import Share, Team
from hjepa.lanes import Part
from hjepa.masking import Masks, sample_masks
from hjepa.model import Prediction
from hjepa.objective import losses
from hjepa.optim import ema_momentum, learning_rate
from hjepa.run import Run, autocast, random_stream, to_device


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is NaN or infinite; the text names the step."""


def train_step(run: Run, indices_B: np.ndarray) -> dict[str, Tensor]:
    """One optimizer step on some of the training images; its losses, still on the device.

    Of several processes each gives its own images, those of `run.share`. Augmentation and masks are
    drawn for the images of all at once, whatever the parts they are cut into.
    """
    share = run.share
    stored_BCHW = to_device(run, run.data.train, indices_B)
    crops, own = run.crops, share.of_each(run.config.global_crops)
    if crops is None:
        images_BCHW, boxes_BV4 = run.augment(stored_BCHW, share), None
    else:
        images_BCHW, boxes_BV4 = crops.global_views(stored_BCHW, share)
    masks = sample_masks(run.config.masking, own.batch, run.model.grid, torch.default_generator)
    masks = masks.of(own).to(run.device)
    second_BCHW = run.augment(stored_BCHW, share) if run.config.loss.adds_ntxent else None
    mixing = run.config.data.augmentation.mixing
    if mixing is not None:
        drawn_B5 = share.take(mixing.draw(share.batch))
        images_BCHW = mixing.apply(images_BCHW, drawn_B5)
        # Mixed alike, the two views still show the same.
        second_BCHW = mixing.apply(second_BCHW, drawn_B5) if second_BCHW is not None else None
    local = draw_local(run, stored_BCHW, boxes_BV4, share, run.epoch)
    return optimize(run, images_BCHW, masks, second_BCHW, local)


def draw_local(
    run: Run, stored_BCHW: Tensor, boxes_BV4: Tensor | None, share: Share, epoch: int
) -> LocalCrops | None:
    """Local crops of images, as many as `epoch`, counted from 0, has of each, where there are any;
    `boxes_BV4` are the boxes of the global ones."""
    count, strategy = run.config.local_crops(epoch), run.config.masking.strategy
    if run.crops is None or count == 0:
        return None
    frame = None if strategy == "global_only" else boxes_BV4
    return run.crops.local_views(stored_BCHW, count, frame, strategy == "cross_crop_prediction", share)


def optimize(
    run: Run,
    images_BCHW: Tensor,
    masks: Masks,
    second_BCHW: Tensor | None = None,
    local: LocalCrops | None = None,
) -> dict[str, Tensor]:
    """One optimizer step on these images, the target's included; its losses, still on the device.

    Of several processes each has its own images, and its losses are its share of the whole step's.
    `second_BCHW`, another view of the same images, is for NT-Xent, which needs it. With several global
    crops of each image these stand one after another; `local` are the same images' local crops.
    Losses are divided by the counts of the whole step, so that cutting it into `accumulation_steps`
    parts changes rounding only. A regularizer sees one part at a time: its statistics are those of
    data.batch_size samples.
    """
    config, model = run.config, run.model
    totals = list(run.team.sum(torch.stack([weights.sum() for weights in model.level_weights(masks)])))
    parts = config.training.accumulation_steps

    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config.training, run.step, run.steps_per_epoch)
    run.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(Part(images_BCHW, masks, second_BCHW, local).cut(parts), start=1):
        with model_stream(run, number):
            seen = run.lanes.forward(lambda some: look(run, some), part)
        prediction = gathered(run, seen.prediction)
        weights = model.level_weights(part.masks)
        terms = losses(config, prediction, weights, totals, parts * run.team.size)
        terms["train/loss"] = torch.stack(list(terms.values())).sum()
        if run.gradients is not None and number == parts:
            run.gradients.begin()
        terms["train/loss"].backward()
        seen.backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
    if run.gradients is not None:
        run.gradients.finish()
    by_part = gradient_norms(model) if config.logging.log_gradients else {}
    trained = [p for p in model.parameters() if p.grad is not None]
    limit = config.training.clip_grad or float("inf")
    sums["train/grad_norm"] = torch.nn.utils.clip_grad_norm_(trained, limit) / run.team.size
    sums |= {name: norm / run.team.size for name, norm in by_part.items()}
    run.optimizer.step()
    # The target follows after the step: before it, it would lag one step behind.
    model.update_target(ema_momentum(config.model.ema, run.step, run.steps_per_epoch, config.training.epochs))
    return sums


def look(run: Run, part: Part) -> Prediction:
    """What the model predicts of some images, and what of them it would have to."""
    loss = run.config.loss
    with autocast(run):
        return run.model(
            part.images_BCHW, part.masks, part.second_BCHW, loss.ntxent.on_context, part.local, loss.predicts
        )


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


def model_stream(run: Run, part: int) -> AbstractContextManager[None]:
    """Where the model draws dropout from: of several processes each from a stream of its own.

    What they share would else be drawn differently wherever one draws more than another.
    """
    if run.team.size == 1:
        return nullcontext()
    return random_stream(run.config.seed, run.step, part, run.team.rank + 1)


def gathered(run: Run, prediction: Prediction) -> Prediction:
    """With what regularizers take statistics of from all processes, so that they see a whole part."""
    loss = run.config.loss
    if not run.team.grouped or not (loss.adds_vicreg or loss.adds_sigreg or loss.adds_ntxent):
        return prediction
    wanted = {name: getattr(prediction, name) for name in gathered_names(run.config)}
    there = {name: value for name, value in wanted.items() if value is not None}
    return replace(prediction, **{name: run.team.gather(value) for name, value in there.items()})


def gathered_names(config: RunConfig) -> tuple[str, ...]:
    """Of a prediction, what terms take statistics of that are a whole part's, where it is there."""
    loss = config.loss
    of_patches = (loss.adds_vicreg, loss.vicreg), (loss.adds_sigreg, loss.sigreg)
    pooled = ("context_BD", "target_BD", "second_BD", "local_BVPD")
    if any(used and term.flatten_patches for used, term in of_patches):
        return (*pooled, "context_BKD", "target_BND", "visible_BK")
    return pooled


class Meter:
    """Means of what the steps of an epoch report, without waiting for the device at each."""

    def __init__(self, frequency: int, team: Team = Team()):  # noqa: B008 (frozen)
        self.frequency = frequency
        self.team = team
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
        table = torch.stack([torch.stack([values[n] for n in names]) for _, values in self.pending])
        table = self.team.sum(table).cpu()  # so that all processes stop at the same step, if they do
        for (step, _), row in zip(self.pending, table.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if not np.isfinite(value):
                    raise NonFiniteError(f"{name} is {value} at step {step}")
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += len(self.pending)
        self.pending = []
