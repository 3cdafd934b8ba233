"""Weights of timm's vision transformers, from a local file, for our encoder."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hjepa.encoder import Encoder, EncoderConfig
from hjepa.schema import ConfigError

# Tokens of timm's that stand before the patches; our encoder has none.
_PREFIX = {"cls_token": "class token", "reg_token": "register tokens"}
# Attention in one matrix is ours; some files hold it in three.
_QKV = (("q", "k", "v"), ("q_proj", "k_proj", "v_proj"))
_SHOWN = 8


def load_pretrained(encoder: Encoder, config: EncoderConfig) -> list[str]:
    """Give `encoder` the weights in the file `config.pretrained`; in words, what of them it has no use for.

    The class token, register tokens and the classifier are dropped. Positions are resampled to the
    encoder's grid by timm's function, or dropped where the encoder turns by rotary ones. Raises
    ConfigError where the file cannot be read, or where a tensor is missing, left over or of another
    shape; the encoder is then as it was.
    """
    assert config.pretrained is not None
    path = Path(os.path.expanduser(config.pretrained))
    where = f"model.pretrained: {path}"
    weights, notes = dict(read_weights(path)), []
    prefix = 0
    for name, words in _PREFIX.items():
        if name in weights:
            prefix += weights.pop(name).numel() // encoder.norm.weight.numel()
            notes.append(f"{words} dropped")
    if head := [name for name in weights if name.startswith("head.")]:
        notes.append("classifier dropped")
    for name in head:
        del weights[name]
    if "pos_embed" in weights:
        weights |= _positions(weights.pop("pos_embed"), prefix, encoder, where, notes)
    if "patch_embed.proj.weight" in weights:
        weights["patch_embed.weight"] = weights.pop("patch_embed.proj.weight").flatten(1)
    if "patch_embed.proj.bias" in weights:
        weights["patch_embed.bias"] = weights.pop("patch_embed.proj.bias")
    _join_qkv(weights, encoder)
    _require_fit(weights, encoder, where)
    encoder.load_state_dict(weights)
    return notes


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a safetensors file or in torch's, by name; no code in it is run.

    Raises ConfigError where there is no such file, or something else in it.
    """
    if not path.is_file():
        raise ConfigError(f"model.pretrained: {path}: no such file.")
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on a file of something else
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"model.pretrained: {path}: not readable as {_kind(path)}: {first}") from error
    for wrapper in ("state_dict", "model"):  # as training scripts save them
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(f"model.pretrained: {path}: holds no state dict, that is, tensors by name.")
    return found


def _kind(path: Path) -> str:
    return "safetensors" if path.suffix == ".safetensors" else "a torch file of tensors"


def _positions(
    pos_embed: Tensor, prefix: int, encoder: Encoder, where: str, notes: list[str]
) -> dict[str, Tensor]:
    """The position embedding at the encoder's grid, if it has one."""
    from timm.layers.pos_embed import (
        resample_abs_pos_embed,
    )  # takes seconds to import, and most runs need none

    if encoder.pos_embed is None:
        notes.append("position embedding dropped, as model.rope.use_rope is true")
        return {}
    width = encoder.pos_embed.shape[1]
    if pos_embed.ndim != 3 or pos_embed.shape[::2] != (1, width):
        raise ConfigError(f"{where}: pos_embed is {_shape(pos_embed)}, must be 1 x tokens x {width}.")
    # Some of timm's models give the tokens before the patches no position.
    tokens = pos_embed.shape[1]
    skip = next((skip for skip in (0, prefix) if _is_square(tokens - skip)), None)
    if skip is None:
        raise ConfigError(
            f"{where}: pos_embed has {tokens} tokens, {prefix} of them before the patches; "
            "the rest make no square grid."
        )
    side, grid = math.isqrt(tokens - skip), encoder.grid
    if (side, side) != grid:
        notes.append(f"position embedding resampled from {side} x {side} to {grid[0]} x {grid[1]}")
    resampled = resample_abs_pos_embed(pos_embed[:, skip:], list(grid), [side, side], num_prefix_tokens=0)
    return {"pos_embed": resampled[0]}


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _join_qkv(weights: dict[str, Tensor], encoder: Encoder) -> None:
    for whole in [name for name in encoder.state_dict() if ".attn.qkv." in name]:
        for names in _QKV:
            parts = [whole.replace("qkv", name) for name in names]
            if all(part in weights for part in parts):
                weights[whole] = torch.cat([weights.pop(part) for part in parts])


def _require_fit(weights: Mapping[str, Tensor], encoder: Encoder, where: str) -> None:
    wanted = encoder.state_dict()
    missing = [name for name in wanted if name not in weights]
    left = [name for name in weights if name not in wanted]
    misshapen = [
        f"{name} is {_shape(weights[name])}, must be {_shape(value)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    said = {"missing": missing, "left over": left, "of another shape": misshapen}
    problems = "; ".join(f"{words}: {_few(names)}" for words, names in said.items() if names)
    if not problems:
        return
    hint = ""
    if any(name.endswith(".gamma") for name in left):
        hint = " The file has LayerScale: set model.use_layerscale: true."
    elif any(name.endswith(".gamma") for name in missing):
        hint = " The file has no LayerScale: set model.use_layerscale: false."
    raise ConfigError(f"{where}: does not fit this encoder; {problems}.{hint}")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
