"""The predictor: a bottleneck that fills the grid from what is visible."""

import pytest
import torch
from torch import Tensor

from hjepa.encoder import sincos_positions, take
from hjepa.predictor import Predictor, PredictorConfig

VISIBLE = torch.tensor([[0, 3, 5], [2, 7, 8]])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**config: int) -> Predictor:
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
        predictor = small()
        predictor.recompute = recompute
        predictor(normal(2, 3, 16), VISIBLE).square().mean().backward()
        gradients.append([p.grad for p in predictor.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)
