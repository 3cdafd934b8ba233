"""What frozen features are worth: k-NN, rank, and whether they have collapsed; `hjepa.probe` has the probe.

Pure functions of features on any device; accuracies are shares in [0, 1].
Shape letters: N images of the bank, M queries, D features, C classes, K neighbours,
V views of an image.
"""

import math
from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from hjepa.metrics import KNN_OF_K
from hjepa.probe import LinearProbeConfig
from hjepa.schema import Config

_MAX_CHUNK_VALUES = 2**24  # 64 MiB of float32
_RANKME_EPS = 1e-7
_LIDAR_DELTA = 1e-4  # variance that every direction has within an image, so that none divides by zero
_ALPHA_RANKS = (4, 100)


class KnnConfig(Config):
    """k nearest neighbours, the default measure of a run."""

    k: int = Field(default=20, ge=1)
    """Neighbours that vote; no more than there are images."""
    k_values: tuple[int, ...] = ()
    """Further numbers of neighbours, each measured too, as val/knn_top1_k<n>."""
    temperature: float = Field(default=0.07, gt=0)
    """A neighbour of cosine similarity s votes with weight exp(s / temperature)."""

    @model_validator(mode="after")
    def _k_values_are_counts(self) -> Self:
        if min(self.k_values, default=1) < 1 or len(set(self.k_values)) < len(self.k_values):
            raise ValueError(f"k_values is {list(self.k_values)}; must be different numbers of at least 1")
        return self

    def inert(self) -> dict[str, str]:
        alone = max((self.k, *self.k_values)) == 1
        return {"temperature": "one neighbour decides alone: evaluation.knn.k is 1"} if alone else {}


class LidarConfig(Config):
    """LiDAR (Thilak et al. 2023): in how many directions images differ beyond what augmentation changes."""

    enabled: bool = False
    """Whether to measure it, as val/lidar; comparable between runs of the same data.augmentation only."""
    num_images: int = Field(default=1000, ge=2)
    """Images of the evaluation split, evenly spread; no more than there are."""
    num_views: int = Field(default=10, ge=2)
    """Augmentations of each, drawn as in training, the same at every evaluation and for every seed."""

    def inert(self) -> dict[str, str]:
        if self.enabled:
            return {}
        return dict.fromkeys(("num_images", "num_views"), "lidar.enabled is false")


class CollapseConfig(Config):
    """Below either of these a run counts as collapsed."""

    min_rank: float = Field(default=1.5, ge=0)
    """Effective number of directions in which the features differ between images."""
    min_std: float = Field(default=0.01, ge=0)
    """Spread of the features' directions between images; 1 is evenly over the sphere, 0 all the same."""


class EvaluationConfig(Config):
    """How the frozen target features are judged."""

    eval_frequency: int = Field(default=1, ge=1)
    """Epochs between evaluations."""
    knn: KnnConfig = KnnConfig()
    linear_probe: LinearProbeConfig = LinearProbeConfig()
    lidar: LidarConfig = LidarConfig()
    val_loss: bool = False
    """Whether to measure the run's loss on the evaluation images too, as val/loss and its parts: not
    augmented, without dropout, under the same masks at every evaluation."""
    collapse: CollapseConfig = CollapseConfig()

    def unmeasured(self, metric: str) -> tuple[str, str] | None:
        """Of a metric that such a run does not report: what in it is the cause, and the key and value that
        mend it, in words."""
        switches = {
            "val/linear_probe_top1": ("linear_probe.enabled", self.linear_probe.enabled),
            "val/lidar": ("lidar.enabled", self.lidar.enabled),
            "val/loss": ("val_loss", self.val_loss),
        }
        key, is_on = switches.get(metric, ("", True))
        if not is_on:
            return f"evaluation.{key} is false", f"evaluation.{key}=true"
        named = KNN_OF_K.fullmatch(metric)
        if named and int(named[1]) not in self.knn.k_values:
            listed = ",".join(map(str, (*self.knn.k_values, named[1])))
            return f"evaluation.knn.k_values lacks {named[1]}", f"evaluation.knn.k_values=[{listed}]"
        return None


def knn_accuracy(
    bank_ND: Tensor, bank_labels_N: Tensor, queries_MD: Tensor, labels_M: Tensor, config: KnnConfig
) -> float:
    """`knn_accuracies` for `config.k` alone."""
    alone = config.model_copy(update={"k_values": ()})
    return knn_accuracies(bank_ND, bank_labels_N, queries_MD, labels_M, alone)[config.k]


@torch.no_grad()
def knn_accuracies(
    bank_ND: Tensor, bank_labels_N: Tensor, queries_MD: Tensor, labels_M: Tensor, config: KnnConfig
) -> dict[int, float]:
    """For `k` and each of `k_values`, the share of queries whose class wins the weighted vote of their k
    nearest in the bank, by cosine.

    Labels are int64, 0 to C - 1. Of equal votes the lower class wins. Memory is bounded: queries go in
    chunks. Raises ValueError where bank or queries are empty. Wu et al. 2018, arXiv:1805.01978.
    """
    if len(bank_ND) == 0 or len(queries_MD) == 0:
        raise ValueError(f"k-NN needs a bank and queries, got {len(bank_ND)} and {len(queries_MD)} images")
    k = min(config.k, len(bank_ND))
    further = [other for other in config.k_values if other != config.k]
    num_classes = int(bank_labels_N.max()) + 1
    bank_DN = F.normalize(bank_ND.float(), dim=1).T
    queries_MD = F.normalize(queries_MD.float(), dim=1)
    chunk_size = max(1, _MAX_CHUNK_VALUES // max(len(bank_ND), k * num_classes))
    correct = {
        count: torch.zeros((), dtype=torch.int64, device=labels_M.device) for count in (config.k, *further)
    }
    for queries, labels in zip(queries_MD.split(chunk_size), labels_M.split(chunk_size), strict=True):
        similarity_MN = queries @ bank_DN
        # A search of its own for k: of equally near ones a search for more might find others first.
        for counts in ([config.k], further):
            if not counts:
                continue
            similarity_MK, neighbours_MK = similarity_MN.topk(min(max(counts), len(bank_ND)), dim=1)
            classes_MK = bank_labels_N[neighbours_MK]
            for count in counts:
                winners_M = _winners(
                    similarity_MK[:, :count], classes_MK[:, :count], num_classes, config.temperature
                )
                correct[count] += (winners_M == labels).sum()
    return {count: found.item() / len(labels_M) for count, found in correct.items()}


@torch.no_grad()
def knn_accuracy_of_parts(
    bank: Iterable[tuple[Tensor, Tensor]], queries_MD: Tensor, labels_M: Tensor, config: KnnConfig
) -> float:
    """`knn_accuracy` with a bank that comes in parts, each its features (N, D) and labels (N,).

    One part is held at a time, and of those before it each query's k nearest only. Raises ValueError where
    bank or queries are empty.
    """
    queries_MD = F.normalize(queries_MD.float(), dim=1)
    near_MK = queries_MD.new_empty(len(queries_MD), 0)
    classes_MK = labels_M.new_empty(len(labels_M), 0)
    for part_ND, part_labels_N in bank:
        part_near_MK, part_classes_MK = _nearest(part_ND, part_labels_N, queries_MD, config.k)
        both_MK = torch.cat([near_MK, part_near_MK], dim=1)
        near_MK, kept_MK = both_MK.topk(min(config.k, both_MK.shape[1]), dim=1)
        classes_MK = torch.cat([classes_MK, part_classes_MK], dim=1).gather(1, kept_MK)
    if classes_MK.numel() == 0:
        raise ValueError("k-NN needs a bank and queries, and one of them is empty")
    winners_M = _winners(near_MK, classes_MK, int(classes_MK.max()) + 1, config.temperature)
    return (winners_M == labels_M).sum().item() / len(labels_M)


def _nearest(part_ND: Tensor, labels_N: Tensor, queries_MD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity and class of each normalised query's k nearest in a part of a bank, (M, K) each."""
    part_DN = F.normalize(part_ND.float(), dim=1).T
    found = [
        (queries @ part_DN).topk(min(k, len(part_ND)), dim=1)
        for queries in queries_MD.split(max(1, _MAX_CHUNK_VALUES // len(part_ND)))
    ]
    return torch.cat([near for near, _ in found]), labels_N[torch.cat([which for _, which in found])]


def _winners(similarity_MK: Tensor, classes_MK: Tensor, num_classes: int, temperature: float) -> Tensor:
    """The class that each query's neighbours vote for, (M,)."""
    rows = max(1, _MAX_CHUNK_VALUES // (classes_MK.shape[1] * num_classes))
    winners = []
    for near_MK, of_MK in zip(similarity_MK.split(rows), classes_MK.split(rows), strict=True):
        # Softmax rather than exp: the same winner, and no overflow at a low temperature.
        weights_MK = (near_MK / temperature).softmax(dim=1)
        # One-hot rather than scatter_add, which is not deterministic on CUDA.
        classes_MKC = F.one_hot(of_MK, num_classes).to(weights_MK.dtype)
        winners.append((weights_MK[:, None] @ classes_MKC).squeeze(1).argmax(dim=1))
    return torch.cat(winners)


@torch.no_grad()
def rankme(z_ND: Tensor) -> float:
    """Effective rank of features, 1 to min(N, D): exp of the entropy of their singular values' shares.

    NaN where a feature is not finite. N >= 2, else ValueError. RankMe, Garrido et al. 2023, eq. 1.
    """
    _require_two(z_ND)
    if not z_ND.isfinite().all():
        return math.nan
    return _exp_entropy(torch.linalg.svdvals(z_ND.float()))


def _exp_entropy(sizes_D: Tensor) -> float:
    shares_D = sizes_D / sizes_D.sum().clamp(min=torch.finfo(sizes_D.dtype).tiny) + _RANKME_EPS
    return math.exp(-(shares_D * shares_D.log()).sum().item())


@torch.no_grad()
def lidar(views_NVD: Tensor) -> float:
    """Effective rank of images against their views, 1 to min(N - 1, D), from V views of each image.

    exp of the entropy of the shares of the eigenvalues that linear discriminant analysis finds with
    each image as a class. NaN where a feature is not finite. N, V >= 2, else ValueError.
    LiDAR, Thilak et al. 2023, section 3.
    """
    if min(views_NVD.shape[:2]) < 2:
        raise ValueError(f"needs 2 views of 2 images at least, got shape {tuple(views_NVD.shape)}")
    if not views_NVD.isfinite().all():
        return math.nan
    views_NVD = views_NVD.cpu().double()
    centres_ND = views_NVD.mean(dim=1)
    within_SD = (views_NVD - centres_ND[:, None]).flatten(0, 1)
    within_DD = (
        within_SD.T @ within_SD / len(within_SD) + _LIDAR_DELTA * torch.eye(within_SD.shape[1]).double()
    )
    between_ND = centres_ND - centres_ND.mean(dim=0)
    # The eigenvalues of within^-1/2 between within^-1/2 are those of any other square root's.
    whitened_DN = torch.linalg.solve_triangular(torch.linalg.cholesky(within_DD), between_ND.T, upper=False)
    return _exp_entropy(torch.linalg.svdvals(whitened_DN).square())


@torch.no_grad()
def alpha_req(z_ND: Tensor) -> float | None:
    """Decay alpha of the eigenvalues of the covariance, which fall as rank^-alpha; best near 1.

    Least squares on logarithms over ranks 4 to 100, each weighted by 1 / rank, as in the authors' code;
    None where fewer than 3 of these ranks have an eigenvalue above rounding. N >= 2, else ValueError.
    alpha-ReQ, Agrawal et al. 2022.
    """
    _require_two(z_ND)
    if not z_ND.isfinite().all():
        return None
    z_ND = z_ND.cpu().double()
    values_R = torch.linalg.svdvals(z_ND - z_ND.mean(dim=0)).square()
    rounding = values_R[0] * torch.finfo(torch.float32).eps ** 2 * max(z_ND.shape)
    first, last = _ALPHA_RANKS[0], min(_ALPHA_RANKS[1], int((values_R > rounding).sum()))
    if last - first < 2:
        return None
    rank_R = torch.arange(first, last + 1, dtype=torch.float64)
    x_R, y_R, weight_R = rank_R.log(), values_R[first - 1 : last].log(), 1 / rank_R
    x_R = x_R - (weight_R * x_R).sum() / weight_R.sum()
    return -((weight_R * x_R * y_R).sum() / (weight_R * x_R.square()).sum()).item()


def effective_rank(z_ND: Tensor) -> float:
    """RankMe of centred features: the number of directions in which images differ.

    Features that are mostly one common vector have a RankMe near 1 however much they differ besides,
    as those of an untrained network do. Raises and NaN as `rankme`.
    """
    _require_two(z_ND)
    return rankme(z_ND.float() - z_ND.float().mean(dim=0))


@torch.no_grad()
def feature_std(z_ND: Tensor) -> float:
    """Standard deviation of L2-normalised features, mean over features, times sqrt(D).

    1 where directions are isotropic, 0 where all are one. NaN where a feature is not finite. N >= 2,
    else ValueError. SimSiam, Chen & He 2021, section 4.1.
    """
    _require_two(z_ND)
    directions_ND = F.normalize(z_ND.float(), dim=1)
    return directions_ND.std(dim=0, correction=0).mean().item() * math.sqrt(z_ND.shape[1])


def collapse_reason(z_ND: Tensor, config: CollapseConfig) -> str | None:
    """Why the features count as collapsed, in words, or None where they do not. N >= 2, else ValueError."""
    _require_two(z_ND)
    if not z_ND.isfinite().all():
        return "features are not finite"
    std = feature_std(z_ND)
    if std < config.min_std:
        return (
            f"all images have nearly the same features (spread {std:.2g}, least allowed {config.min_std:g})"
        )
    rank = effective_rank(z_ND)
    if rank < config.min_rank:
        return f"features vary in too few directions (rank {rank:.2f}, least allowed {config.min_rank:g})"
    return None


def raw_pixel_features(images_NCSS: Tensor) -> Tensor:
    """The pixels themselves as features, (N, C*S*S): what any learnt features must beat."""
    return images_NCSS.flatten(1)


def _require_two(z_ND: Tensor) -> None:
    if len(z_ND) < 2:
        raise ValueError(f"needs the features of at least 2 images, got {len(z_ND)}")
