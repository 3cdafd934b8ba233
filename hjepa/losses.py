"""Prediction losses, and regularizers that keep features from collapsing.

Shape letters: B images, N positions, S samples, D features, K slices, T knots.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from hjepa.schema import Config


class SmoothL1Config(Config):
    """Shape of the smooth L1 loss."""

    beta: float = Field(default=1.0, gt=0)
    """Error at which the loss turns from quadratic to linear, in units of the target's deviation; under
    `loss.normalize_embeddings` of its length."""


class HuberConfig(Config):
    """Shape of the Huber loss; at delta = beta = 1 it is smooth L1."""

    delta: float = Field(default=1.0, gt=0)
    """Error at which the loss turns from quadratic to linear, in units of the target's deviation; under
    `loss.normalize_embeddings` of its length."""


class VicregConfig(Config):
    """Variance-invariance-covariance regularization (Bardes et al. 2022) of pooled context features,
    and of pooled target features where the target is trained too.

    Beside a prediction loss this is C-JEPA (Mo & Tong 2024).
    """

    weight: float = Field(default=0.1, ge=0)
    """Weight of the three terms together beside the prediction loss."""
    sim_coeff: float = Field(default=25.0, ge=0)
    """Weight of the mean squared distance between pooled context and pooled target features."""
    std_coeff: float = Field(default=25.0, ge=0)
    """Weight of the hinge that holds each feature's standard deviation above 1."""
    cov_coeff: float = Field(default=1.0, ge=0)
    """Weight of the squared covariances between different features."""
    eps: float = Field(default=1e-4, gt=0)
    """Added to each feature's variance before the root, whose gradient would be infinite at 0."""
    flatten_patches: bool = False
    """Take each visible patch's token for a sample, compared with the target's at the same place; false:
    tokens averaged over the image."""

    def inert(self) -> dict[str, str]:
        if self.weight == 0:
            return _weightless("vicreg", self)
        if max(self.sim_coeff, self.std_coeff, self.cov_coeff) == 0:
            keys = ("weight", "eps", "flatten_patches")
            return dict.fromkeys(keys, "loss.vicreg's sim_coeff, std_coeff and cov_coeff are 0")
        return {"eps": "loss.vicreg.std_coeff is 0"} if self.std_coeff == 0 else {}


class SigregConfig(Config):
    """Sketched isotropic Gaussian regularization (LeJEPA, Balestriero & LeCun 2025) of pooled
    context features, and of pooled target features where the target is trained too."""

    weight: float = Field(default=0.05, ge=0)
    """Weight beside the prediction loss."""
    num_slices: int = Field(default=256, ge=1)
    """Random directions that the features are projected on."""
    fixed_slices: bool = False
    """Draw the directions once, from the run's seed, and keep them; false: draw them afresh at every step."""
    num_points: int = Field(default=17, ge=3)
    """Knots of the integral over the characteristic function's argument, on [0, 3]."""
    flatten_patches: bool = False
    """Take each visible patch's token for a sample; false: tokens averaged over the image. Memory grows
    with samples x num_slices x num_points."""

    def inert(self) -> dict[str, str]:
        return _weightless("sigreg", self) if self.weight == 0 else {}


class NtxentConfig(Config):
    """Normalised temperature-scaled cross entropy (SimCLR, Chen et al. 2020) between pooled features of
    two augmentations of each image."""

    weight: float = Field(default=0.1, ge=0)
    """Weight beside the prediction loss."""
    temperature: float = Field(default=0.1, gt=0)
    """Similarities are divided by this; the lower, the more the hardest negatives count."""
    on_context: bool = True
    """Encode the second augmentation as the first: the visible patches, by the context encoder. False:
    whole, by the target encoder and without gradient, as in MoCo (He et al. 2020), for which
    model.use_target_encoder must be true."""
    use_cosine_similarity: bool = True
    """Compare directions only; false: plain dot products."""

    def inert(self) -> dict[str, str]:
        return _weightless("ntxent", self) if self.weight == 0 else {}


def _weightless(name: str, term: Config) -> dict[str, str]:
    """The keys of a term whose weight is 0, but for that."""
    keys = [key for key in type(term).model_fields if key != "weight"]
    return dict.fromkeys(keys, f"loss.{name}.weight is 0")


class MulticropLossConfig(Config):
    """The distance between the crops of an image (DINO, Caron et al. 2021; see `hjepa.views`)."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the distance between a crop's pooled context features and the mean of the pooled target
    features of the image's other global crops."""


class LossConfig(Config):
    """What is minimised: prediction errors of all levels, and regularizers beside them."""

    type: Literal["mse", "smoothl1", "huber", "cosine"] = "mse"
    """Distance between predicted and target features."""
    hierarchy_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Weight of each level's prediction loss, finest first; one per level, none negative, one positive."""
    prediction_weight: float = Field(default=1.0, ge=0)
    """Weight of the prediction loss of all levels together; 0 only beside a term of another kind."""
    normalize_embeddings: bool = False
    """Scale predicted and target features to unit length first."""
    smoothl1: SmoothL1Config = SmoothL1Config()
    huber: HuberConfig = HuberConfig()
    use_vicreg: bool = False
    """Add VICReg."""
    vicreg: VicregConfig = VicregConfig()
    use_sigreg: bool = False
    """Add SIGReg."""
    sigreg: SigregConfig = SigregConfig()
    use_ntxent: bool = False
    """Add NT-Xent, which encodes a second augmentation of every image."""
    ntxent: NtxentConfig = NtxentConfig()
    multicrop: MulticropLossConfig = MulticropLossConfig()

    @model_validator(mode="after")
    def _weights_weigh(self) -> Self:
        weights = self.hierarchy_weights
        if min(weights, default=-1.0) < 0 or max(weights) <= 0:
            raise ValueError(
                f"hierarchy_weights is {list(weights)}; none may be negative, one must be positive"
            )
        if not (self.predicts or self.adds_vicreg or self.adds_sigreg or self.adds_ntxent):
            raise ValueError(
                "prediction_weight is 0 and no other term has a weight: nothing is minimised; raise it, or "
                "turn on use_vicreg, use_sigreg or use_ntxent with a positive weight"
            )
        return self

    @property
    def predicts(self) -> bool:
        """Whether the prediction loss weighs anything; without it nothing is predicted."""
        return self.prediction_weight > 0

    @property
    def adds_vicreg(self) -> bool:
        """Whether VICReg is on and weighs anything."""
        vicreg = self.vicreg
        compared = max(vicreg.sim_coeff, vicreg.std_coeff, vicreg.cov_coeff) > 0
        return self.use_vicreg and vicreg.weight > 0 and compared

    @property
    def adds_sigreg(self) -> bool:
        """Whether SIGReg is on and weighs anything."""
        return self.use_sigreg and self.sigreg.weight > 0

    @property
    def adds_ntxent(self) -> bool:
        """Whether NT-Xent is on and weighs anything."""
        return self.use_ntxent and self.ntxent.weight > 0

    @property
    def prevents_collapse(self) -> bool:
        """Whether a regularizer keeps features apart that nothing else does."""
        return self.adds_sigreg or (self.adds_vicreg and self.vicreg.std_coeff > 0)

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.predicts:
            kinds = ("type", "hierarchy_weights", "normalize_embeddings", "smoothl1", "huber")
            return found | dict.fromkeys(kinds, "loss.prediction_weight is 0") | self._unused_terms()
        if self.type == "cosine":
            found["normalize_embeddings"] = "loss.type is cosine, which normalises by itself"
        if self.type != "smoothl1":
            found["smoothl1"] = f"loss.type is {self.type}"
        if self.type != "huber":
            found["huber"] = f"loss.type is {self.type}"
        return found | self._unused_terms()

    def _unused_terms(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in ("vicreg", "sigreg", "ntxent"):
            if not getattr(self, f"use_{name}"):
                found[name] = f"loss.use_{name} is false"
            elif not getattr(self, f"adds_{name}"):
                weightless = getattr(self, name).weight == 0
                zero = "weight is 0" if weightless else "sim_coeff, std_coeff and cov_coeff are 0"
                found[f"use_{name}"] = f"loss.{name}.{zero}"
        return found


def _cosine(predicted_BND: Tensor, target_BND: Tensor, config: LossConfig) -> Tensor:
    return 1 - F.cosine_similarity(predicted_BND, target_BND, dim=-1)


def _mse(predicted_BND: Tensor, target_BND: Tensor, config: LossConfig) -> Tensor:
    return F.mse_loss(predicted_BND, target_BND, reduction="none").mean(-1)


def _smoothl1(predicted_BND: Tensor, target_BND: Tensor, config: LossConfig) -> Tensor:
    beta = config.smoothl1.beta
    return F.smooth_l1_loss(predicted_BND, target_BND, reduction="none", beta=beta).mean(-1)


def _huber(predicted_BND: Tensor, target_BND: Tensor, config: LossConfig) -> Tensor:
    delta = config.huber.delta
    return F.huber_loss(predicted_BND, target_BND, reduction="none", delta=delta).mean(-1)


PREDICTION_LOSSES: dict[str, Callable[[Tensor, Tensor, LossConfig], Tensor]] = {
    "mse": _mse,
    "smoothl1": _smoothl1,
    "huber": _huber,
    "cosine": _cosine,
}


def prediction_loss(predicted_BND: Tensor, target_BND: Tensor, config: LossConfig) -> Tensor:
    """The loss of each position, (B, N), averaged over features; gradients reach both arguments."""
    if config.normalize_embeddings and config.type != "cosine":
        predicted_BND = F.normalize(predicted_BND, dim=-1)
        target_BND = F.normalize(target_BND, dim=-1)
    return PREDICTION_LOSSES[config.type](predicted_BND, target_BND, config)


def variance_penalty(z_SD: Tensor, eps: float = 1e-4) -> Tensor:
    """Mean over features of hinge(1 - sqrt(var + eps)), a scalar. VICReg, Bardes et al. 2022, eq. 1.

    `z_SD` is (samples, features); at least 2 samples, else ValueError.
    """
    _need_two(z_SD)
    return F.relu(1 - (z_SD.var(0) + eps).sqrt()).mean()


def covariance_penalty(z_SD: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over D, a scalar. VICReg, Bardes et al. 2022, eq. 4.

    `z_SD` is (samples, features); at least 2 samples, else ValueError.
    """
    _need_two(z_SD)
    centred = z_SD - z_SD.mean(0)
    cov_DD = centred.T @ centred / (len(z_SD) - 1)
    return (cov_DD.square().sum() - cov_DD.diagonal().square().sum()) / z_SD.shape[1]


def vicreg(
    context_SD: Tensor, target_SD: Tensor, config: VicregConfig, learning: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The weighted VICReg terms by name, each a scalar; their sum is to be added to the loss.

    Variance and covariance are those of the samples in `learning`, averaged: of the context, and of
    the target too where it is trained.
    """
    terms = {
        "vicreg_sim": config.sim_coeff * F.mse_loss(context_SD, target_SD),
        "vicreg_std": config.std_coeff
        * torch.stack([variance_penalty(z, config.eps) for z in learning]).mean(),
        "vicreg_cov": config.cov_coeff * torch.stack([covariance_penalty(z) for z in learning]).mean(),
    }
    return {name: config.weight * term for name, term in terms.items()}


def sigreg(z_SD: Tensor, directions_DK: Tensor, num_points: int) -> Tensor:
    """Epps-Pulley distance of the projected samples from N(0, 1), averaged over slices, a scalar.

    `z_SD` is (samples, features), `directions_DK` unit columns. Neither centred nor scaled first:
    it has to see a wrong mean and a wrong scale. The integral over t in [0, 3] is doubled, by
    symmetry. LeJEPA, Balestriero & LeCun 2025.
    """
    t_T = torch.linspace(0, 3, num_points, device=z_SD.device)
    weights_T = torch.full_like(t_T, 2 * 3 / (num_points - 1))
    weights_T[[0, -1]] /= 2
    gauss_T = torch.exp(-t_T.square() / 2)
    angle_SKT = (z_SD @ directions_DK)[..., None] * t_T
    real_KT = angle_SKT.cos().mean(0) - gauss_T
    imag_KT = angle_SKT.sin().mean(0)
    distance_KT = (real_KT.square() + imag_KT.square()) * gauss_T
    return len(z_SD) * (distance_KT @ weights_T).mean()


def random_directions(features: int, slices: int, device: torch.device) -> Tensor:
    """Unit columns (features, slices), uniform on the sphere, from torch's global generator."""
    return F.normalize(torch.randn(features, slices, device=device), dim=0)


@lru_cache(maxsize=4)
def fixed_directions(features: int, slices: int, seed: int, device: torch.device) -> Tensor:
    """Unit columns (features, slices), uniform on the sphere: the same for a seed, on every device."""
    # The first to ask may be in inference mode, whose tensors no later backward pass could use.
    with torch.inference_mode(False):
        drawn_DK = torch.randn(features, slices, generator=torch.Generator().manual_seed(seed))
        return F.normalize(drawn_DK, dim=0).to(device)


def ntxent(first_SD: Tensor, second_SD: Tensor, temperature: float, cosine: bool = True) -> Tensor:
    """Mean cross entropy of finding each sample's other view among all views but itself, a scalar.

    Row i of either argument is a view of image i; at least 2 images, else ValueError. Views are
    compared by their cosine, or by the plain dot product. SimCLR, Chen et al. 2020, eq. 1.
    """
    _need_two(first_SD)
    views_SD = torch.cat([first_SD, second_SD])
    if cosine:
        views_SD = F.normalize(views_SD, dim=1)
    itself = torch.eye(len(views_SD), dtype=torch.bool, device=views_SD.device)
    logits_SS = (views_SD @ views_SD.T / temperature).masked_fill(itself, -torch.inf)
    other_S = torch.arange(len(views_SD), device=views_SD.device).roll(len(first_SD))
    return F.cross_entropy(logits_SS, other_S)


def _need_two(z_SD: Tensor) -> None:
    if len(z_SD) < 2:
        raise ValueError(f"needs at least 2 samples, got {len(z_SD)}")
