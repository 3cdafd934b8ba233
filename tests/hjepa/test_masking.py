"""Multi-block masks: measured coverage, and what holds on every grid."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa.masking import MaskingConfig, Masks, sample_blocks, sample_masks

GRID = (14, 14)


def masks(config: MaskingConfig, batch: int, grid: tuple[int, int] = GRID, seed: int = 0) -> Masks:
    return sample_masks(config, batch, grid, torch.Generator().manual_seed(seed))


# Coverage at the paper's settings


def test_one_target_block_covers_what_the_paper_settings_give():
    blocks = sample_blocks((20_000, 1), (0.15, 0.2), (0.75, 1.5), GRID, torch.Generator().manual_seed(0))
    assert blocks.float().mean().item() == pytest.approx(0.170, abs=0.004)


@pytest.mark.parametrize(("reference_offsets", "share"), [(True, 0.448), (False, 0.477)])
def test_four_target_blocks_cover_what_the_paper_settings_give(reference_offsets: bool, share: float):
    found = masks(MaskingConfig(reference_offsets=reference_offsets), 20_000).target_BN.float().mean()
    assert found.item() == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("reference_offsets", [True, False])
def test_only_reference_offsets_spare_the_last_row_and_column(reference_offsets: bool):
    found = masks(MaskingConfig(reference_offsets=reference_offsets), 500)
    visible = torch.zeros(500, 14 * 14, dtype=torch.bool).scatter(1, found.visible_BK, True)
    for share in (visible, found.target_BN):
        grid = share.view(500, 14, 14)
        assert grid[:, -1].any().item() is not reference_offsets
        assert grid[:, :, -1].any().item() is not reference_offsets
        assert grid[:, 0].any()
        assert grid[:, :, 0].any()


def test_blocks_are_rectangles_of_the_area_and_ratio_asked_for():
    blocks = sample_blocks((300, 1), (0.15, 0.2), (0.75, 1.5), GRID, torch.Generator().manual_seed(0))[:, 0]
    heights, widths = blocks.any(2).sum(1), blocks.any(1).sum(1)
    assert torch.equal(blocks.sum((1, 2)), heights * widths)
    # A side is rounded to whole patches.
    area = 14 * 14
    assert (heights >= (0.15 * area * 0.75) ** 0.5 - 1).all()
    assert (heights <= (0.20 * area * 1.50) ** 0.5 + 1).all()
    assert (heights > widths).any()
    assert (heights < widths).any()


# What holds always


@st.composite
def legal(draw: Any) -> tuple[MaskingConfig, tuple[int, int], int, int]:
    grid = draw(st.tuples(st.integers(2, 16), st.integers(2, 16)))
    share = st.floats(1e-3, 1)

    def ordered(of: st.SearchStrategy[float]) -> tuple[float, float]:
        low, high = sorted(draw(st.tuples(of, of)))
        return low, high

    config = MaskingConfig(
        num_masks=draw(st.integers(1, 16)),
        mask_scale=ordered(share),
        aspect_ratio=ordered(st.floats(1e-4, 1e4)),
        num_context_masks=draw(st.integers(1, 16)),
        context_scale=ordered(share),
        min_keep=draw(st.integers(1, grid[0] * grid[1] - 1)),
        reference_offsets=draw(st.booleans()),
    )
    if draw(st.booleans()):
        config = config.model_copy(
            update={"max_keep": draw(st.integers(config.min_keep, 2 * grid[0] * grid[1]))}
        )
    return config, grid, draw(st.integers(1, 5)), draw(st.integers(0, 2**31))


@settings(max_examples=300)
@given(legal())
def test_on_every_grid_some_patches_are_visible_others_targets_and_none_both(case: Any):
    config, grid, batch, seed = case
    tokens = grid[0] * grid[1]
    found = masks(config, batch, grid, seed)
    keep = found.visible_BK.shape[1]
    assert found.visible_BK.shape == (batch, keep)
    assert found.target_BN.shape == (batch, tokens)
    assert config.min_keep <= keep <= min(tokens - 1, config.max_keep or tokens)
    assert (found.visible_BK.diff(dim=1) > 0).all()
    assert found.visible_BK.min() >= 0
    assert found.visible_BK.max() < tokens
    assert not found.target_BN.gather(1, found.visible_BK).any()
    assert found.target_BN.any(1).all()
    assert found.blocks_BMN is not None
    assert found.blocks_BMN.shape == (batch, config.num_masks, tokens)
    assert torch.equal(found.blocks_BMN.any(1), found.target_BN)


def test_no_more_patches_stay_visible_than_are_allowed_and_what_is_given_up_is_no_target():
    free, few = (masks(MaskingConfig(max_keep=most), 64) for most in (None, 20))
    assert free.visible_BK.shape[1] > 20 == few.visible_BK.shape[1]
    assert torch.equal(few.target_BN, free.target_BN)
    kept = few.visible_BK[:, :, None] == free.visible_BK[:, None]
    assert kept.any(2).all()
    assert len(kept.any(1).unique(dim=0)) == 64  # random ones, image by image


def test_more_to_keep_at_the_least_than_at_the_most_is_refused():
    with pytest.raises(ValueError, match="max_keep 3 is less than min_keep 4"):
        MaskingConfig(max_keep=3)


@pytest.mark.parametrize("grid", [(2, 2), (2, 4), (3, 3), (4, 4)])
@pytest.mark.parametrize("reference_offsets", [True, False])
def test_tiny_grids_get_masks_at_the_paper_settings(grid: tuple[int, int], reference_offsets: bool):
    config = MaskingConfig(min_keep=1, reference_offsets=reference_offsets)
    found = masks(config, 200, grid)
    assert found.target_BN.any(1).all()
    assert not found.target_BN.gather(1, found.visible_BK).any()


def test_one_seed_gives_the_same_masks_and_another_others():
    first, again, other = (masks(MaskingConfig(), 16, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.visible_BK, again.visible_BK)
    assert torch.equal(first.target_BN, again.target_BN)
    assert not torch.equal(first.target_BN, other.target_BN)


def test_the_images_of_a_batch_have_masks_of_their_own():
    assert len(masks(MaskingConfig(), 64).target_BN.unique(dim=0)) == 64


class Counter(TorchDispatchMode):
    """Counts the operations that torch runs."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_batch_of_thousands_takes_as_many_operations_as_one_of_two():
    counts = []
    for batch in (2, 4096):
        with Counter() as counter:
            found = masks(MaskingConfig(), batch)
        counts.append(counter.count)
        assert len(found.visible_BK) == batch
        assert found.target_BN.shape == (batch, 14 * 14)
    assert counts[0] == counts[1] > 0


def test_chunks_are_the_same_masks_cut_along_the_batch():
    whole = masks(MaskingConfig(), 10)
    parts = whole.chunks([4, 6])
    assert [len(part.target_BN) for part in parts] == [4, 6]
    assert torch.equal(torch.cat([part.visible_BK for part in parts]), whole.visible_BK)
    assert torch.equal(torch.cat([part.target_BN for part in parts]), whole.target_BN)
    assert whole.blocks_BMN is not None
    assert torch.equal(torch.cat([part.blocks_BMN for part in parts]), whole.blocks_BMN)
    untold = Masks(whole.visible_BK, whole.target_BN).chunks([4, 6])
    assert [part.blocks_BMN for part in untold] == [None, None]


@pytest.mark.parametrize("key", ["mask_scale", "context_scale", "aspect_ratio"])
@pytest.mark.parametrize("value", [(0.0, 0.5), (0.6, 0.5), (-1.0, 0.5)])
def test_a_range_that_is_none_is_refused(key: str, value: tuple[float, float]):
    with pytest.raises(ValueError, match=f"{key} is .*; must be 0 < low <= high"):
        MaskingConfig.model_validate({key: value})


def test_a_block_cannot_be_larger_than_the_grid():
    with pytest.raises(ValueError, match=r"mask_scale is \[0.5, 1.5\]; must be 0 < low <= high <= 1"):
        MaskingConfig(mask_scale=(0.5, 1.5))
