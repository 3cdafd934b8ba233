"""Hierarchy levels, and the feature pyramid against torchvision's."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import FeaturePyramidNetwork

from hjepa.pyramid import FpnConfig, Pyramid, grid_sides, pool
from tests.hjepa.draws import normal

every_fusion = pytest.mark.parametrize("fusion", ["add", "concat"])


def fpn(fusion: Any, levels: int, dim: int = 8, feature_dim: int | None = None) -> Pyramid:
    torch.manual_seed(0)
    return Pyramid(FpnConfig(use_fpn=True, fusion_method=fusion, feature_dim=feature_dim), levels, dim)


@every_fusion
@given(
    levels=st.integers(1, 4),
    height=st.integers(8, 17),
    width=st.integers(8, 17),
    feature_dim=st.sampled_from([None, 1, 5, 12]),
)
def test_levels_halve_the_grid_and_share_one_width(
    fusion: str, levels: int, height: int, width: int, feature_dim: int | None
):
    grids = fpn(fusion, levels, 8, feature_dim)(normal(2, 8, height, width))
    expected = zip(grid_sides(height, levels), grid_sides(width, levels), strict=True)
    assert [grid.shape for grid in grids] == [(2, feature_dim or 8, h, w) for h, w in expected]


@every_fusion
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [8, 11])
def test_a_constant_grid_stays_constant(fusion: str, levels: int, side: int):
    constant = normal(2, 8, 1, 1).expand(2, 8, side, side)
    for grid in fpn(fusion, levels)(constant):
        torch.testing.assert_close(grid, grid[:, :, :1, :1].expand_as(grid))
    for level in range(levels):
        torch.testing.assert_close(pool(constant, level)[..., 0, 0], constant[..., 0, 0])


@pytest.mark.parametrize(("side", "levels"), [(8, 3), (7, 3), (9, 4), (5, 1)])
def test_adding_is_torchvisions_feature_pyramid(side: int, levels: int):
    ours, grid = fpn("add", levels, 8, 6), normal(2, 8, side, side)
    reference = FeaturePyramidNetwork([8] * levels, 6)
    reference.inner_blocks, reference.layer_blocks = ours.lateral, ours.smooth
    pooled = OrderedDict((str(level), pool(grid, level)) for level in range(levels))
    for found, expected in zip(ours(grid), reference(pooled).values(), strict=True):
        torch.testing.assert_close(found, expected)


def test_concatenation_with_the_weights_of_a_sum_is_a_sum():
    adding, joining = fpn("add", 3), fpn("concat", 3)
    joining.load_state_dict(adding.state_dict(), strict=False)
    for fuse in joining.fuse:
        fuse.weight.data = torch.cat([torch.eye(8), torch.eye(8)], dim=1)[..., None, None]
        fuse.bias.data.zero_()
    for found, expected in zip(joining(normal(2, 8, 8, 8)), adding(normal(2, 8, 8, 8)), strict=True):
        torch.testing.assert_close(found, expected)


@every_fusion
def test_coarse_levels_reach_the_finest(fusion: str):
    pyramid, grid = fpn(fusion, 3), normal(1, 8, 8, 8)
    finest = pyramid(grid)[0]
    grid[..., 7, 7] += 100  # out of reach of the 3x3 at (4, 4), inside the coarsest cell around it
    assert not torch.allclose(pyramid(grid)[0][..., 4, 4], finest[..., 4, 4], atol=1e-3)
    assert torch.equal(pyramid(grid)[0][..., 0, 0], finest[..., 0, 0])


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_without_fpn_level_l_is_the_mean_of_cells_of_2_to_the_l(levels: int):
    grid = normal(2, 8, 16, 8)
    pyramid = Pyramid(FpnConfig(), levels, 8)
    assert not list(pyramid.parameters())
    for level, found in enumerate(pyramid(grid)):
        size = 2**level
        cells = grid.view(2, 8, 16 // size, size, 8 // size, size)
        torch.testing.assert_close(found, cells.mean((3, 5)))


def test_cells_on_the_far_edges_of_an_odd_grid_average_what_is_there():
    grid = normal(1, 1, 5, 3)
    found = pool(grid, 1)
    assert found.shape == (1, 1, 3, 2)
    torch.testing.assert_close(found[0, 0, 2, 1], grid[0, 0, 4, 2])
    torch.testing.assert_close(found[0, 0, 0, 1], grid[0, 0, :2, 2].mean())


@every_fusion
def test_every_parameter_learns(fusion: str):
    pyramid = fpn(fusion, 3)
    torch.stack([grid.square().sum() for grid in pyramid(normal(2, 8, 8, 8))]).sum().backward()
    for name, parameter in pyramid.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 0, name
