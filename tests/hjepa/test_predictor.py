"""The predictor: a bottleneck that fills the grid from what is visible."""

from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from hjepa.encoder import sincos_positions, take
from hjepa.predictor import Predictor, PredictorConfig

NORM = partial(nn.LayerNorm, eps=1e-6)
VISIBLE = torch.tensor([[0, 3, 5], [2, 7, 8]])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**config: Any) -> Predictor:
    torch.manual_seed(0)
    return Predictor(PredictorConfig(**{"depth": 2, "num_heads": 2, **config}), 16, (3, 3)).eval()


def test_every_patch_of_the_grid_is_predicted_at_the_encoders_width():
    found = small()(normal(2, 3, 16), VISIBLE)
    assert found.shape == (2, 9, 16)
    assert len(found[0].unique(dim=0)) == 9


def test_the_order_of_the_visible_patches_does_not_matter():
    predictor, tokens, order = small(), normal(2, 3, 16), torch.tensor([[2, 0, 1], [1, 2, 0]])
    shuffled = predictor(take(tokens, order), VISIBLE.gather(1, order))
    torch.testing.assert_close(shuffled, predictor(tokens, VISIBLE))


def test_where_the_visible_patches_stand_matters():
    predictor, tokens = small(), normal(2, 3, 16)
    assert not torch.allclose(predictor(tokens, VISIBLE), predictor(tokens, VISIBLE.flip(1)), atol=1e-3)


def test_every_prediction_depends_on_every_visible_token():
    predictor, tokens = small(), normal(2, 3, 16).requires_grad_()
    for patch in range(9):
        (gradient,) = torch.autograd.grad(predictor(tokens, VISIBLE)[:, patch].square().sum(), tokens)
        assert (gradient.norm(dim=-1) > 0).all()


def test_positions_are_its_own_and_fixed():
    predictor = small(embed_dim=12)
    assert torch.equal(predictor.positions_NW, sincos_positions((3, 3), 12))
    assert "positions_NW" not in dict(predictor.named_parameters())
    assert "positions_NW" not in predictor.state_dict()


def test_the_mask_token_learns():
    predictor = small()
    predictor(normal(2, 3, 16), VISIBLE).square().sum().backward()
    assert predictor.mask_token.grad is not None
    assert predictor.mask_token.grad.norm() > 0


@pytest.mark.parametrize(
    ("encoder_dim", "heads", "width"), [(64, 4, 32), (66, 4, 36), (9, 2, 6), (192, 3, 96)]
)
def test_the_width_is_half_the_encoders_rounded_up_to_whole_heads(encoder_dim: int, heads: int, width: int):
    assert PredictorConfig(num_heads=heads).width(encoder_dim) == width
    assert PredictorConfig(num_heads=heads, embed_dim=24).width(encoder_dim) == 24


def test_heads_must_divide_a_width_that_is_given():
    with pytest.raises(ValueError, match="embed_dim 10 is no multiple of num_heads 4"):
        PredictorConfig(embed_dim=10, num_heads=4)


def test_recomputing_activations_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        predictor = small(dropout=0.5).train()
        torch.manual_seed(1)
        predictor.recompute = recompute
        predictor(normal(2, 3, 16), VISIBLE).square().mean().backward()
        gradients.append([p.grad for p in predictor.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


# Further tokens


def further(count: int = 4) -> tuple[Tensor, Tensor]:
    return normal(2, count, 16, seed=5), 3 * normal(2, count, 2, seed=6)


def test_further_tokens_matter_to_every_prediction_and_get_none_of_their_own():
    predictor, tokens = small(), normal(2, 3, 16)
    beside, places = further()
    beside.requires_grad_()
    found = predictor(tokens, VISIBLE, (beside, places))
    assert found.shape == (2, 9, 16)
    for patch in range(9):
        (gradient,) = torch.autograd.grad(found[:, patch].square().sum(), beside, retain_graph=True)
        assert (gradient.norm(dim=-1) > 0).all()


def test_the_order_of_further_tokens_does_not_matter_but_their_places_do():
    predictor, tokens = small(), normal(2, 3, 16)
    beside, places = further()
    found = predictor(tokens, VISIBLE, (beside, places))
    torch.testing.assert_close(predictor(tokens, VISIBLE, (beside.flip(1), places.flip(1))), found)
    assert not torch.allclose(predictor(tokens, VISIBLE, (beside, places.flip(1))), found, atol=1e-3)


def test_without_visible_patches_it_predicts_from_further_tokens_alone():
    predictor = small()
    nothing = (torch.zeros(2, 0, 16), torch.zeros(2, 0, dtype=torch.int64))
    found = predictor(*nothing, further())
    assert found.shape == (2, 9, 16)
    assert len(found[0].unique(dim=0)) == 9


# Against timm


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_with_timms_weights_drops_what_timms_drops(bias: bool):
    torch.manual_seed(3)
    theirs = TimmBlock(16, num_heads=2, mlp_ratio=3.0, qkv_bias=bias, proj_drop=0.4, norm_layer=NORM)
    ours = small(embed_dim=16, mlp_ratio=3.0, qkv_bias=bias, dropout=0.4).blocks[0]
    ours.load_state_dict(theirs.state_dict())
    tokens = normal(4, 9, 16)

    def drawn(block: nn.Module) -> Tensor:
        torch.manual_seed(5)
        return block(tokens)

    training = drawn(ours.train())
    torch.testing.assert_close(training, drawn(theirs.train()))
    evaluated = drawn(ours.eval())
    torch.testing.assert_close(evaluated, drawn(theirs.eval()))
    assert not torch.allclose(training, evaluated, atol=1e-2)
