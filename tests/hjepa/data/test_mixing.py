"""Mixup and CutMix."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hjepa.data.deit3 import Deit3Config
from hjepa.data.mixing import Mixing

MIXUP = {"cutmix_alpha": 0.0}
CUTMIX = {"mixup_alpha": 0.0}


def mixing(**changed: Any) -> Mixing:
    return Mixing(Deit3Config(**changed))


def flat(count: int, size: int = 16) -> Tensor:
    """Image i has the value i everywhere."""
    return torch.arange(float(count))[:, None, None, None].expand(count, 3, size, size)


@pytest.mark.parametrize("count", [2, 3, 8, 9])
@pytest.mark.parametrize("kind", [MIXUP, CUTMIX, {}])
def test_images_of_a_batch_are_mixed_in_pairs(kind: dict[str, Any], count: int):
    torch.manual_seed(0)
    mix = mixing(**kind)
    output = mix.apply(flat(count), mix.draw(count))
    assert output.shape == (count, 3, 16, 16)
    assert output.dtype == torch.float32
    for i, image in enumerate(output):
        partner = count - 2 if i == count - 1 else i ^ 1
        low, high = min(i, partner), max(i, partner)
        assert image.min() >= low - 1e-6
        assert image.max() <= high + 1e-6


def test_mixup_is_one_weighted_mean_all_over_an_image():
    mix = mixing(**MIXUP)
    rows = mix.draw(64)
    output = mix.apply(flat(64), rows)
    torch.testing.assert_close(output.amin((1, 2, 3)), output.amax((1, 2, 3)))
    weight, partner = rows[:, 0], torch.arange(64) ^ 1
    expected = weight * torch.arange(64.0) + (1 - weight) * partner
    torch.testing.assert_close(output[:, 0, 0, 0], expected)


def test_weights_of_mixup_are_of_its_beta_distribution():
    torch.manual_seed(0)
    weights = mixing(**MIXUP, mixup_alpha=0.8).draw(20000)[:, 0]
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert weights.mean().item() == pytest.approx(0.5, abs=0.01)
    assert weights.var().item() == pytest.approx(1 / (4 * 2.6), rel=0.03)


def test_cutmix_shows_the_neighbour_in_one_box_and_the_image_itself_elsewhere():
    torch.manual_seed(0)
    mix = mixing(**CUTMIX)
    output = mix.apply(flat(64, 32), mix.draw(64))
    others = output[:, 0] != torch.arange(64.0)[:, None, None]
    assert set((output[:, 0] - torch.arange(64.0)[:, None, None]).unique().tolist()) == {-1.0, 0.0, 1.0}
    for other in others:
        rows, columns = other.any(1).nonzero(), other.any(0).nonzero()
        if len(rows):
            assert other[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_a_box_of_cutmix_has_the_area_of_its_beta_distribution_before_it_is_cut():
    torch.manual_seed(0)
    _, left, top, right, bottom = mixing(**CUTMIX, cutmix_alpha=1.0).draw(40000).unbind(1)
    inner = (left > 0) & (top > 0) & (right < 1) & (bottom < 1)
    area = (right - left) * (bottom - top)
    # With side s, uniform in area, the whole box lies inside with probability (1 - s)^2.
    sides = torch.linspace(0, 1, 100001)
    density = 2 * sides * (1 - sides) ** 2
    expected = (sides**2 * density).sum() / density.sum()
    assert area[inner].mean().item() == pytest.approx(expected.item(), rel=0.03)
    assert inner.float().mean().item() == pytest.approx((density.mean()).item(), abs=0.01)


@pytest.mark.parametrize("probability", [0.25, 0.8])
def test_the_share_of_mixed_images_is_the_probability(probability: float):
    torch.manual_seed(0)
    rows = mixing(mixup_cutmix_prob=probability).draw(4000)
    mixed = (rows != torch.tensor([1.0, 0, 0, 0, 0])).any(1)
    assert mixed.float().mean().item() == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize("switch", [0.0, 0.3, 1.0])
def test_the_switch_is_the_share_of_cutmix(switch: float):
    torch.manual_seed(0)
    rows = mixing(mixup_switch_prob=switch).draw(4000)
    assert (rows[:, 0] == 1).float().mean().item() == pytest.approx(switch, abs=0.03)
    assert (rows[:, 3] > 0).float().mean().item() == pytest.approx(switch, abs=0.03)


def test_what_is_not_mixed_stays_to_the_bit():
    mix = mixing(mixup_cutmix_prob=0.5)
    images, rows = torch.randn(64, 3, 8, 8), mix.draw(64)
    still = (rows == torch.tensor([1.0, 0, 0, 0, 0])).all(1)
    assert 10 < still.sum() < 54
    assert torch.equal(mix.apply(images, rows)[still], images[still])


def test_equal_numbers_mix_two_views_alike_at_any_size():
    mix = mixing()
    rows = mix.draw(32)
    large, small = mix.apply(flat(32, 64), rows), mix.apply(flat(32, 8), rows)
    torch.testing.assert_close(large.mean((2, 3)), small.mean((2, 3)), rtol=0, atol=0.25)


def test_pairs_apart_are_mixed_as_in_the_whole_batch():
    mix = mixing()
    images, rows = torch.randn(8, 3, 8, 8), mix.draw(8)
    assert torch.equal(mix.apply(images, rows)[2:6], mix.apply(images[2:6], rows[2:6]))
