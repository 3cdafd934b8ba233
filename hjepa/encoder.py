"""Vision transformer that encodes the visible patches only.

Shape letters: B images, N patches of the grid, K visible patches, D width, E width of a head.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from hjepa.block import Block, BlockSpec, init_weights, run_blocks
from hjepa.schema import NO_EFFECT, Config

EXPLICIT = "vit"


class RopeConfig(Config):
    """Rotary position embedding of the encoder, axial in two dimensions (Su et al. 2021)."""

    use_rope: bool = False
    """Turn queries and keys by position, in place of a learned position embedding."""
    theta: float = Field(default=10000.0, gt=1)
    """Base of the geometric series of wavelengths, in patches."""

    def inert(self) -> dict[str, str]:
        return {} if self.use_rope else {"theta": "model.rope.use_rope is false"}


class EncoderConfig(Config):
    """The vision transformer, by timm's name or by its measures."""

    encoder_type: str = EXPLICIT
    """`vit`, measured by the keys below, or timm's name of a plain vision transformer, such as
    vit_small_patch16_224, whose measures hold; it is built for data.image_size."""
    pretrained: str | None = None
    """File of weights that timm saved of encoder_type's model, safetensors or torch's, to start from; null:
    start from random ones. Not read where a run goes on from a checkpoint."""
    embed_dim: int | None = Field(default=None, ge=8, le=65536)
    """Width of a token; null: the named encoder's, or 64 for `vit`."""
    depth: int | None = Field(default=None, ge=1, le=1024)
    """Number of blocks; null: the named encoder's, or 4 for `vit`."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads, a divisor of the width; null: the named encoder's, or 4 for `vit`."""
    patch_size: int | None = Field(default=None, ge=1)
    """Side of a patch, in pixels; null: the named encoder's, or 2 for `vit`."""
    mlp_ratio: float | None = Field(default=None, gt=0, le=1024)
    """Width of a block's hidden layer over that of a token; null: the named encoder's, or 4 for `vit`."""
    use_layerscale: bool = False
    """Scale what each half of a block adds, feature by feature, by a learned factor (Touvron et al. 2021)."""
    layerscale_init: float = Field(default=1e-5, gt=0)
    """That factor at the start; timm's init_values."""
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)
    """Chance that an image skips a half of the last block in training, linear from 0 at the first block
    (stochastic depth, Huang et al. 2016). The target encoder skips nothing."""
    use_flash_attention: bool = Field(default=True, json_schema_extra=NO_EFFECT)
    """Compute attention, the predictor's too, the fastest way for the device: by a kernel of torch's, in
    bfloat16 on a CPU for up to 1,024 tokens by matrix products; false: by torch's plain kernel, which holds
    every score in memory. The same numbers up to rounding."""
    rope: RopeConfig = RopeConfig()

    def inert(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.use_layerscale:
            found["layerscale_init"] = "model.use_layerscale is false"
        elif self.pretrained is not None:
            found["layerscale_init"] = "model.pretrained gives the factors"
        if self.shape.depth == 1:
            found["drop_path_rate"] = "the encoder has one block, and the first block's chance is 0"
        return found

    @property
    def shape(self) -> "EncoderShape":
        """The measures, with every null resolved."""
        known = timm_shape(self.encoder_type)
        given = {name: getattr(self, name) for name in vars(known)}
        return EncoderShape(**(vars(known) | {k: v for k, v in given.items() if v is not None}))

    @model_validator(mode="after")
    def _measures_fit(self) -> Self:
        shape = self.shape
        if self.pretrained is not None and self.encoder_type == EXPLICIT:
            raise ValueError(
                f"pretrained is {self.pretrained}, but encoder_type is {EXPLICIT}; "
                "name the model of timm's that the weights are of"
            )
        if self.encoder_type != EXPLICIT:
            for name, value in vars(timm_shape(self.encoder_type)).items():
                if getattr(shape, name) != value:
                    raise ValueError(
                        f"{name} is {getattr(shape, name)}, but {self.encoder_type} has {value}; "
                        f"leave it out, or set encoder_type to {EXPLICIT} and give every measure"
                    )
        if shape.embed_dim % shape.num_heads:
            raise ValueError(f"embed_dim {shape.embed_dim} is no multiple of num_heads {shape.num_heads}")
        if int(shape.embed_dim * shape.mlp_ratio) < 1:
            raise ValueError(
                f"mlp_ratio {shape.mlp_ratio:g} of embed_dim {shape.embed_dim} leaves no hidden layer"
            )
        if self.rope.use_rope and (shape.embed_dim // shape.num_heads) % 4:
            raise ValueError(
                f"rope needs a head width that is a multiple of 4; embed_dim {shape.embed_dim} over "
                f"num_heads {shape.num_heads} gives {shape.embed_dim // shape.num_heads}"
            )
        return self


@dataclass(frozen=True)
class EncoderShape:
    """The measures of a vision transformer."""

    embed_dim: int = 64
    depth: int = 4
    num_heads: int = 4
    patch_size: int = 2
    mlp_ratio: float = 4.0


@cache
def timm_shape(name: str) -> EncoderShape:
    """The measures of timm's model `name`. ValueError where it is no plain vision transformer."""
    if name == EXPLICIT:
        return EncoderShape()
    model = _timm_model(name)
    block: Any = model.blocks[0]
    return EncoderShape(
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        patch_size=model.patch_embed.patch_size[0],
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
    )


def _timm_model(name: str) -> Any:
    import timm  # takes seconds, and most small runs name no timm model
    from timm.models.vision_transformer import VisionTransformer

    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models("vit_*"), n=1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"encoder_type {name!r} is neither '{EXPLICIT}' nor a model that timm knows{hint}")
    with torch.device("meta"):
        model = timm.create_model(name)
    if type(model) is not VisionTransformer:
        raise ValueError(f"encoder_type {name!r} is a {type(model).__name__}, not a plain vision transformer")
    if unlike := _unlike_ours(model):
        raise ValueError(
            f"encoder_type {name!r} has {', '.join(unlike)}, which this encoder has not; name a plain vision "
            f"transformer, or set encoder_type to {EXPLICIT} and give the measures"
        )
    return model


def _unlike_ours(model: Any) -> list[str]:
    """What timm's model computes otherwise than `Encoder`, in words.

    Class token, registers, positions and heads are left out: no part of the blocks, they are dropped.
    """
    block, patches, found = model.blocks[0], model.patch_embed, []
    if type(patches).__name__ != "PatchEmbed":
        found.append(f"patches embedded by {type(patches).__name__}")
    elif patches.patch_size[0] != patches.patch_size[1]:
        found.append(f"patches of {patches.patch_size[0]} x {patches.patch_size[1]} pixels")
    if not isinstance(model.norm_pre, nn.Identity):
        found.append("a norm before the first block")
    if other := {type(one).__name__ for one in model.blocks} - {"Block"}:
        return [*found, f"blocks of the kind {', '.join(sorted(other))}"]
    attention, mlp = block.attn, block.mlp
    within = (getattr(part, name, None) for part in (attention, mlp) for name in ("q_norm", "k_norm", "norm"))
    different = {
        f"attention of the kind {type(attention).__name__}": type(attention).__name__ != "Attention",
        f"hidden layers of the kind {type(mlp).__name__}": type(mlp).__name__ != "Mlp",
        f"the activation {type(mlp.act).__name__}": type(mlp.act).__name__ != "GELU",
        f"norms of the kind {type(block.norm1).__name__}": not isinstance(block.norm1, nn.LayerNorm),
        "norms within attention or hidden layers": not all(
            isinstance(norm, nn.Identity | None) for norm in within
        ),
        "attention without bias": getattr(attention, "qkv", None) is not None and attention.qkv.bias is None,
    }
    return found + [words for words, is_so in different.items() if is_so]


class Encoder(nn.Module):
    """ViT without class token. `forward` returns normalised tokens, (B, K, D)."""

    def __init__(self, config: EncoderConfig, image_size: int):
        super().__init__()
        shape = config.shape
        self.patch_size = shape.patch_size
        side = image_size // shape.patch_size
        self.grid = (side, side)
        self.recompute = False
        dim = shape.embed_dim
        self.patch_embed = nn.Linear(3 * shape.patch_size**2, dim)
        init = config.layerscale_init if config.use_layerscale else None
        spec = BlockSpec(dim, shape.num_heads, shape.mlp_ratio, init, flash=config.use_flash_attention)
        rates = torch.linspace(0, config.drop_path_rate, shape.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(replace(spec, drop_path=rate)) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pos_embed: nn.Parameter | None = None
        self.rotary_NF: Tensor | None
        self.rotary_of = (dim // shape.num_heads, config.rope.theta)
        if config.rope.use_rope:
            self.register_buffer("rotary_NF", rotary_table(self.grid, *self.rotary_of), persistent=False)
        else:
            self.rotary_NF = None
            self.pos_embed = nn.Parameter(sincos_positions(self.grid, dim))
        self.apply(init_weights)

    def forward(self, images_BCHW: Tensor, visible_BK: Tensor | None = None) -> Tensor:
        """Tokens of the patches at `visible_BK`, in its order; of all where it is None.

        The images may be of another size than the encoder was built for, a multiple of the patch:
        learned positions are then stretched over their grid, rotary ones count its own patches.
        """
        pos_embed_ND, rotary_NF = self.positions(images_BCHW)
        patches_BNP = patchify(images_BCHW, self.patch_size)
        if visible_BK is not None:
            # Gathered before anything is computed: what is masked costs nothing.
            patches_BNP = take(patches_BNP, visible_BK)
        # What the blocks add to is float32, whatever autocast makes of the products.
        x_BKD = self.patch_embed(patches_BNP).float()
        if pos_embed_ND is not None:
            x_BKD = x_BKD + (pos_embed_ND if visible_BK is None else pos_embed_ND[visible_BK])
        rotary = None
        if rotary_NF is not None:
            rotary = rotary_NF if visible_BK is None else rotary_NF[visible_BK][:, None]
        return self.norm(run_blocks(self.blocks, x_BKD, rotary, self.recompute))

    def positions(self, images_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The learned positions and the rotary table for images of this size; one of them is None."""
        height, width = images_BCHW.shape[-2:]
        grid = (height // self.patch_size, width // self.patch_size)
        if grid == self.grid:
            return self.pos_embed, self.rotary_NF
        if self.pos_embed is not None:
            with torch.autocast(self.pos_embed.device.type, enabled=False):
                return resampling(self.grid, grid, self.pos_embed.device) @ self.pos_embed, None
        return None, rotary_table(grid, *self.rotary_of, device=images_BCHW.device)


def patchify(images_BCHW: Tensor, size: int) -> Tensor:
    """Images cut into patches row by row, (B, N, C * size * size), pixels in the order of a conv."""
    batch, channels, height, width = images_BCHW.shape
    cut = images_BCHW.view(batch, channels, height // size, size, width // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)


def take(x_BND: Tensor, indices_BK: Tensor) -> Tensor:
    """The tokens at each image's own indices, (B, K, D)."""
    return x_BND.gather(1, indices_BK[..., None].expand(-1, -1, x_BND.shape[-1]))


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions (N, D) of a grid's patches."""
    # On the CPU even where a model is only laid out: there this would load the compiler, with Triton.
    sides = [torch.arange(side, dtype=torch.float32, device="cpu") for side in grid]
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return sincos_at(torch.stack([rows.flatten(), columns.flatten()], dim=-1), dim)


def sincos_at(places_N2: Tensor, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions (..., N, D) of places given as row and column, in patches; fractions
    are allowed. Half the features are for the row, half for the column."""
    quarter = -(-dim // 4)
    frequency = 10000.0 ** -(torch.arange(quarter, device=places_N2.device) / quarter)
    angles = [axis[..., None] * frequency for axis in places_N2.unbind(-1)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=-1)[..., :dim]


@cache
def resampling(old: tuple[int, int], new: tuple[int, int], device: torch.device) -> Tensor:
    """Weights (new patches, old patches) that stretch a grid over another: bicubic, antialiased.

    A matrix, for the gradient of torch's own resampling is neither deterministic on CUDA nor there on
    every device.
    """
    each_old_N1HW = torch.eye(old[0] * old[1]).unflatten(1, (1, *old))
    weights_N1HW = F.interpolate(each_old_N1HW, new, mode="bicubic", antialias=True)
    return weights_N1HW.flatten(1).T.contiguous().to(device)


def rotary_table(
    grid: tuple[int, int], head_dim: int, theta: float, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines for `rotate`, (N, 2 * head_dim), from timm."""
    from timm.layers.pos_embed_sincos import build_rotary_pos_embed

    sin_NE, cos_NE = build_rotary_pos_embed(
        list(grid), dim=head_dim, temperature=theta, in_pixels=False, device=device
    )
    return torch.cat([sin_NE, cos_NE], dim=-1)
