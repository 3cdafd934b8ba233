"""A finished run as a function from images to features, in one file that needs none of its data.

`predict` and `_load_pyfunc` are what MLflow's python_function models are made of; MLflow itself is not
needed.
"""

from pathlib import Path

import numpy as np
import torch

from hjepa.checkpoint import load_checkpoint, require_parts, save_checkpoint
from hjepa.config import RunConfig
from hjepa.data import Augmentation, load_data
from hjepa.data.decode import middle_square
from hjepa.model import HJEPA
from hjepa.run import bfloat16_where, pick_device

WEIGHTS, EXAMPLE = "features.pt", "example.npz"
"""Files of a features folder: config, weights and the pixels' mean and deviation; some images of the
evaluation split and their features."""
EXAMPLES = 2
BATCH = 256


class Features:
    """Frozen features of images, as a run's own evaluation computes them."""

    def __init__(self, config: RunConfig, model: HJEPA, resize: Augmentation, device: torch.device):
        self.config, self.device = config, device
        self._model = model.to(device).eval()
        self._resize = resize.to(device)

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """What `write_features` wrote into the folder `path`, on this machine's best device.

        Raises ConfigError where the file is missing, torn or of another kind.
        """
        file = Path(path) / WEIGHTS
        state = load_checkpoint(file, torch.device("cpu"))
        require_parts(file, state, ("config", "model", "mean", "std"), "features function")
        config = RunConfig.model_validate(state["config"])
        model = HJEPA(config.model, config.data.image_size)
        model.load_state_dict(state["model"])
        pixels = (state["mean"], state["std"])
        resize = Augmentation(config.data.augmentation, config.data.image_size, *pixels)
        return cls(config, model, resize, pick_device("auto"))

    @torch.no_grad()
    def predict(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Features (N, D) float32 of images (N, 3, H, W) of any height and width, of which the square in the
        middle counts, as in training.

        Pixels are whole numbers from 0 to 255 or floats from 0 to 1; ValueError where they are neither, or
        the shape is another one.
        """
        images_NCHW = np.asarray(images_NCHW)
        if images_NCHW.ndim != 4 or images_NCHW.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, height, width), got shape {images_NCHW.shape}")
        images_NCHW = images_NCHW[:, :, *middle_square(*images_NCHW.shape[2:])]
        found = [torch.empty(0, self.config.model.shape.embed_dim)]
        with bfloat16_where(self.config.training.use_amp, self.device):
            for begin in range(0, len(images_NCHW), BATCH):
                images_BCHW = torch.from_numpy(as_bytes(images_NCHW[begin : begin + BATCH])).to(self.device)
                found.append(self._model.features(self._resize.plain(images_BCHW)).float().cpu())
        return torch.cat(found).numpy()


def as_bytes(images_NCHW: np.ndarray) -> np.ndarray:
    """Images as uint8, from floats in [0, 1] or whole numbers in [0, 255]; ValueError for any other."""
    if images_NCHW.dtype == np.uint8:
        return np.ascontiguousarray(images_NCHW)
    floats = np.issubdtype(images_NCHW.dtype, np.floating)
    if not floats and not np.issubdtype(images_NCHW.dtype, np.integer):
        raise ValueError(f"pixels must be numbers, got {images_NCHW.dtype}")
    most = 1 if floats else 255
    if not ((images_NCHW >= 0) & (images_NCHW <= most)).all():
        raise ValueError(f"pixels of {images_NCHW.dtype} must be from 0 to {most}")
    return (images_NCHW * 255).round().astype(np.uint8) if floats else images_NCHW.astype(np.uint8)


def write_features(config: RunConfig, checkpoint: Path, folder: Path) -> Path:
    """Write a run's features function into `folder`; the file there with `images` and their `features`.

    Raises ConfigError where the checkpoint or the data cannot be read.
    """
    state = load_checkpoint(checkpoint, torch.device("cpu"))
    require_parts(checkpoint, state, ("model",), "checkpoint")
    data = load_data(config.data)
    kept = {
        "config": config.model_dump(mode="json"),
        "model": state["model"],
        "mean": torch.as_tensor(data.mean_C, dtype=torch.float32),
        "std": torch.as_tensor(data.std_C, dtype=torch.float32),
    }
    save_checkpoint(folder / WEIGHTS, kept)
    images_NCHW = data.val.images(np.arange(min(EXAMPLES, len(data.val))))
    np.savez(folder / EXAMPLE, images=images_NCHW, features=Features.load(folder).predict(images_NCHW))
    return folder / EXAMPLE


def _load_pyfunc(path: str) -> Features:
    """The name by which MLflow asks a loader module for a model."""
    return Features.load(path)
