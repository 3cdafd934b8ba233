"""The model as a whole: its target, its levels, and that nothing in it is dead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hjepa.block import Attention
from hjepa.config import RunConfig
from hjepa.masking import Masks, sample_masks
from hjepa.model import HJEPA
from hjepa.pyramid import pool

Tiny = Callable[..., RunConfig]

FPN = {"model.fpn.use_fpn": True}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rope": {"model.rope.use_rope": True},
    "layer scale": {"model.use_layerscale": True},
    "stochastic depth": {"model.drop_path_rate": 0.5},
    "per block": {"model.predictor.mode": "per_block"},
    "per block, fpn": FPN | {"model.predictor.mode": "per_block"},
    "dropout": {"model.predictor.dropout": 0.2},
    "no bias": {"model.predictor.qkv_bias": False},
    "fpn add": FPN,
    "fpn concat": FPN | {"model.fpn.fusion_method": "concat", "model.fpn.feature_dim": 12},
    "one level": {"model.num_hierarchies": 1, "loss.hierarchy_weights": [1.0]},
    "one level, fpn": FPN | {"model.num_hierarchies": 1, "loss.hierarchy_weights": [1.0]},
    "four levels": {
        "model.num_hierarchies": 4,
        "loss.hierarchy_weights": [1.0, 1.0, 1.0, 1.0],
        "data.image_size": 16,
    },
    "odd grid": FPN
    | {"data.image_size": 10, "model.num_hierarchies": 3, "loss.hierarchy_weights": [1, 1, 1]},
}
every_shape = pytest.mark.parametrize("changed", SHAPES.values(), ids=SHAPES)


def built(config: RunConfig, seed: int = 0) -> HJEPA:
    torch.manual_seed(seed)
    return HJEPA(config.model, config.data.image_size)


def batch(config: RunConfig, model: HJEPA, size: int = 6) -> tuple[Tensor, Masks]:
    generator = torch.Generator().manual_seed(1)
    side = config.data.image_size
    images = torch.randn(size, 3, side, side, generator=generator)
    return images, sample_masks(config.masking, size, model.grid, generator)


def loss(model: HJEPA, images: Tensor, masks: Masks) -> Tensor:
    prediction = model(images, masks)
    pairs = zip(prediction.predicted, prediction.target, strict=True)
    return torch.stack([(found - wanted).square().mean() for found, wanted in pairs]).sum()


def followers(model: HJEPA) -> list[Tensor]:
    assert model.target_encoder is not None
    assert model.target_pyramid is not None
    return [*model.target_encoder.parameters(), *model.target_pyramid.parameters()]


def leaders(model: HJEPA) -> list[Tensor]:
    return [*model.encoder.parameters(), *model.pyramid.parameters()]


# The target


@every_shape
def test_target_equals_context_after_build(tiny: Tiny, changed: dict[str, Any]):
    model = built(tiny(changed))
    for target, context in (
        (model.target_encoder, model.encoder),
        (model.target_pyramid, model.pyramid),
    ):
        assert target.state_dict().keys() == context.state_dict().keys()
        for name, value in target.state_dict().items():
            assert torch.equal(value, context.state_dict()[name])
            assert value.data_ptr() != context.state_dict()[name].data_ptr()


@every_shape
def test_only_what_is_no_target_gets_a_gradient_and_all_of_that_does(tiny: Tiny, changed: dict[str, Any]):
    config = tiny(changed)
    model = built(config)
    loss(model, *batch(config, model)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("target_"):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 0, name


@every_shape
def test_targets_are_normalised_over_features_and_carry_no_gradient(tiny: Tiny, changed: dict[str, Any]):
    config = tiny(changed)
    model = built(config)
    prediction = model(*batch(config, model))
    assert len(prediction.target) == config.model.num_hierarchies
    for target in prediction.target:
        assert not target.requires_grad
        torch.testing.assert_close(target.mean(-1), torch.zeros_like(target[..., 0]), rtol=0, atol=1e-5)
        deviation = target.var(-1, correction=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-2)
    assert not prediction.target_BD.requires_grad


def test_the_target_drops_no_path_in_training(tiny: Tiny):
    config = tiny({"model.drop_path_rate": 0.9})
    model = built(config)
    images, masks = batch(config, model)
    for mode in (True, False, True):
        model.train(mode)
        first, second = model(images, masks), model(images, masks)
        assert torch.equal(first.context_BD, second.context_BD) is not mode
        assert all(map(torch.equal, first.target, second.target))
        assert torch.equal(first.target_BD, second.target_BD)
        assert torch.equal(first.target_BD, model.features(images))


def test_targets_are_normalised_before_they_are_pooled_too(tiny: Tiny):
    config = tiny()
    model = built(config)
    images, masks = batch(config, model)
    with torch.no_grad():
        # The encoder's own norm has weights; at those it starts with its tokens are normal already.
        model.target_encoder.norm.weight.copy_(torch.linspace(0.1, 3, 16))
        tokens = F.layer_norm(model.target_encoder(images), (16,))
        cells = tokens.view(6, 2, 2, 2, 2, 16).mean((2, 4)).view(6, 4, 16)
    fine, coarse = model(images, masks).target
    torch.testing.assert_close(fine, tokens, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(coarse, F.layer_norm(cells, (16,)))


@given(momentum=st.floats(0, 1), updates=st.integers(1, 20))
def test_after_n_updates_the_target_is_where_the_closed_form_says(tiny: Tiny, momentum: float, updates: int):
    model, other = built(tiny(FPN)), built(tiny(FPN), seed=1)
    start = [value.clone() for value in followers(model)]
    model.encoder.load_state_dict(other.encoder.state_dict())
    model.pyramid.load_state_dict(other.pyramid.state_dict())
    for _ in range(updates):
        model.update_target(momentum)
    share = momentum**updates
    for found, first, leader in zip(followers(model), start, leaders(other), strict=True):
        torch.testing.assert_close(found, share * first + (1 - share) * leader, rtol=1e-4, atol=1e-5)


def test_a_momentum_of_one_leaves_the_target_and_of_zero_copies(tiny: Tiny):
    model, other = built(tiny()), built(tiny(), seed=1)
    before = [value.clone() for value in followers(model)]
    model.encoder.load_state_dict(other.encoder.state_dict())
    model.update_target(1.0)
    assert all(map(torch.equal, followers(model), before))
    model.update_target(0.0)
    assert all(map(torch.equal, followers(model), leaders(model)))


# Without a target of its own

ALONE = {"model.use_target_encoder": False, "loss.use_sigreg": True}


@every_shape
def test_without_a_target_encoder_the_loss_trains_the_encoder_on_both_sides(
    tiny: Tiny, changed: dict[str, Any]
):
    config = tiny(changed | ALONE)
    model = built(config)
    assert not [name for name in model.state_dict() if name.startswith("target_")]
    images, masks = batch(config, model)
    prediction = model(images, masks)
    for level, target in enumerate(prediction.target):
        assert target.requires_grad
        by_target = torch.autograd.grad(
            target[..., 0].sum(), list(model.encoder.parameters()), retain_graph=True
        )
        # A bias shared by all positions may cancel in the norms; the weights may not.
        moved = [
            g.norm() > 0 for g, p in zip(by_target, model.encoder.parameters(), strict=True) if p.ndim > 1
        ]
        assert all(moved), level
    assert prediction.target_BD.requires_grad
    with torch.no_grad():
        assert torch.equal(model.eval().features(images), model.encoder(images).mean(1))


def test_without_a_target_encoder_both_sides_are_the_weights_of_now(tiny: Tiny):
    config = tiny(FPN | ALONE)
    model, paired = built(config), built(tiny(FPN))
    images, masks = batch(config, model)
    found, expected = model(images, masks), paired(images, masks)
    assert all(map(torch.equal, found.target, expected.target))
    assert all(map(torch.equal, found.predicted, expected.predicted))
    before = [value.clone() for value in model.state_dict().values()]
    model.update_target(0.5)
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_without_a_target_encoder_the_pyramid_is_trained_by_the_prediction_only(tiny: Tiny):
    config = tiny(FPN | ALONE)
    model = built(config)
    target = torch.cat([level.flatten() for level in model(*batch(config, model)).target])
    weights = list(model.pyramid.parameters())
    assert torch.autograd.grad(target[::3].sum(), weights, allow_unused=True) == (None,) * len(weights)


# Predictions


@every_shape
def test_every_level_predicts_its_grid(tiny: Tiny, changed: dict[str, Any]):
    config = tiny(changed)
    model = built(config)
    images, masks = batch(config, model)
    prediction = model(images, masks)
    side = model.grid[0]
    width = config.model.fpn.feature_dim or 16
    for level, (found, target) in enumerate(zip(prediction.predicted, prediction.target, strict=True)):
        assert found.shape == target.shape == (6, (-(-side // 2**level)) ** 2, width)
    assert prediction.context_BD.shape == prediction.target_BD.shape == (6, 16)


def test_the_plain_kernel_of_attention_is_for_every_block_and_predicts_the_same(tiny: Tiny):
    models = [built(tiny({"model.use_flash_attention": flash})) for flash in (True, False)]
    for model, flash in zip(models, (True, False), strict=True):
        layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
        assert len(layers) == 5  # two in each encoder, one in the predictor
        assert all(layer.flash is flash for layer in layers)
    images, masks = batch(tiny(), models[0])
    found, expected = (model(images, masks) for model in models)
    torch.testing.assert_close(found.predicted, expected.predicted)
    torch.testing.assert_close(found.target, expected.target)


def test_a_second_view_shows_the_same_patches_and_is_learnt_from(tiny: Tiny):
    model = built(tiny())
    images, masks = batch(tiny(), model)
    plain, paired = model(images, masks), model(images, masks, images.flip(-1))
    assert plain.second_BD is None
    assert all(map(torch.equal, paired.predicted, plain.predicted))
    torch.testing.assert_close(paired.second_BD, model.encoder(images.flip(-1), masks.visible_BK).mean(1))
    paired.second_BD.square().sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in model.encoder.blocks.parameters())


def test_a_second_view_for_the_target_is_encoded_whole_and_without_gradient(tiny: Tiny):
    model = built(tiny())
    images, masks = batch(tiny(), model)
    found = model(images, masks, images.flip(-1), second_on_context=False)
    assert not found.second_BD.requires_grad
    assert torch.equal(found.second_BD, model.features(images.flip(-1)))


@every_shape
def test_masked_pixels_change_the_target_but_not_the_prediction(tiny: Tiny, changed: dict[str, Any]):
    config = tiny(changed)
    model = built(config).eval()
    images, masks = batch(config, model)
    hidden_BN = torch.ones(6, model.grid[0] ** 2, dtype=torch.bool).scatter(1, masks.visible_BK, False)
    pixels = hidden_BN.view(6, 1, *model.grid).repeat_interleave(2, 2).repeat_interleave(2, 3)
    before, after = model(images, masks), model(torch.where(pixels, 9.0, images), masks)
    assert torch.equal(after.context_BD, before.context_BD)
    assert all(map(torch.equal, after.predicted, before.predicted))
    assert not any(map(torch.equal, after.target, before.target))


def test_a_position_counts_by_the_share_of_its_patches_to_predict(tiny: Tiny):
    model = built(tiny())
    target_BN = torch.zeros(1, 16, dtype=torch.bool)
    target_BN[0, [0, 1, 4, 5, 10]] = True
    fine, coarse = model.level_weights(Masks(torch.tensor([[2]]), target_BN))
    assert torch.equal(fine, target_BN.float())
    assert coarse.tolist() == [[1.0, 0.0, 0.0, 0.25]]


def test_features_are_the_target_encoders_tokens_averaged(tiny: Tiny):
    model = built(tiny()).eval()
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        model.encoder.patch_embed.weight.zero_()
        torch.testing.assert_close(model.features(images), model.target_encoder(images).mean(1))
    assert not model.features(images).requires_grad


def test_a_grid_of_tokens_is_row_by_row(tiny: Tiny):
    model = built(tiny())
    tokens = torch.arange(16.0).view(1, 16, 1)
    assert torch.equal(model.as_grid(tokens)[0, 0], torch.arange(16.0).view(4, 4))
    assert pool(model.as_grid(tokens), 1)[0, 0, 0, 0] == (0 + 1 + 4 + 5) / 4
