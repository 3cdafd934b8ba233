"""Mixup and CutMix of the images of a batch.

Shape letters: B images, C channels, S x S pixels.
"""

import torch
from torch import Tensor

from hjepa.data.deit3 import Deit3Config


class Mixing:
    """Mixup or CutMix of neighbours in a batch: the first two images, the next two, and so on.

    The batch's order is random already. Of an odd number the last is mixed with the one before it.
    Every image has its own weight or box (timm's "elem" mode). A step apart from Augmentation, for
    training only: an evaluation's views must show one image each.
    """

    def __init__(self, config: Deit3Config):
        self.config = config

    def draw(self, count: int) -> Tensor:
        """Weight of the image itself outside a box; the box's left, top, right, bottom as shares: (count, 5).

        Inside the box the neighbour is seen. An image that is not mixed has weight 1 and no box.
        """
        config, share = self.config, self.config.cutmix_share
        # What cannot matter is not drawn.
        mixed_B = torch.rand(count) < config.mixup_cutmix_prob
        cut_B = torch.full((count,), share == 1) if share in (0, 1) else torch.rand(count) < share
        rows_B5 = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]).repeat(count, 1)
        if share < 1:
            weight_B = _beta(config.mixup_alpha, count)
            rows_B5[:, 0] = torch.where(mixed_B & ~cut_B, weight_B, 1)
        if share > 0:
            side_B = (1 - _beta(config.cutmix_alpha, count)).sqrt()
            x_B, y_B = torch.rand(2, count)
            box = [x_B - side_B / 2, y_B - side_B / 2, x_B + side_B / 2, y_B + side_B / 2]
            box_B4 = torch.stack(box, dim=1).clamp(0, 1)
            rows_B5[:, 1:] = torch.where((mixed_B & cut_B)[:, None], box_B4, 0)
        return rows_B5

    def apply(self, images_BCSS: Tensor, drawn_B5: Tensor) -> Tensor:
        """Mixed images; two views of the same images, with the same numbers, stay views of the same."""
        count, size = len(images_BCSS), images_BCSS.shape[-1]
        device = images_BCSS.device
        neighbour_B = torch.arange(count, device=device) ^ 1
        neighbour_B[-1] = count - 2
        outside_B, left_B, top_B, right_B, bottom_B = drawn_B5.to(device)[:, :, None].unbind(1)
        middles_S = (torch.arange(size, device=device) + 0.5) / size
        across_BS = (middles_S >= left_B) & (middles_S < right_B)
        down_BS = (middles_S >= top_B) & (middles_S < bottom_B)
        inside_BSS = down_BS[:, :, None] & across_BS[:, None]
        weight_BSS = torch.where(inside_BSS, 0.0, outside_B[:, :, None])
        return torch.lerp(images_BCSS[neighbour_B], images_BCSS, weight_BSS[:, None])


def _beta(alpha: float, count: int) -> Tensor:
    return torch.distributions.Beta(alpha, alpha).sample(torch.Size([count]))
