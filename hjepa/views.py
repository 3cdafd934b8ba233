"""How far the views of an image are apart.

Shape letters: B images, G global crops and V local crops of each, S = B * G, D features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.losses import LossConfig, prediction_loss


def view_distance(
    context_SD: Tensor, target_SD: Tensor, local_BVD: Tensor | None, global_crops: int, config: LossConfig
) -> Tensor | None:
    """Mean distance of every crop from the image's other global crops, a scalar; None where a crop has
    no other.

    A crop stands by its pooled context features, what it is held to by the mean of the others' pooled
    target features: a local crop to all global crops, a global crop to those but itself. Both are
    normalised over features first, so that no scale can make the distance small. DINO's pairs of views
    (Caron et al. 2021), by the distance of loss.type.
    """
    target_BGD = _normalize(target_SD).unflatten(0, (-1, global_crops))
    crops, held_to = [], []
    if global_crops > 1:
        crops.append(context_SD.unflatten(0, (-1, global_crops)))
        held_to.append((target_BGD.sum(1, keepdim=True) - target_BGD) / (global_crops - 1))
    if local_BVD is not None:
        crops.append(local_BVD)
        held_to.append(target_BGD.mean(1, keepdim=True).expand_as(local_BVD))
    if not crops:
        return None
    return prediction_loss(_normalize(torch.cat(crops, dim=1)), torch.cat(held_to, dim=1), config).mean()


def by_view(sides: Sequence[Tensor], local_BVD: Tensor | None, global_crops: int) -> list[Tensor]:
    """The samples (B, D) of each view by itself: of the global crops in each of `sides`, (S, D) each, and
    of the local ones."""
    views = [view_BD for side_SD in sides for view_BD in side_SD.unflatten(0, (-1, global_crops)).unbind(1)]
    return views if local_BVD is None else [*views, *local_BVD.unbind(1)]


def _normalize(x_SD: Tensor) -> Tensor:
    return F.layer_norm(x_SD, x_SD.shape[-1:])
