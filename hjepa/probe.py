"""The linear probe: a classifier trained on frozen features.

Shape letters: N images of the training set, M to be judged by, D features, C classes, B a batch.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hjepa.data.config import Dataset
from hjepa.optim import SGD
from hjepa.schema import Config

_EPS = 1e-6  # of a variance; a feature that is the same for all images stays near 0


class LinearProbeConfig(Config):
    """A linear classifier on frozen features, trained at every evaluation."""

    enabled: bool = False
    """Whether to train one."""
    dataset: Dataset | None = None
    """Data set whose images it is trained and judged on, split by data.val_fraction and data.split_seed and
    seen at data.image_size as the run's own; null: the run's data set."""
    data_path: str | None = None
    """Folder of that data set's files, as data.data_path; null: the run's, where it is the run's data set."""
    epochs: int = Field(default=50, ge=1)
    """Passes over the training features."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate of SGD with momentum 0.9 at the start; a cosine takes it to 0."""
    batch_size: int = Field(default=256, ge=2)
    """Feature vectors per step."""

    def inert(self) -> dict[str, str]:
        if self.enabled:
            return {}
        names = [name for name in LinearProbeConfig.model_fields if name != "enabled"]
        return dict.fromkeys(names, "linear_probe.enabled is false")


def linear_probe_accuracy(
    train_ND: Tensor,
    train_labels_N: Tensor,
    val_MD: Tensor,
    val_labels_M: Tensor,
    config: LinearProbeConfig,
    seed: int,
) -> float:
    """Share of `val_MD` that a linear classifier trained on `train_ND` gets right.

    Features are standardised by mean and standard deviation of all of `train_ND`; MAE's batch norm without
    affine (He et al. 2022, appendix A) estimates the same from the last batches.
    Draws from a generator of its own, seeded with `seed`; torch's global one is left as it was.
    N >= 2, else ValueError.
    """
    if len(train_ND) < 2:
        raise ValueError(f"needs the features of at least 2 images, got {len(train_ND)}")
    generator = torch.Generator().manual_seed(seed)
    # Features made in inference mode cannot be saved for a backward pass; their clones can.
    with torch.inference_mode(False), torch.enable_grad():
        train_ND, train_labels_N = train_ND.detach().float().clone(), train_labels_N.clone()
        variance_D, mean_D = torch.var_mean(train_ND, dim=0, correction=0)
        scale_D = (variance_D + _EPS).rsqrt()
        train_ND = (train_ND - mean_D) * scale_D
        probe = _untrained_probe(train_ND, int(train_labels_N.max()) + 1, generator)
        _train_probe(probe, train_ND, train_labels_N, config, generator)
    with torch.no_grad():
        predicted_M = probe((val_MD.float() - mean_D) * scale_D).argmax(dim=1)
        return (predicted_M == val_labels_M).float().mean().item()


def _untrained_probe(train_ND: Tensor, num_classes: int, generator: torch.Generator) -> nn.Linear:
    dim, device = train_ND.shape[1], train_ND.device
    # skip_init, because the usual initialisation would advance the global generator.
    linear = nn.utils.skip_init(nn.Linear, dim, num_classes, device=device)
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(0.01 * torch.randn(num_classes, dim, generator=generator))
        linear.bias.zero_()
    return linear


def _train_probe(
    probe: nn.Linear,
    train_ND: Tensor,
    train_labels_N: Tensor,
    config: LinearProbeConfig,
    generator: torch.Generator,
) -> None:
    optimizer = SGD(probe.parameters(), lr=config.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    for _ in range(config.epochs):
        order_N = torch.randperm(len(train_ND), generator=generator).to(train_ND.device)
        for chosen_B in order_N.split(config.batch_size):
            if len(chosen_B) < 2:  # one image alone would count as much as a whole batch
                continue
            loss = F.cross_entropy(probe(train_ND[chosen_B]), train_labels_N[chosen_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
