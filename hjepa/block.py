"""Transformer block that encoder and predictor are made of.

Shape letters: B samples, K tokens, D width, H heads, E width of a head, S = B * H.
"""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

# In bfloat16 torch's fused attention for the CPU multiplies slower than in float32, three times slower on the
# way back. Up to so many tokens the scores take less memory than a block's other activations.
FEW_TOKENS = 1024


@dataclass(frozen=True)
class BlockSpec:
    """What the encoder's and the predictor's configs say of a block."""

    dim: int
    num_heads: int
    mlp_ratio: float
    layerscale_init: float | None = None
    """None: what a block adds is not scaled."""
    drop_path: float = 0.0
    """Chance of a sample to skip a half of the block in training."""
    flash: bool = True
    """False: attention by the plain kernel."""
    dropout: float = 0.0
    """Share of what attention and both layers of the MLP put out that is zeroed in training."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""


class Attention(nn.Module):
    """Multi-head self-attention, with rotary positions where given."""

    def __init__(self, spec: BlockSpec):
        super().__init__()
        self.num_heads = spec.num_heads
        self.flash = spec.flash
        self.qkv = nn.Linear(spec.dim, 3 * spec.dim, bias=spec.qkv_bias)
        self.proj = nn.Linear(spec.dim, spec.dim)
        self.proj_drop = nn.Dropout(spec.dropout)

    def forward(self, x_BKD: Tensor, rotary: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """`seen`, boolean and broadcast to (B, H, K, K), says which tokens each may look at."""
        batch, tokens, dim = x_BKD.shape
        q_BHKE, k_BHKE, v_BHKE = self._heads(x_BKD, rotary)
        in_bfloat16 = q_BHKE.dtype == torch.bfloat16 and q_BHKE.device.type == "cpu"
        if self.flash and in_bfloat16 and tokens <= FEW_TOKENS:
            out_BHKE = attend(q_BHKE, k_BHKE, v_BHKE, seen)
        else:
            with nullcontext() if self.flash else sdpa_kernel(SDPBackend.MATH):
                out_BHKE = F.scaled_dot_product_attention(q_BHKE, k_BHKE, v_BHKE, attn_mask=seen)
        return self.proj_drop(self.proj(out_BHKE.transpose(1, 2).reshape(batch, tokens, dim)))

    def weights(self, x_BKD: Tensor, rotary: Tensor | None = None) -> Tensor:
        """How much each token (third axis) looks at each (last axis), (B, H, K, K); the last sums to 1."""
        q_BHKE, k_BHKE, _ = self._heads(x_BKD, rotary)
        return (q_BHKE @ k_BHKE.mT / q_BHKE.shape[-1] ** 0.5).softmax(dim=-1)

    def _heads(self, x_BKD: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        batch, tokens, dim = x_BKD.shape
        qkv = self.qkv(x_BKD).view(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        # Taken apart along their own axis, their gradients are put together as the layer wants them.
        q_BHKE, k_BHKE, v_BHKE = (heads_BKHE.transpose(1, 2) for heads_BKHE in qkv.unbind(2))
        if rotary is not None:
            q_BHKE, k_BHKE = rotate(q_BHKE, rotary), rotate(k_BHKE, rotary)
        return q_BHKE, k_BHKE, v_BHKE


def attend(q_BHKE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, seen: Tensor | None) -> Tensor:
    """Attention in matrix products, with every score in memory, (B, H, K, E)."""
    batch, heads, tokens, width = q_BHKE.shape
    q_SKE, k_SKE, v_SKE = (x_BHKE.flatten(0, 1) for x_BHKE in (q_BHKE, k_BHKE, v_BHKE))
    nothing = q_SKE.new_zeros(1)  # what the scaled product would be added to
    scores_SKK = torch.baddbmm(nothing, q_SKE, k_SKE.mT, beta=0, alpha=width**-0.5)
    if seen is not None:
        scores_BHKK = scores_SKK.view(batch, heads, tokens, tokens).masked_fill(~seen, -torch.inf)
        scores_SKK = scores_BHKK.flatten(0, 1)
    return (scores_SKK.softmax(dim=-1) @ v_SKE).view(batch, heads, tokens, width)


class LayerScale(nn.Module):
    """A learned factor for each feature (CaiT, Touvron et al. 2021, eq. 4)."""

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x_BKD: Tensor) -> Tensor:
        return x_BKD * self.gamma


class DropPath(nn.Module):
    """In training, zero for a random share `rate` of the samples; the others are scaled up, so that
    the mean stays. Draws from torch's global generator (stochastic depth, Huang et al. 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x_BKD: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x_BKD
        keep = 1 - self.rate
        return x_BKD * x_BKD.new_empty(len(x_BKD), 1, 1).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """Pre-norm transformer block; its parameters are named as timm's."""

    def __init__(self, spec: BlockSpec):
        super().__init__()
        dim, hidden = spec.dim, int(spec.dim * spec.mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(spec)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        layers = {
            "fc1": nn.Linear(dim, hidden),
            "act": nn.GELU(),
            "drop1": nn.Dropout(spec.dropout),
            "fc2": nn.Linear(hidden, dim),
            "drop2": nn.Dropout(spec.dropout),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))
        init = spec.layerscale_init
        self.ls1, self.ls2 = (nn.Identity() if init is None else LayerScale(dim, init) for _ in range(2))
        self.drop_path = DropPath(spec.drop_path)

    def forward(self, x_BKD: Tensor, rotary: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        x_BKD = x_BKD + self.drop_path(self.ls1(self.attn(self.norm1(x_BKD), rotary, seen)))
        return x_BKD + self.drop_path(self.ls2(self.mlp(self.norm2(x_BKD))))


def drops_at_random(module: nn.Module) -> bool:
    """Whether something within zeroes at random in training."""
    within = list(module.modules())
    dropout = any(isinstance(part, nn.Dropout) and part.p > 0 for part in within)
    return dropout or any(isinstance(part, DropPath) and part.rate > 0 for part in within)


def run_blocks(
    blocks: Iterable[nn.Module],
    x_BKD: Tensor,
    rotary: Tensor | None,
    recompute: bool,
    seen: Tensor | None = None,
) -> Tensor:
    """The tokens after every block; with `recompute`, activations are not kept for the backward pass."""
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            # Set back for a block that draws nothing, the generator's state would be disturbed where several
            # threads do so at once.
            draws = drops_at_random(block)
            x_BKD = checkpoint(block, x_BKD, rotary, seen, use_reentrant=False, preserve_rng_state=draws)
        else:
            x_BKD = block(x_BKD, rotary, seen)
    return x_BKD


def rotate(x_BHKE: Tensor, rotary: Tensor) -> Tensor:
    """Each pair of neighbouring features turned by its position's angles."""
    sin, cos = rotary.to(x_BHKE.dtype).chunk(2, dim=-1)
    turned = torch.stack([-x_BHKE[..., 1::2], x_BHKE[..., ::2]], dim=-1).reshape(x_BHKE.shape)
    return x_BHKE * cos + turned * sin


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform weights for linear layers, zero for their biases.

    Not the usual normal of deviation 0.02: on patches of few pixels it leaves the content a tenth
    of the size of the position embedding, and small models then hardly learn.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
