"""The views of an image in the objective: how far they are apart, and each as samples of its own.

Shape letters: B images, G global crops and V local crops of each, S = B * G, P patches of a local crop,
D features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def view_distance(
    context_SD: Tensor, target_SD: Tensor, local_BVD: Tensor | None, global_crops: int
) -> Tensor | None:
    """Mean squared distance of every crop from the image's other global crops, a scalar; None where a crop
    has no other.

    A crop stands by its pooled context features, what it is held to by the mean of the others' pooled
    target features: a local crop to all global crops, a global crop to those but itself. All are
    normalised over features first, so that no scale can make the distance small. DINO's pairs of views
    (Caron et al. 2021).
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
    return F.mse_loss(_normalize(torch.cat(crops, dim=1)), torch.cat(held_to, dim=1))


def by_view(
    sides: Sequence[Tensor], local_BVPD: Tensor | None, images: int, global_crops: int, flatten_patches: bool
) -> list[Tensor]:
    """The samples (samples, D) of each view by itself: of the global crops in each of `sides`, and of the
    local crops.

    A side holds one sample or more of each crop, (B * G * samples, D). Local crops give their patches
    where `flatten_patches` says so, else the mean of them.
    """
    split = [side_SD.unflatten(0, (images, global_crops, -1)) for side_SD in sides]
    if local_BVPD is not None:
        split.append(local_BVPD if flatten_patches else local_BVPD.mean(2, keepdim=True))
    return [view.flatten(0, 1) for side in split for view in side.unbind(1)]


def _normalize(x_SD: Tensor) -> Tensor:
    return F.layer_norm(x_SD, x_SD.shape[-1:])
