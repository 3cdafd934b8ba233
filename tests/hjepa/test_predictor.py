"""The predictor: a bottleneck that fills the grid from what is visible."""

from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from hjepa.encoder import sincos_positions, take
from hjepa.predictor import Predictor, PredictorConfig
from tests.hjepa.draws import normal

NORM = partial(nn.LayerNorm, eps=1e-6)
VISIBLE = torch.tensor([[0, 3, 5], [2, 7, 8]])


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


# A pass for each block


def inside(*blocks: list[int]) -> Tensor:
    """Blocks of a 3 x 3 grid, the same for two images (2, M, 9)."""
    found = torch.zeros(2, len(blocks), 9, dtype=torch.bool)
    for m, block in enumerate(blocks):
        found[:, m, block] = True
    return found


def hidden() -> Tensor:
    return torch.ones(2, 9, dtype=torch.bool).scatter(1, VISIBLE, False)


SAME = torch.tensor([[0, 3, 5], [0, 3, 5]])


@pytest.mark.parametrize("recompute", [False, True])
def test_one_block_of_all_that_is_hidden_gives_what_a_single_pass_gives(recompute: bool):
    found = []
    for mode in ("union", "per_block"):
        predictor, tokens = small(mode=mode), normal(2, 3, 16).requires_grad_()
        predictor.recompute = recompute
        predicted = predictor(tokens, VISIBLE, hidden()[:, None])
        predicted.square().mean().backward()
        found.append([predicted, tokens.grad, *(p.grad for p in predictor.parameters())])
    for union, by_block in zip(*found, strict=True):
        torch.testing.assert_close(by_block, union, rtol=1e-4, atol=1e-6)


def test_blocks_that_are_not_told_apart_are_predicted_in_a_single_pass():
    tokens = normal(2, 3, 16)
    assert torch.equal(small(mode="per_block")(tokens, VISIBLE), small()(tokens, VISIBLE))


def test_each_patch_is_predicted_by_a_pass_over_the_context_and_its_own_block():
    predictor, tokens = small(mode="per_block"), normal(2, 3, 16)
    blocks = inside([1, 2], [4, 7, 8], [2, 7])  # 6 is hidden in no block

    def one_pass(places: list[int]) -> Tensor:
        """The tokens of the context and `places`, in this order, before the last projection."""
        order = torch.tensor([0, 3, 5, *places])
        x = torch.cat([predictor.embed(tokens), predictor.mask_token.expand(2, len(places), -1)], dim=1)
        x = x + predictor.positions_NW[order]
        for block in predictor.blocks:
            x = block(x)
        return predictor.project(predictor.norm(x))

    passes = [one_pass(places) for places in ([1, 2], [4, 7, 8], [2, 7], [6])]
    first, second, third, rest = passes
    found = predictor(tokens, SAME, blocks)
    expected = {1: first[:, 3], 4: second[:, 3], 8: second[:, 5], 6: rest[:, 3]}
    expected |= {2: (first[:, 4] + third[:, 3]) / 2, 7: (second[:, 4] + third[:, 4]) / 2}
    context = torch.stack([found[:, :3] for found in passes]).mean(0)
    expected |= {place: context[:, k] for k, place in enumerate((0, 3, 5))}
    torch.testing.assert_close(found, torch.stack([expected[n] for n in range(9)], dim=1))


def test_a_block_is_predicted_the_same_wherever_the_others_are():
    tokens = normal(2, 3, 16)
    here, there = inside([1, 2], [4]), inside([1, 2], [6, 7, 8])
    by_block, union = small(mode="per_block"), small()
    torch.testing.assert_close(
        by_block(tokens, SAME, here)[:, [1, 2]], by_block(tokens, SAME, there)[:, [1, 2]]
    )
    # A single pass sees every hidden place, whatever block it is in.
    assert torch.equal(union(tokens, SAME, here), union(tokens, SAME, there))
    assert not torch.allclose(by_block(tokens, SAME, here), union(tokens, SAME, here), atol=1e-3)


def test_an_image_is_predicted_the_same_whatever_the_blocks_of_the_others():
    predictor, tokens = small(mode="per_block"), normal(2, 3, 16)
    # The first image's second block is empty and its rest is too; the second's sets are larger.
    blocks = torch.stack([inside([1, 2, 4, 6, 7, 8], [])[0], inside([1, 2], [4])[0]])
    together = predictor(tokens, SAME, blocks)
    for image in range(2):
        alone = slice(image, image + 1)
        torch.testing.assert_close(predictor(tokens[alone], SAME[alone], blocks[alone]), together[alone])


# Further tokens


MODES = pytest.mark.parametrize("mode", ["union", "per_block"])
TWO_BLOCKS = inside([1, 2], [4, 7, 8])


def further(count: int = 4) -> tuple[Tensor, Tensor]:
    return normal(2, count, 16, seed=5), 3 * normal(2, count, 2, seed=6)


@MODES
def test_further_tokens_matter_to_every_prediction_and_get_none_of_their_own(mode: str):
    predictor, tokens = small(mode=mode), normal(2, 3, 16)
    beside, places = further()
    beside.requires_grad_()
    found = predictor(tokens, SAME, TWO_BLOCKS, (beside, places))
    assert found.shape == (2, 9, 16)
    for patch in range(9):
        (gradient,) = torch.autograd.grad(found[:, patch].square().sum(), beside, retain_graph=True)
        assert (gradient.norm(dim=-1) > 0).all()


@MODES
def test_the_order_of_further_tokens_does_not_matter_but_their_places_do(mode: str):
    predictor, tokens = small(mode=mode), normal(2, 3, 16)
    beside, places = further()
    found = predictor(tokens, SAME, TWO_BLOCKS, (beside, places))
    turned = predictor(tokens, SAME, TWO_BLOCKS, (beside.flip(1), places.flip(1)))
    torch.testing.assert_close(turned, found)
    moved = predictor(tokens, SAME, TWO_BLOCKS, (beside, places.flip(1)))
    assert not torch.allclose(moved, found, atol=1e-3)


@MODES
def test_a_visible_patch_may_as_well_be_a_further_token_at_its_place(mode: str):
    # But for its own prediction: its place on the grid is then one to predict, alone in a pass.
    predictor, tokens = small(mode=mode), normal(2, 3, 16)
    nothing = (tokens[:, :0], SAME[:, :0], TWO_BLOCKS)
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]).expand(2, 3, 2)
    found = predictor(*nothing, (tokens, places))
    assert found.shape == (2, 9, 16)
    if mode == "per_block":
        expected = predictor(tokens, SAME, TWO_BLOCKS)
        torch.testing.assert_close(found[:, [1, 2, 4, 7, 8]], expected[:, [1, 2, 4, 7, 8]])


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
