"""The training loop, as a generator of one report per epoch.

Shape letters: B images of one optimizer step, S samples, L positions of a level, D features.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hjepa.checkpoint import load_checkpoint, save_checkpoint
from hjepa.config import RunConfig
from hjepa.data import Augmentation, Data, Split, check_data, load_data, load_test
from hjepa.evaluate import (
    alpha_req,
    collapse_reason,
    feature_std,
    knn_accuracy,
    lidar,
    linear_probe_accuracy,
    rankme,
    raw_pixel_features,
)
from hjepa.losses import ntxent, prediction_loss, random_directions, sigreg, vicreg
from hjepa.masking import Masks, sample_masks
from hjepa.model import HJEPA, Prediction
from hjepa.optim import build_optimizer, ema_momentum, learning_rate
from hjepa.schema import ConfigError

EVALUATION_BATCH = 512
VIEWS_STREAM = 2**32 - 1  # beyond any epoch's


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is NaN or infinite; the text names the step."""


@dataclass(frozen=True)
class Report:
    """What a run says at the end of an epoch."""

    epoch: int
    """Epochs done, counted from 1."""
    step: int
    """Optimizer steps done."""
    metrics: dict[str, float]
    """Means over the epoch under train/, evaluation under val/ where one was due, speed under time/."""
    collapsed: str | None
    """Why the features count as collapsed; such a run ends with this report."""
    save: Callable[[Path], None] = field(repr=False)
    """Write a checkpoint from which `train` goes on; valid until the next report is asked for."""


@dataclass
class Run:
    """A run's moving parts."""

    config: RunConfig
    device: torch.device
    data: Data
    model: HJEPA
    optimizer: torch.optim.Optimizer
    augment: Augmentation
    epoch: int = 0
    step: int = 0

    @property
    def batch(self) -> int:
        """Images of one optimizer step."""
        return self.config.data.batch_size * self.config.training.accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; what does not fill a step is left for another epoch's order."""
        return len(self.data.train) // self.batch

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            {
                "epoch": self.epoch,
                "step": self.step,
                "config": self.config.model_dump(mode="json"),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def load(self, path: Path) -> None:
        """Go back to a checkpoint of a run with the same measures."""
        state = load_checkpoint(path, self.device)
        # Of the optimizer its moments only: weight decay and betas are the config's, not the file's.
        optimizer = state["optimizer"] | {"param_groups": self.optimizer.state_dict()["param_groups"]}
        saved, present = state["config"]["training"]["optimizer"], self.config.training.optimizer
        try:
            if saved != present:
                raise ValueError(f"training.optimizer was {saved}, is {present}")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{path}: is of a run with another model or optimizer: {error}") from None
        self.epoch, self.step = state["epoch"], state["step"]


def train(config: RunConfig, resume: str | Path | None = None) -> Iterator[Report]:
    """Train, and report after every epoch; closing the generator stops the run.

    With `resume`, a checkpoint of the same run, goes on after its epoch with the numbers that an
    uninterrupted run would give (to the bit on CPU at the same number of threads). Each epoch
    draws from a random stream of its own, made from (seed, epoch), and leaves the process's
    generators as it found them, so nothing between two reports can disturb it.

    Raises ConfigError where the data does not fit, NonFiniteError where the loss stops being a number.
    """
    run = build_run(config)
    if resume is not None:
        run.load(Path(resume))
    yield from train_run(run)


def train_run(run: Run) -> Iterator[Report]:
    """`train` of a run that is built already."""
    config = run.config
    while run.epoch < config.training.epochs:
        with random_stream(config.seed, run.epoch + 1):
            metrics, collapsed = train_epoch(run), None
        run.epoch += 1
        if run.epoch % config.evaluation.eval_frequency == 0 or run.epoch == config.training.epochs:
            evaluated, collapsed = evaluate(run)
            metrics |= evaluated
        yield Report(run.epoch, run.step, metrics, collapsed, run.save)
        if collapsed:
            return


def build_run(config: RunConfig) -> Run:
    """Data, model and optimizer, initialised from the seed."""
    check_data(config.data)
    device = pick_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = load_data(config.data)
    with random_stream(config.seed, 0):
        model = HJEPA(config.model, config.data.image_size)
    model.set_recompute(config.training.use_gradient_checkpointing)
    model.to(device)
    augment = Augmentation(config.data.augmentation, config.data.image_size, data.mean_C, data.std_C).to(
        device
    )
    run = Run(config, device, data, model, build_optimizer(config.training, model), augment)
    if run.steps_per_epoch == 0:
        raise ConfigError(
            f"data.batch_size {config.data.batch_size} x training.accumulation_steps "
            f"{config.training.accumulation_steps} is more than the {len(data.train)} training images of "
            f"{config.data.dataset}."
        )
    return run


def pick_device(name: str) -> torch.device:
    """The device to run on. ConfigError where it is asked for by name and is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise ConfigError(f"device: {name} is not available here; available: auto, {there}.")
    return torch.device(name)


@contextmanager
def random_stream(seed: int, stream: int) -> Iterator[None]:
    """Within, every global generator is seeded from (seed, stream); afterwards as before."""
    (state,) = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # fork_rng covers CPU and CUDA; seeding MPS is one-way, and nothing else draws from it here.
    with torch.random.fork_rng(enabled=True):
        torch.manual_seed(int(state))
        random.seed(int(state))
        np.random.seed(int(state) % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def train_epoch(run: Run) -> dict[str, float]:
    """One pass over the training images; the epoch's mean metrics."""
    config, start = run.config, time.perf_counter()
    meter = Meter(config.logging.log_frequency)
    order = torch.randperm(len(run.data.train)).numpy()
    run.model.train()
    for step in range(run.steps_per_epoch):
        batch = order[step * run.batch : (step + 1) * run.batch]
        meter.add(train_step(run, batch), run.step)
        run.step += 1
    metrics = meter.means()
    metrics["train/lr"] = learning_rate(config.training, run.step - 1, run.steps_per_epoch)
    seconds = time.perf_counter() - start
    metrics["time/images_per_s"] = run.steps_per_epoch * run.batch / seconds
    metrics["time/epoch_s"] = seconds
    return metrics


def train_step(run: Run, indices_B: np.ndarray) -> dict[str, Tensor]:
    """One optimizer step on some of the training images; its losses, still on the device.

    Augmentation and masks are drawn for all images at once, whatever the parts they are cut into.
    """
    stored_BCHW = to_device(run, run.data.train, indices_B)
    images_BCHW = run.augment(stored_BCHW)
    masks = sample_masks(run.config.masking, run.batch, run.model.grid, torch.default_generator)
    masks = Masks(masks.visible_BK.to(run.device), masks.target_BN.to(run.device))
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
            prediction = model(part, part_masks, second)
        terms = losses(config, prediction, model.level_weights(part_masks), totals, parts)
        terms["train/loss"] = torch.stack(list(terms.values())).sum()
        terms["train/loss"].backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
    trained = [p for p in model.parameters() if p.grad is not None]
    limit = config.training.clip_grad or float("inf")
    sums["train/grad_norm"] = torch.nn.utils.clip_grad_norm_(trained, limit)
    run.optimizer.step()
    # The target follows after the step: before it, it would lag one step behind.
    model.update_target(ema_momentum(config.model.ema, run.step, run.steps_per_epoch, config.training.epochs))
    return sums


def losses(
    config: RunConfig,
    prediction: Prediction,
    weights: list[Tensor],
    totals: list[Tensor],
    parts: int,
) -> dict[str, Tensor]:
    """The weighted terms of the loss of one of `parts` parts of a step; their sum is minimised.

    `weights` are the positions' weights of this part, each level (S, L); `totals` their sums over
    the whole step.
    """
    terms: dict[str, Tensor] = {}
    levels = zip(config.loss.hierarchy_weights, prediction.predicted, prediction.target, strict=True)
    for level, (weight, predicted_SLD, target_SLD) in enumerate(levels):
        error_SL = prediction_loss(predicted_SLD.float(), target_SLD.float(), config.loss)
        total = totals[level].clamp_min(1e-6)
        terms[f"train/loss_level{level}"] = weight * (error_SL * weights[level]).sum() / total
    context_SD, target_SD = prediction.context_BD.float(), prediction.target_BD.float()
    if config.loss.use_vicreg:
        for name, term in vicreg(context_SD, target_SD, config.loss.vicreg).items():
            terms[f"train/{name}"] = term / parts
    if config.loss.use_sigreg:
        settings = config.loss.sigreg
        directions_DK = random_directions(context_SD.shape[1], settings.num_slices, context_SD.device)
        distance = sigreg(context_SD, directions_DK, settings.num_points)
        terms["train/sigreg"] = settings.weight * distance / parts
    if config.loss.use_ntxent:
        assert prediction.second_BD is not None
        settings = config.loss.ntxent
        contrast = ntxent(context_SD, prediction.second_BD.float(), settings.temperature)
        terms["train/ntxent"] = settings.weight * contrast / parts
    return terms


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


def autocast(run: Run) -> torch.autocast:
    """bfloat16 where the config asks for it and the device has it."""
    kind = run.device.type
    wanted = run.config.training.use_amp and kind in ("cpu", "cuda")
    return torch.autocast(kind if kind != "mps" else "cpu", torch.bfloat16, enabled=wanted)


def to_device(run: Run, split: Split, indices_B: np.ndarray) -> Tensor:
    """Images of a split as uint8 on the run's device."""
    images = torch.from_numpy(split.images(indices_B))
    if run.device.type == "cuda" and run.config.data.pin_memory:
        images = images.pin_memory()
    return images.to(run.device, non_blocking=True)


def split_features(run: Run, split: Split, of: Callable[[Tensor], Tensor]) -> Tensor:
    """`of` applied to a split's images, resized and normalised but not augmented; (N, D) float32."""
    return image_features(run, split, np.arange(len(split)), run.augment.plain, of)


@torch.no_grad()
def image_features(
    run: Run,
    split: Split,
    indices_N: np.ndarray,
    view: Callable[[Tensor], Tensor],
    of: Callable[[Tensor], Tensor],
) -> Tensor:
    """`of` applied to a view of some of a split's images; (N, D) float32."""
    run.model.eval()
    batches = np.split(indices_N, range(EVALUATION_BATCH, len(indices_N), EVALUATION_BATCH))
    with autocast(run):
        return torch.cat([of(view(to_device(run, split, b))).float() for b in batches])


def view_features(run: Run) -> Tensor:
    """Target features of augmented views of the evaluation split's images, (N, V, D), for LiDAR."""
    settings, val = run.config.evaluation.lidar, run.data.val
    indices_N = np.linspace(0, len(val) - 1, min(settings.num_images, len(val))).astype(np.int64)
    with random_stream(run.config.data.split_seed, VIEWS_STREAM):
        views = [
            image_features(run, val, indices_N, run.augment, run.model.features)
            for _ in range(settings.num_views)
        ]
    return torch.stack(views, dim=1)


def evaluate(run: Run) -> tuple[dict[str, float], str | None]:
    """Metrics of the target's features on the evaluation split, and why they count as collapsed."""
    settings = run.config.evaluation
    bank_ND = split_features(run, run.data.bank, run.model.features)
    val_MD = split_features(run, run.data.val, run.model.features)
    if not (bank_ND.isfinite().all() and val_MD.isfinite().all()):
        raise NonFiniteError(f"target features are not finite at step {run.step}")
    bank_N = torch.from_numpy(run.data.bank.labels_N).to(run.device)
    labels_M = torch.from_numpy(run.data.val.labels_N).to(run.device)
    metrics = {
        "val/knn_top1": knn_accuracy(bank_ND, bank_N, val_MD, labels_M, settings.knn),
        "val/rankme": rankme(val_MD),
        "val/feature_std": feature_std(val_MD),
    }
    alpha = alpha_req(val_MD)
    if alpha is not None:
        metrics["val/alpha_req"] = alpha
    if settings.lidar.enabled:
        metrics["val/lidar"] = lidar(view_features(run))
    if settings.linear_probe.enabled:
        metrics["val/linear_probe_top1"] = linear_probe_accuracy(
            bank_ND, bank_N, val_MD, labels_M, settings.linear_probe, run.config.seed
        )
    return metrics, collapse_reason(val_MD, settings.collapse)


def test_accuracy(run: Run) -> float:
    """k-NN accuracy on the test set, with the training images as bank. Nothing may be chosen by it."""
    bank_ND = split_features(run, run.data.bank, run.model.features)
    test = load_test(run.config.data)
    test_MD = split_features(run, test, run.model.features)
    bank_N = torch.from_numpy(run.data.bank.labels_N).to(run.device)
    labels_M = torch.from_numpy(test.labels_N).to(run.device)
    return knn_accuracy(bank_ND, bank_N, test_MD, labels_M, run.config.evaluation.knn)


def baselines(config: RunConfig) -> dict[str, float]:
    """What learning has to beat: k-NN accuracy on raw pixels, and on the model as initialised."""
    run = build_run(config)
    bank_N = torch.from_numpy(run.data.bank.labels_N).to(run.device)
    labels_M = torch.from_numpy(run.data.val.labels_N).to(run.device)
    found = {}
    for name, of in (("raw_pixels", raw_pixel_features), ("random_init", run.model.features)):
        bank_ND = split_features(run, run.data.bank, of)
        val_MD = split_features(run, run.data.val, of)
        found[f"{name}/knn_top1"] = knn_accuracy(bank_ND, bank_N, val_MD, labels_M, config.evaluation.knn)
    return found
