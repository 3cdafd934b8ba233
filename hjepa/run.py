"""A run: its data, model, optimizer and random streams, apart from what is done with them."""

import random
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hjepa.checkpoint import load_checkpoint, require_parts, save_checkpoint
from hjepa.config import RunConfig
from hjepa.data import Augmentation, Data, Multicrop, Split, check_apart, check_data, load_data
from hjepa.distributed import GradientSum, Share, Team, own_device, process_group, require_divisible, team_of
from hjepa.lanes import Lanes
from hjepa.memory import keep_freed
from hjepa.model import HJEPA
from hjepa.optim import build_optimizer
from hjepa.resume import differences, split_otherwise
from hjepa.schema import ConfigError


@dataclass
class Run:
    """A run's moving parts."""

    config: RunConfig
    device: torch.device
    data: Data
    model: HJEPA
    optimizer: torch.optim.Optimizer
    augment: Augmentation
    lanes: Lanes
    team: Team = field(default_factory=Team)
    gradients: GradientSum | None = None
    """Of a team that has to sum them."""
    crops: Multicrop | None = None
    """What makes the views of a step where there are several of each image, in place of `augment`."""
    probe_data: Data | None = None
    """What the linear probe is trained and judged on, where that is not `data`."""
    epoch: int = 0
    step: int = 0
    data_wait_s: float = 0.0
    """Seconds that this process has waited for images to be read and handed to the device."""
    planned_epochs: int | None = None
    """training.epochs of the run whose checkpoint it goes on from."""
    notes: list[str] = field(default_factory=list)
    """What its pretrained weights held that the encoder has no use for."""

    @property
    def batch(self) -> int:
        """Images of one optimizer step."""
        return self.config.data.batch_size * self.config.training.accumulation_steps

    @property
    def share(self) -> Share:
        """Which of them are this process's own."""
        return self.team.share(self.batch, self.config.data.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; what does not fill a step is left for another epoch's order."""
        return len(self.data.train) // self.batch

    def save(self, path: Path) -> None:
        """Write a checkpoint; of several processes, the first one does."""
        if not self.team.leads:
            return
        save_checkpoint(
            path,
            {
                "epoch": self.epoch,
                "step": self.step,
                "config": self.config.model_dump(mode="json"),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "held": {name: asdict(held) for name, held in self.data.held.items()},
            },
        )

    def load(self, path: Path) -> None:
        """Go back to a checkpoint of a run with the same model, split and optimizer, else ConfigError.

        The place in schedules is counted by epochs: its steps may have been of another size.
        """
        state = load_checkpoint(path, self.device)
        require_parts(path, state, ("config", "epoch", "model", "optimizer"), "checkpoint to go on from")
        changed = differences(state["config"], self.config)
        if not changed and (changed := split_otherwise(state.get("held"), self.data.held)):
            raise ConfigError(
                f"{path}: its run held out other images: {'; '.join(changed)}. What it has learnt from would "
                "be evaluated on. Give the run the data that it had, or start anew."
            )
        if changed:
            raise ConfigError(
                f"{path}: is of another run: {'; '.join(changed)}. "
                "Give them the values they had, or start anew."
            )
        # Of the optimizer its moments only: weight decay and betas are the config's, not the file's.
        optimizer = state["optimizer"] | {"param_groups": self.optimizer.state_dict()["param_groups"]}
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{path}: is of a run with another model or optimizer: {error}") from None
        self.planned_epochs = state["config"].get("training", {}).get("epochs")
        self.epoch = state["epoch"]
        self.step = self.epoch * self.steps_per_epoch


def build_run(config: RunConfig, pretrained: bool = True) -> Run:
    """Data, model and optimizer, initialised from the seed and from model.pretrained.

    With `pretrained` false that file is not read: for a run that takes its weights from a checkpoint.
    Of several processes each builds its own, within `joined`.
    """
    team = team_of(config.distributed)
    try:
        mixes = config.data.augmentation.mixing is not None
        require_divisible(config.data.batch_size, team.size, mixes)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    check_run_data(config)
    device = own_device(config.distributed, pick_device(config.device))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    keep_freed()
    data = load_data(config.data)
    with random_stream(config.seed, 0):
        model = HJEPA(config.model, config.data.image_size)
    wanted = pretrained and config.model.pretrained is not None
    notes = model.load_pretrained(config.model) if wanted else []
    model.set_recompute(config.training.use_gradient_checkpointing)
    model.to(device)
    augment = Augmentation(config.data.augmentation, config.data.image_size, data.mean_C, data.std_C).to(
        device
    )
    optimizer = build_optimizer(config.training, model)
    crops = build_crops(config, data, device)
    lanes = Lanes(model, config.model.shape.embed_dim, device)
    run = Run(config, device, data, model, optimizer, augment, lanes, team, crops=crops, notes=notes)
    if team.grouped:
        run.gradients = GradientSum(model.parameters())
    run.probe_data = load_probe_data(config)
    if run.steps_per_epoch == 0:
        raise ConfigError(
            f"data.batch_size {config.data.batch_size} x training.accumulation_steps "
            f"{config.training.accumulation_steps} is more than the {len(data.train)} training images of "
            f"{config.data.title}."
        )
    if len(data.val) == 0:
        raise ConfigError(
            f"data.val_fraction: no class of {config.data.title} has two images, so none can be held out."
        )
    if len(data.val) == 1:
        raise ConfigError(
            f"data.val_fraction: {config.data.val_fraction:g} of the images of {config.data.title} is one "
            "image to evaluate on; 2 are needed at least."
        )
    return run


def joined(config: RunConfig) -> AbstractContextManager[None]:
    """Within, the processes that share the run can talk; see `process_group`."""
    return process_group(config.distributed, pick_device(config.device))


def build_crops(config: RunConfig, data: Data, device: torch.device) -> Multicrop | None:
    """What cuts several views out of each image, where the config asks for them."""
    wanted, patch = config.data, config.model.shape.patch_size
    if not wanted.use_multicrop:
        return None
    crops = Multicrop(
        wanted.multicrop, wanted.augmentation, wanted.image_size, patch, data.mean_C, data.std_C
    )
    return crops.to(device)


def check_run_data(config: RunConfig) -> None:
    """Raises ConfigError unless the files of every data set of a run are where its config says, and nothing
    is learnt from that is held out elsewhere in it."""
    check_data(config.data)
    if _probes_elsewhere(config):
        with _told_of_the_probe():
            check_data(config.probe_data)
        check_apart(config.data, config.probe_data)


def load_probe_data(config: RunConfig) -> Data | None:
    """The linear probe's data set, None where there is no probe or it takes the run's own.

    Raises ConfigError where files are missing or damaged, or hold too few images.
    """
    if not _probes_elsewhere(config):
        return None
    with _told_of_the_probe():
        data = load_data(config.probe_data)
    if len(data.bank) < 2 or len(data.val) == 0:
        raise ConfigError(
            f"evaluation.linear_probe.dataset: {config.probe_data.title} leaves {len(data.bank)} images to "
            f"train the probe and {len(data.val)} to judge it by; 2 and 1 are needed at least."
        )
    return data


def _probes_elsewhere(config: RunConfig) -> bool:
    return config.evaluation.linear_probe.enabled and config.probe_data is not config.data


@contextmanager
def _told_of_the_probe() -> Iterator[None]:
    """Messages about a data set name the keys of the probe's."""
    try:
        yield
    except ConfigError as error:
        named = re.sub(r"\bdata\.(dataset|data_path)\b", r"evaluation.linear_probe.\1", str(error))
        raise ConfigError(named) from None


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
def random_stream(seed: int, *stream: int) -> Iterator[None]:
    """Within, every global generator is seeded from (seed, stream); afterwards as before."""
    (state,) = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # Of several GPUs the present one: to look at another's generator would open it.
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    # fork_rng covers CPU and CUDA; seeding MPS is one-way, and nothing else draws from it here.
    with torch.random.fork_rng(gpus):
        torch.manual_seed(int(state))
        random.seed(int(state))
        np.random.seed(int(state) % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def autocast(run: Run) -> torch.autocast:
    """bfloat16 where the config asks for it and the device has it."""
    return bfloat16_where(run.config.training.use_amp, run.device)


def bfloat16_where(wanted: bool, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on a device that has it; else nothing."""
    has_it = device.type in ("cpu", "cuda")
    return torch.autocast(device.type if has_it else "cpu", torch.bfloat16, enabled=wanted and has_it)


def to_device(run: Run, split: Split, indices_B: np.ndarray) -> Tensor:
    """Images of a split as uint8 on the run's device."""
    began = time.perf_counter()
    images = torch.from_numpy(split.images(indices_B))
    if run.device.type == "cuda" and run.config.data.pin_memory:
        images = images.pin_memory()
    images_BCHW = images.to(run.device, non_blocking=True)
    run.data_wait_s += time.perf_counter() - began
    return images_BCHW
