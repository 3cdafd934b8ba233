"""Weights of timm's models in our encoder: timm's numbers, and every misfit named."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from hjepa.cli import main
from hjepa.config import RunConfig
from hjepa.encoder import Encoder, EncoderConfig, RopeConfig
from hjepa.judge import baselines
from hjepa.pretrained import load_pretrained
from hjepa.run import build_run
from hjepa.schema import ConfigError, to_yaml
from hjepa.train import train

Tiny = Callable[..., RunConfig]
Weights = dict[str, Tensor]

# 64 px in patches of 16: a 4 x 4 grid.
NO_CLASS = {"class_token": False, "global_pool": "avg", "fc_norm": False}


def timm_vit(**settings: Any) -> VisionTransformer:
    torch.manual_seed(3)
    model = timm.create_model("test_vit", img_size=64, **settings)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which start at 0 and 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert isinstance(model, VisionTransformer)
    return model.eval()


def written(weights: Any, folder: Path, name: str = "weights.pt") -> Path:
    if name.endswith(".safetensors"):
        save_file(weights, folder / name)
    else:
        torch.save(weights, folder / name)
    return folder / name


def loaded(file: Path, side: int = 64, **config: Any) -> tuple[Encoder, list[str]]:
    given = EncoderConfig(encoder_type="test_vit", pretrained=str(file), **config)
    torch.manual_seed(0)
    encoder = Encoder(given, side).eval()
    return encoder, load_pretrained(encoder, given)


def images(side: int = 64) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


# Timm's numbers


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_tokens_are_timms(tmp_path: Path, name: str, scale: float | None):
    model = timm_vit(**NO_CLASS, init_values=scale)
    encoder, notes = loaded(written(model.state_dict(), tmp_path, name), use_layerscale=scale is not None)
    assert notes == ["classifier dropped"]
    with torch.no_grad():
        expected = model.forward_features(images())
        torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-5)
        all_visible = torch.arange(16).expand(3, 16)
        torch.testing.assert_close(encoder(images(), all_visible), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [32, 48, 96])
def test_at_another_image_size_positions_are_resampled_as_timm_does(tmp_path: Path, side: int):
    model = timm_vit(**NO_CLASS)
    file = written(model.state_dict(), tmp_path)
    encoder, notes = loaded(file, side)
    grid = side // 16
    assert f"position embedding resampled from 4 x 4 to {grid} x {grid}" in notes
    expected = resample_abs_pos_embed(model.pos_embed, [grid, grid], num_prefix_tokens=0)
    assert encoder.pos_embed is not None
    torch.testing.assert_close(encoder.pos_embed[None], expected)
    model.set_input_size(img_size=side)
    with torch.no_grad():
        expected_tokens = model.forward_features(images(side))
        torch.testing.assert_close(encoder(images(side)), expected_tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "prefix", "said"),
    [
        ({}, 1, ["class token dropped"]),
        ({"no_embed_class": True}, 0, ["class token dropped"]),
        ({"reg_tokens": 4}, 5, ["class token dropped", "register tokens dropped"]),
        (
            {"reg_tokens": 4, "no_embed_class": True},
            0,
            ["class token dropped", "register tokens dropped"],
        ),
    ],
    ids=str,
)
def test_what_stands_before_the_patches_is_dropped_with_its_position(
    tmp_path: Path, settings: dict[str, Any], prefix: int, said: list[str]
):
    model = timm_vit(**settings)
    encoder, notes = loaded(written(model.state_dict(), tmp_path))
    assert notes == [*said, "classifier dropped"]
    assert model.pos_embed is not None
    ours, theirs = encoder.state_dict(), model.state_dict()
    assert torch.equal(ours.pop("pos_embed"), model.pos_embed[0, prefix:])
    assert torch.equal(ours.pop("patch_embed.weight"), theirs["patch_embed.proj.weight"].flatten(1))
    assert torch.equal(ours.pop("patch_embed.bias"), theirs["patch_embed.proj.bias"])
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("names", ["q k v", "q_proj k_proj v_proj"])
def test_queries_keys_and_values_apart_are_joined(tmp_path: Path, names: str):
    weights = timm_vit().state_dict()
    apart: Weights = {}
    for name, value in weights.items():
        parts = value.chunk(3) if ".attn.qkv." in name else [value]
        apart |= {
            name.replace("qkv", own): part.clone() for own, part in zip(names.split(), parts, strict=False)
        }
    assert len(apart) == len(weights) + 2 * 2 * 6
    one, two = (loaded(written(found, tmp_path))[0].state_dict() for found in (weights, apart))
    assert all(torch.equal(two[name], value) for name, value in one.items())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_weights_inside_a_training_scripts_file_are_found(tmp_path: Path, wrapper: str):
    weights = timm_vit().state_dict()
    encoder, _ = loaded(written({wrapper: weights, "epoch": 3}, tmp_path))
    assert torch.equal(encoder.norm.weight, weights["norm.weight"])


def test_half_precision_is_read_as_float32(tmp_path: Path):
    weights = {name: value.half() for name, value in timm_vit().state_dict().items()}
    encoder, _ = loaded(written(weights, tmp_path, "weights.safetensors"))
    assert encoder.norm.weight.dtype == torch.float32
    assert torch.equal(encoder.norm.weight, weights["norm.weight"].float())


def test_rotary_positions_take_the_place_of_learned_ones_and_it_is_said(tmp_path: Path):
    encoder, notes = loaded(
        written(timm_vit().state_dict(), tmp_path), rope=RopeConfig(use_rope=True, theta=100.0)
    )
    assert "position embedding dropped, as model.rope.use_rope is true" in notes
    assert encoder.pos_embed is None


# Misfits


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("norm.bias"), "missing: norm.bias."),
        (without("pos_embed"), "missing: pos_embed."),
        (lambda w: w | {"norm_pre.weight": torch.ones(64)}, "left over: norm_pre.weight."),
        (
            lambda w: w | {"norm.bias": torch.ones(3)},
            "of another shape: norm.bias is 3, must be 64.",
        ),
        (
            lambda w: {"x": torch.ones(1)},
            "missing: pos_embed, patch_embed.weight, patch_embed.bias, .* and 69 more; left over: x.",
        ),
        (
            lambda w: w | {"pos_embed": torch.ones(1, 8, 64)},
            "pos_embed has 8 tokens, 1 of them before the patches; the rest make no square grid",
        ),
        (
            lambda w: w | {"pos_embed": torch.ones(1, 17, 3)},
            "pos_embed is 1 x 17 x 3, must be 1 x tokens x 64",
        ),
        (
            lambda w: w | {f"blocks.{i}.ls1.gamma": torch.ones(64) for i in range(6)},
            "left over: blocks.0.ls1.gamma.* has LayerScale: set model.use_layerscale: true",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_taken(
    tmp_path: Path, change: Callable[[Weights], Weights], message: str
):
    file = written(change(timm_vit().state_dict()), tmp_path)
    config = EncoderConfig(encoder_type="test_vit", pretrained=str(file))
    encoder = Encoder(config, 64)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"^model.pretrained: {re.escape(str(file))}: .*{message}"):
        load_pretrained(encoder, config)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_layer_scale_that_the_file_has_not_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"missing: blocks.0.ls1.gamma, .* set model.use_layerscale: false"):
        loaded(written(timm_vit().state_dict(), tmp_path), use_layerscale=True)


def test_a_norm_after_pooling_is_not_taken_for_the_tokens(tmp_path: Path):
    weights = timm_vit(class_token=False, global_pool="avg", fc_norm=True).state_dict()
    with pytest.raises(ConfigError, match=r"missing: norm.weight, norm.bias; left over: fc_norm.weight, fc_"):
        loaded(written(weights, tmp_path))


class Harm:
    """What a pickle could do."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return Path.write_text, (self.file, "harm")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", b"none"),
        ("a.safetensors", b""),
        ("a.pt", b"none"),
        ("a.pt", b""),
        ("a.bin", b"PK\x03\x04 torn"),
        ("a.bin", b"\x80\x02ab"),
    ],
)
def test_a_file_of_something_else_is_a_clear_error(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^model.pretrained: .*{name}: not readable as (safet|a torch f)"):
        loaded(tmp_path / name)


def test_no_code_in_the_file_is_run(tmp_path: Path):
    harm = tmp_path / "harm"
    written({"norm.weight": Harm(harm)}, tmp_path, "a.pt")
    with pytest.raises(ConfigError, match="not readable as a torch file of tensors"):
        loaded(tmp_path / "a.pt")
    assert not harm.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(2)], ids=["list", "numbers", "tensor"])
def test_a_file_without_tensors_by_name_is_refused(tmp_path: Path, content: Any):
    with pytest.raises(ConfigError, match="holds no state dict, that is, tensors by name"):
        loaded(written(content, tmp_path))


def test_weights_of_no_named_model_are_refused():
    with pytest.raises(ValueError, match=r"pretrained is a\.pt, but encoder_type is vit; name the model"):
        EncoderConfig(pretrained="a.pt")


# In a run

NAMED: dict[str, Any] = {
    "model.encoder_type": "test_vit",
    "model.embed_dim": None,
    "model.depth": None,
    "model.num_heads": None,
    "model.patch_size": None,
    "data.image_size": 32,
    "masking.min_keep": 1,
}


def test_a_run_starts_from_them_target_included_and_resumes_without_the_file(tiny: Tiny, tmp_path: Path):
    file = written(timm_vit().state_dict(), tmp_path)
    config = tiny(NAMED | {"model.pretrained": str(file)})
    run = build_run(config)
    assert run.model.target_encoder is not None
    for name, value in run.model.encoder.state_dict().items():
        assert torch.equal(value, run.model.target_encoder.state_dict()[name]), name
    assert torch.equal(run.model.encoder.norm.weight, torch.load(file)["norm.weight"])
    assert run.notes[0] == "class token dropped"
    # What is not pretrained is what the seed gives.
    plain = build_run(tiny(NAMED)).model.predictor.state_dict()
    assert all(torch.equal(v, plain[name]) for name, v in run.model.predictor.state_dict().items())

    found = baselines(config)
    assert found.keys() == {f"{name}/knn_top1" for name in ("raw_pixels", "random_init", "pretrained")}
    assert found["random_init/knn_top1"] == baselines(tiny(NAMED))["random_init/knn_top1"]
    run.save(tmp_path / "start.pt")
    file.unlink()
    (report,) = train(config, resume=tmp_path / "start.pt")
    assert report.epoch == 1
    assert "pretrained/knn_top1" not in baselines(config)
    with pytest.raises(ConfigError, match=r"^model.pretrained: .*weights.pt: no such file"):
        next(train(config))


def test_the_command_says_what_was_dropped(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    file = written(timm_vit().state_dict(), tmp_path)
    (tmp_path / "run.yaml").write_text(to_yaml(tiny(NAMED | {"model.pretrained": str(file)})))
    assert main(["run.yaml"]) == 0
    said = capsys.readouterr().out
    assert f"weights of {file}: class token dropped; classifier dropped; position embedding" in said
    file.unlink()
    assert main(["run.yaml"]) == 2
    assert f"model.pretrained: {file}: no such file." in capsys.readouterr().err
