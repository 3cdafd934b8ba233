"""The encoder: visible patches only, rotary positions, and timm's numbers with timm's weights."""

from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed
from timm.layers.pos_embed_sincos import apply_rot_embed_cat, build_rotary_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from hjepa.block import rotate
from hjepa.encoder import (
    Encoder,
    EncoderConfig,
    EncoderShape,
    RopeConfig,
    _unlike_ours,
    patchify,
    resampling,
    rotary_table,
    sincos_at,
    sincos_positions,
    take,
    timm_shape,
)
from tests.hjepa.draws import normal

with_and_without_rope = pytest.mark.parametrize("rope", [False, True])


def small(rope: bool = False, **measures: Any) -> Encoder:
    """16 px in patches of 4: a 4 x 4 grid."""
    torch.manual_seed(0)
    given = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4} | measures
    return Encoder(EncoderConfig(**given, rope=RopeConfig(use_rope=rope, theta=100.0)), 16).eval()


# Images of another size


@pytest.mark.parametrize("new", [(2, 2), (6, 6), (14, 14), (20, 20), (3, 9)])
@pytest.mark.parametrize("old", [(4, 4), (14, 14)])
def test_positions_are_stretched_as_timm_stretches_them(old: tuple[int, int], new: tuple[int, int]):
    learned = normal(old[0] * old[1], 8)
    expected = resample_abs_pos_embed(learned[None], list(new), list(old), num_prefix_tokens=0)[0]
    found = resampling(old, new, learned.device) @ learned
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 12, 32])
def test_images_of_another_size_are_encoded_as_by_an_encoder_built_for_it(size: int):
    encoder, images = small(), normal(3, 3, size, size)
    own = Encoder(EncoderConfig(embed_dim=16, depth=2, num_heads=2, patch_size=4), size).eval()
    side = size // 4
    learned = resample_abs_pos_embed(encoder.pos_embed[None], [side, side], [4, 4], num_prefix_tokens=0)
    own.load_state_dict(encoder.state_dict() | {"pos_embed": learned[0]})
    torch.testing.assert_close(encoder(images), own(images))
    visible = torch.tensor([[0, 3], [1, 2], [3, 1]])
    torch.testing.assert_close(encoder(images, visible), own(images, visible))


def test_rotary_positions_count_the_patches_of_another_size():
    encoder, images = small(rope=True), normal(3, 3, 12, 12)
    rope = RopeConfig(use_rope=True, theta=100)
    config = EncoderConfig(embed_dim=16, depth=2, num_heads=2, patch_size=4, rope=rope)
    own = Encoder(config, 12).eval()
    own.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(images), own(images))
    # By relative place: what the images show is a corner of larger ones, which show nothing else.
    larger = torch.nn.functional.pad(images, (0, 4, 0, 4))
    corner = torch.tensor([0, 1, 2, 4, 5, 6, 8, 9, 10]).expand(3, 9)
    torch.testing.assert_close(encoder(larger, corner), encoder(images))


def test_learned_positions_learn_from_images_of_another_size():
    encoder = small()
    encoder(normal(2, 3, 8, 8)).square().mean().backward()
    assert encoder.pos_embed is not None
    assert encoder.pos_embed.grad is not None
    assert (encoder.pos_embed.grad.norm(dim=1) > 0).all()


def test_sincos_of_a_place_is_that_of_its_patch_and_between_patches_in_between():
    places = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij"), -1)
    assert torch.equal(sincos_at(places.view(15, 2), 16), sincos_positions((3, 5), 16))
    assert torch.equal(sincos_at(places, 10).view(15, 10), sincos_positions((3, 5), 10))
    half = sincos_at(torch.tensor([[0.5, -2.25]]), 8)[0]
    frequency = torch.tensor([1.0, 0.01])
    wanted = [(0.5 * frequency).sin(), (0.5 * frequency).cos()]
    wanted += [(-2.25 * frequency).sin(), (-2.25 * frequency).cos()]
    torch.testing.assert_close(half, torch.cat(wanted))


# What is visible


@with_and_without_rope
def test_gathering_all_patches_equals_encoding_the_whole_image(rope: bool):
    encoder, images = small(rope), normal(3, 3, 16, 16)
    everything = torch.arange(16).expand(3, 16)
    torch.testing.assert_close(encoder(images, everything), encoder(images))


@with_and_without_rope
@given(seed=st.integers(0, 10_000))
def test_tokens_come_in_the_order_of_the_indices(rope: bool, seed: int):
    encoder, images = small(rope), normal(2, 3, 16, 16)
    generator = torch.Generator().manual_seed(seed)
    order_BN = torch.stack([torch.randperm(16, generator=generator) for _ in range(2)])
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(images, order_BN), take(encoder(images), order_BN), rtol=1e-4, atol=1e-5
        )


@with_and_without_rope
def test_masked_pixels_cannot_change_the_context(rope: bool):
    encoder, images = small(rope), normal(2, 3, 16, 16)
    visible_BK = torch.tensor([[0, 3, 5, 6], [1, 2, 10, 15]])
    expected = encoder(images, visible_BK)
    masked_BN = torch.ones(2, 16, dtype=torch.bool).scatter(1, visible_BK, False)
    pixels = masked_BN.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = torch.where(pixels, 1e6 * normal(2, 3, 16, 16, seed=1), images)
    assert torch.equal(encoder(changed, visible_BK), expected)
    assert not torch.equal(encoder(changed), encoder(images))


@with_and_without_rope
def test_position_matters(rope: bool):
    encoder = small(rope)
    images = normal(1, 3, 16, 16)
    moved = images.roll(4, dims=-1)  # one patch to the right: the same patches elsewhere
    left, right = torch.tensor([[0, 5]]), torch.tensor([[1, 2]])
    same_patches = take(patchify(images, 4), left)[:, 0], take(patchify(moved, 4), right)[:, 0]
    torch.testing.assert_close(*same_patches)
    assert not torch.allclose(encoder(images, left)[:, 0], encoder(moved, right)[:, 0], atol=1e-3)


@with_and_without_rope
def test_recomputing_activations_gives_the_same_gradients(rope: bool):
    gradients = []
    for recompute in (False, True):
        encoder = small(rope, drop_path_rate=0.5).train()
        encoder.recompute = recompute
        encoder(normal(2, 3, 16, 16), torch.tensor([[0, 3, 5], [1, 2, 10]])).square().mean().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


# Rotary positions


def test_rotation_agrees_with_timm():
    x_BHNE = normal(2, 3, 12, 8)
    sin, cos = build_rotary_pos_embed([3, 4], dim=8, temperature=100.0, in_pixels=False)
    expected = apply_rot_embed_cat(x_BHNE, torch.cat([sin, cos], dim=-1))
    torch.testing.assert_close(rotate(x_BHNE, rotary_table((3, 4), 8, 100.0)), expected)


def test_rotation_keeps_lengths():
    x_BHNE = normal(2, 3, 12, 8)
    torch.testing.assert_close(
        rotate(x_BHNE, rotary_table((3, 4), 8, 100.0)).norm(dim=-1), x_BHNE.norm(dim=-1)
    )


@given(
    *(st.integers(0, 5) for _ in range(4)),
    st.integers(0, 6),
    st.integers(0, 6),
    st.floats(1.5, 1e5),
    st.integers(0, 99),
)
def test_attention_sees_the_distance_of_two_positions_only(
    row: int, column: int, row2: int, column2: int, down: int, right: int, theta: float, seed: int
):
    table = rotary_table((12, 12), 8, theta).view(12, 12, 16)
    query, key = normal(8, seed=seed), normal(8, seed=seed + 1)

    def score(shift_rows: int, shift_columns: int) -> Tensor:
        turned_query = rotate(query, table[row + shift_rows, column + shift_columns])
        turned_key = rotate(key, table[row2 + shift_rows, column2 + shift_columns])
        return turned_query @ turned_key

    torch.testing.assert_close(score(down, right), score(0, 0), rtol=1e-4, atol=1e-4)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
def test_visible_patches_moved_together_keep_their_tokens(down: int, right: int, seed: int):
    encoder, absolute = small(rope=True), small(rope=False)
    images = normal(2, 3, 16, 16, seed=seed)
    moved = images.roll((4 * down, 4 * right), (-2, -1))
    # Patches of the upper left that stay on the grid wherever they are moved to.
    rows, columns = torch.tensor([[0, 0, 3 - down], [0, 3 - down, 0]]), torch.tensor([[0, 3 - right, 0]] * 2)
    here, there = 4 * rows + columns, 4 * (rows + down) + columns + right
    with torch.no_grad():
        tokens = encoder(images, here)
        torch.testing.assert_close(encoder(moved, there), tokens, rtol=1e-3, atol=1e-4)
        if down or right:
            assert not torch.allclose(absolute(moved, there), absolute(images, here), atol=1e-3)


def test_attention_sees_distance_along_either_axis():
    table = rotary_table((4, 4), 8, 100.0).view(4, 4, 16)
    query = normal(8)
    scores = [query @ rotate(query, table[place]) for place in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({round(score.item(), 4) for score in scores}) == 4


def test_a_head_too_narrow_for_two_axes_is_refused():
    with pytest.raises(ValueError, match="multiple of 4; embed_dim 12 over num_heads 2 gives 6"):
        EncoderConfig(embed_dim=12, num_heads=2, rope=RopeConfig(use_rope=True))


# Fixed positions


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_sine_cosine_positions_are_timms_up_to_the_order_of_features(grid: tuple[int, int]):
    found = sincos_positions(grid, 16)
    expected = build_sincos2d_pos_embed(list(grid), dim=16)
    assert found.shape == (grid[0] * grid[1], 16)

    def in_order(table: Tensor) -> list[tuple[float, ...]]:
        return sorted(tuple(round(v, 4) + 0.0 for v in column) for column in table.T.tolist())

    assert in_order(found) == in_order(expected)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(8, 40))
def test_every_position_differs_at_any_width(height: int, width: int, dim: int):
    found = sincos_positions((height, width), dim)
    assert found.shape == (height * width, dim)
    assert len(found.unique(dim=0)) == height * width


# bfloat16


@with_and_without_rope
@pytest.mark.parametrize("side", [16, 8])
def test_in_bfloat16_what_blocks_add_to_is_float32_at_every_size(rope: bool, side: int):
    config = EncoderConfig(embed_dim=16, depth=2, num_heads=2, rope=RopeConfig(use_rope=rope))
    encoder, seen = Encoder(config, 16), []
    for block in encoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(normal(2, 3, side, side))
        positions, _ = encoder.positions(normal(2, 3, side, side))
    assert seen == [torch.float32, torch.float32]
    exact, _ = encoder.positions(normal(2, 3, side, side))
    assert rope or torch.equal(positions, exact)


# Against timm


def from_timm(model: VisionTransformer, **config: Any) -> Encoder:
    """Our encoder with timm's weights."""
    block: Any = model.blocks[0]
    measures = {"embed_dim": model.embed_dim, "num_heads": block.attn.num_heads, "depth": len(model.blocks)}
    encoder = small(**measures, mlp_ratio=3.0, **config)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(("patch_embed", "head"))}
    weights["patch_embed.weight"] = model.patch_embed.proj.weight.flatten(1)
    weights["patch_embed.bias"] = model.patch_embed.proj.bias
    weights["pos_embed"] = model.pos_embed[0]
    encoder.load_state_dict(weights)
    return encoder


def timm_vit(**settings: Any) -> VisionTransformer:
    torch.manual_seed(3)
    model = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, mlp_ratio=3.0, num_classes=0,
        class_token=False, global_pool="", **settings,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which start at 0 and 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    ("settings", "config"),
    [({}, {}), ({"init_values": 0.3}, {"use_layerscale": True})],
    ids=["plain", "scaled"],
)
def test_with_timms_weights_the_output_is_timms(settings: dict[str, Any], config: dict[str, Any]):
    model, images = timm_vit(**settings), normal(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(from_timm(model, **config)(images), model(images), rtol=1e-4, atol=1e-5)


def test_layer_scale_starts_where_timms_does():
    ours = small(use_layerscale=True, layerscale_init=0.3).blocks.state_dict()
    scales = {name: value for name, value in ours.items() if name.endswith(".gamma")}
    assert list(scales) == [f"{block}.{half}.gamma" for block in (0, 1) for half in ("ls1", "ls2")]
    assert all(torch.equal(value, torch.full((16,), 0.3)) for value in scales.values())


@pytest.mark.parametrize("scaled", [False, True])
def test_paths_are_dropped_as_timm_drops_them(scaled: bool):
    model = timm_vit(drop_path_rate=0.6, init_values=0.3 if scaled else None).train()
    encoder = from_timm(model, drop_path_rate=0.6, use_layerscale=scaled).train()
    images = normal(8, 3, 16, 16)

    def drawn(vit: torch.nn.Module) -> Tensor:
        torch.manual_seed(5)
        with torch.no_grad():
            return vit(images)

    training = drawn(encoder)
    torch.testing.assert_close(training, drawn(model), rtol=1e-4, atol=1e-5)
    evaluated = drawn(encoder.eval())
    torch.testing.assert_close(evaluated, drawn(model.eval()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(training, evaluated, atol=1e-2)


def test_the_rate_of_dropped_paths_rises_linearly_from_zero():
    blocks: Any = small(depth=4, drop_path_rate=0.6).blocks
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_a_timm_name_builds_its_measures():
    shape = EncoderConfig(encoder_type="vit_tiny_patch16_224").shape
    assert shape == EncoderShape(embed_dim=192, depth=12, num_heads=3, patch_size=16, mlp_ratio=4.0)
    encoder = Encoder(EncoderConfig(encoder_type="vit_tiny_patch16_224"), 32)
    assert encoder.grid == (2, 2)
    with torch.device("meta"):
        blocks = timm.create_model("vit_tiny_patch16_224").blocks
    assert {k: v.shape for k, v in encoder.blocks.state_dict().items()} == {
        k: v.shape for k, v in blocks.state_dict().items()
    }


def test_a_name_that_timm_does_not_know_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"'vit_tiny_patch16_244' is neither 'vit' nor .*; nearest: vit_tiny_patch16_224"
    ):
        timm_shape("vit_tiny_patch16_244")


def test_what_is_no_plain_vision_transformer_is_refused():
    with pytest.raises(ValueError, match="'resnet18' is a ResNet, not a plain vision transformer"):
        timm_shape("resnet18")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit_base_patch16_clip_quickgelu_224", "a norm before the first block, the activation QuickGELU"),
        ("vit_tiny_r_s16_p8_224", "patches embedded by HybridEmbed"),
        ("vit_giant_patch14_dinov2", "hidden layers of the kind GluMlp, the activation SiLU"),
        ("vit_small_patch16_18x2_224", "blocks of the kind ParallelThingsBlock"),
        ("vit_dwee_patch16_reg1_gap_256", "attention of the kind DiffAttention"),
        ("beit3_base_patch16_224", "norms within attention or hidden layers"),
        ("vit_medium_patch16_gap_256", "attention without bias"),
        ("test_vit4", "norms of the kind RmsNorm"),
    ],
)
def test_a_vision_transformer_that_computes_otherwise_is_refused_with_what_it_has(name: str, why: str):
    with pytest.raises(ValueError, match=f"'{name}' has {why}, which this encoder has not; name a plain"):
        timm_shape(name)


def test_patches_that_are_not_square_are_named():
    model = VisionTransformer(img_size=16, patch_size=(8, 4), embed_dim=24, depth=1, num_heads=3)
    assert _unlike_ours(model) == ["patches of 8 x 4 pixels"]


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"])
def test_registers_and_heads_of_a_named_encoder_are_left_out(name: str):
    assert timm_shape(name).depth == 12


def test_a_measure_that_contradicts_the_named_encoder_is_refused():
    with pytest.raises(ValueError, match="embed_dim is 128, but vit_tiny_patch16_224 has 192; leave it out"):
        EncoderConfig(encoder_type="vit_tiny_patch16_224", embed_dim=128)
    assert EncoderConfig(encoder_type="vit_tiny_patch16_224", embed_dim=192).shape.embed_dim == 192


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="embed_dim 10 is no multiple of num_heads 4"):
        EncoderConfig(embed_dim=10, num_heads=4)


def test_patches_are_cut_row_by_row():
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    expected = torch.nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
    assert torch.equal(patchify(images, 2), expected)
