"""The yardstick of benchmarks/step.py: H-JEPA's training step as a plain implementation has it.

Written anew after the way in which the research code worked that this project follows. Old in it are:

- The context encoder runs on all patches; those that are masked are zeros after the patch embedding.
- Masks are drawn image by image, block by block, in Python, on the host.
- The predictor is as wide as the encoder.
- Everything is float32.
- The target follows in a loop over its parameters.
- The loss is read to the host at every step.

What it shares with ours: timm's blocks and their fused attention, which compute what ours do; multi-block
masks of the same sizes; three levels with a head each; normalised targets under `no_grad`; clipping; AdamW
as `torch.optim` gives it when called plainly. Nothing in it is slow on purpose.

Shape letters: B images, N patches of the grid, D width.
"""

import copy
import math
import random

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from hjepa.encoder import timm_shape

MOMENTUM, CLIP, LR, WEIGHT_DECAY = 0.996, 3.0, 1e-3, 0.05
LEVEL_WEIGHTS = (1.0, 0.5, 0.25)


class MaskedViT(nn.Module):
    """timm's vision transformer, on images of which some patches are zeros."""

    def __init__(self, name: str, image_size: int):
        super().__init__()
        settings = {"img_size": image_size, "num_classes": 0, "class_token": False, "global_pool": ""}
        vit = timm.create_model(name, **settings)
        assert isinstance(vit, VisionTransformer)
        self.vit = vit

    def forward(self, images_BCHW: Tensor, seen_BN: Tensor | None = None) -> Tensor:
        """Tokens of all patches (B, N, D), the masked ones' too."""
        x_BND = self.vit.patch_embed(images_BCHW) + self.vit.pos_embed
        if seen_BN is not None:
            x_BND = x_BND * seen_BN[..., None]
        return self.vit.norm(self.vit.blocks(x_BND))


class FullWidthPredictor(nn.Module):
    """A transformer of the encoder's width over all positions, of which the masked ones hold a mask token."""

    def __init__(self, dim: int, heads: int, depth: int, tokens: int):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, tokens_BND: Tensor, seen_BN: Tensor) -> Tensor:
        x_BND = torch.where(seen_BN[..., None] > 0, tokens_BND, self.mask_token)
        return self.project(self.norm(self.blocks(x_BND + self.pos_embed)))


class OldStyle(nn.Module):
    """Both encoders and the predictor, with the optimizer that trains them."""

    def __init__(self, encoder: str, image_size: int, predictor_depth: int, target_blocks: int):
        super().__init__()
        self.target_blocks = target_blocks
        self.encoder = MaskedViT(encoder, image_size)
        shape, dim = timm_shape(encoder), self.encoder.vit.embed_dim
        self.side = self.encoder.vit.patch_embed.grid_size[0]
        self.predictor = FullWidthPredictor(dim, shape.num_heads, predictor_depth, self.side**2)
        self.heads = nn.ModuleList(nn.Linear(dim, dim) for _ in LEVEL_WEIGHTS)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=WEIGHT_DECAY)

    def draw_masks(self, batch: int) -> tuple[Tensor, Tensor]:
        """1 where a patch is seen, and 1 where it is to be predicted, (B, N) each, on the host."""
        seen_BN, wanted_BN = torch.zeros(2, batch, self.side**2)
        for image in range(batch):
            wanted = set()
            for _ in range(self.target_blocks):
                wanted |= random_block(self.side, (0.15, 0.2), (0.75, 1.5))
            context = random_block(self.side, (0.85, 1.0), (1.0, 1.0)) - wanted
            seen_BN[image, list(context)] = 1
            wanted_BN[image, list(wanted)] = 1
        return seen_BN, wanted_BN

    def step(self, images_BCHW: Tensor, seen_BN: Tensor, wanted_BN: Tensor) -> float:
        """One optimizer step and the target's; the loss."""
        predicted_BND = self.predictor(self.encoder(images_BCHW, seen_BN), seen_BN)
        with torch.no_grad():
            target_BND = self.target_encoder(images_BCHW)
            target_BND = F.layer_norm(target_BND, target_BND.shape[-1:])
        loss = torch.zeros((), device=images_BCHW.device)
        for level, (head, weight) in enumerate(zip(self.heads, LEVEL_WEIGHTS, strict=True)):
            found, target = pooled(predicted_BND, level), pooled(target_BND, level)
            share_BL = pooled(wanted_BN[..., None], level)[..., 0]
            error_BL = F.mse_loss(head(found), target, reduction="none").mean(-1)
            loss = loss + weight * (error_BL * share_BL).sum() / share_BL.sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), CLIP)
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.target_encoder.parameters(), self.encoder.parameters(), strict=True)
            for follower, leader in pairs:
                follower.mul_(MOMENTUM).add_(leader, alpha=1 - MOMENTUM)
        return loss.item()


def random_block(side: int, scale: tuple[float, float], aspect: tuple[float, float]) -> set[int]:
    """Patches of a random rectangle on the grid."""
    area, ratio = side * side * random.uniform(*scale), random.uniform(*aspect)
    height = min(max(round(math.sqrt(area * ratio)), 1), side)
    width = min(max(round(math.sqrt(area / ratio)), 1), side)
    top, left = random.randint(0, side - height), random.randint(0, side - width)
    return {row * side + column for row in range(top, top + height) for column in range(left, left + width)}


def pooled(tokens_BND: Tensor, level: int) -> Tensor:
    """Means of 2^level neighbours along the sequence of patches."""
    return F.avg_pool1d(tokens_BND.transpose(1, 2), 2**level).transpose(1, 2)
