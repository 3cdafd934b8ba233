"""Pictures show what is there, and drawing them changes nothing of the run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa import RunConfig
from hjepa.masking import sample_masks
from hjepa.pictures import (
    IMAGES,
    PICTURES_STREAM,
    VIEWS,
    attention_received,
    attention_sheet,
    epoch_pictures,
    first_pictures,
    masks_sheet,
    views_sheet,
)
from hjepa.run import Run, build_run, random_stream
from hjepa.step import gradient_norms, train_step
from hjepa.train import train_run

Tiny = Callable[..., RunConfig]

ALL: dict[str, Any] = {f"logging.log_{what}": True for what in ("images", "attention", "gradients")}
STEP = 96 + 4  # a tile and its gap


def tile(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    """A tile at the size that the model sees, (8, 8, 3) int."""
    left, top = column * STEP, row * STEP
    small = sheet.crop((left, top, left + 96, top + 96)).resize((8, 8), Image.Resampling.NEAREST)
    return np.asarray(small).astype(int)


def shown(run: Run, index: int) -> np.ndarray:
    """An evaluation image as stored, 8 x 8 digits being what the model sees."""
    return run.data.val.images(np.array([index]))[0].transpose(1, 2, 0).astype(int)


def test_nothing_is_drawn_unless_asked_for(tiny: Tiny):
    run = build_run(tiny())
    assert first_pictures(run) == epoch_pictures(run) == {}
    run = build_run(tiny(ALL))
    assert [*first_pictures(run), *epoch_pictures(run)] == ["views", "masks", "attention"]


def test_masks_are_marked_patch_by_patch_on_evaluation_images(tiny: Tiny):
    run = build_run(tiny(ALL | {"masking.num_masks": 2}))
    sheet = masks_sheet(run)
    assert sheet.size == (IMAGES * STEP - 4, 2 * STEP - 4)
    with random_stream(run.config.seed, PICTURES_STREAM):
        masks = sample_masks(run.config.masking, run.batch, (4, 4), torch.default_generator)
    for number, index in enumerate(np.linspace(0, len(run.data.val) - 1, IMAGES).astype(int)):
        before, after = tile(sheet, 0, number), tile(sheet, 1, number)
        assert np.array_equal(before, shown(run, index))
        hidden = masks.target_BN[number].view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
        visible = torch.zeros(16, dtype=torch.bool)
        visible[masks.visible_BK[number]] = True
        seen = visible.view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
        neither = ~hidden & ~seen
        assert np.array_equal(after[neither], before[neither])
        np.testing.assert_allclose(
            after[hidden], 0.55 * before[hidden] + 0.45 * np.array([220, 60, 50]), atol=1
        )
        np.testing.assert_allclose(after[seen], 0.55 * before[seen] + 0.45 * np.array([60, 170, 90]), atol=1)


def test_views_stand_beside_the_training_image_that_they_are_of(tiny: Tiny):
    sheet = views_sheet(build_run(tiny(ALL | {"data.augmentation.horizontal_flip": True})))
    assert sheet.size == ((VIEWS + 1) * STEP - 4, IMAGES * STEP - 4)
    still = views_sheet(build_run(tiny(ALL | {"data.augmentation.random_crop": False})))
    for row in range(IMAGES):
        assert np.array_equal(tile(still, row, 0), tile(still, row, VIEWS))
    assert any(not np.array_equal(tile(sheet, 0, 0), tile(sheet, 0, view)) for view in range(1, VIEWS + 1))


@pytest.mark.parametrize("rope", [False, True])
def test_attention_is_what_the_kernel_of_the_last_block_weighs_by(tiny: Tiny, rope: bool):
    run = build_run(tiny({"model.rope.use_rope": rope, "model.drop_path_rate": 0.5}))
    images = run.augment.plain(torch.from_numpy(run.data.val.images(np.arange(5))))
    received = attention_received(run, images)
    assert received.shape == (5, 16)
    torch.testing.assert_close(received.sum(1), torch.ones(5))
    assert run.model.encoder.training
    # The kernel weighs values by what each patch looks at: ones at one patch show what it is given.
    encoder = run.model.encoder.eval()
    inputs: list[Any] = []
    encoder.blocks[-1].register_forward_pre_hook(lambda _, given: inputs.append(given))
    encoder(images)
    x, rotary, *_ = inputs[0]
    attention = encoder.blocks[-1].attn
    query, key, _ = attention._heads(encoder.blocks[-1].norm1(x), rotary)
    for patch in (0, 7):
        ones = torch.zeros(5, 2, 16, 8)
        ones[:, :, patch] = 1
        given = torch.nn.functional.scaled_dot_product_attention(query, key, ones)[..., 0]
        torch.testing.assert_close(given.mean((1, 2)), received[:, patch])


def test_the_patch_that_receives_most_attention_is_white(tiny: Tiny):
    run = build_run(tiny(ALL))
    sheet = attention_sheet(run)
    images = run.augment.plain(torch.from_numpy(run.data.val.images(np.array([0]))))
    patch = int(attention_received(run, images).argmax())
    row, column = 2 * (patch // 4), 2 * (patch % 4)
    assert (tile(sheet, 1, 0)[row : row + 2, column : column + 2] == 255).all()
    assert np.array_equal(tile(sheet, 0, 0), shown(run, 0))


def test_a_large_image_is_not_enlarged_and_few_images_are_all_drawn(tiny: Tiny):
    run = build_run(tiny(ALL | {"data.image_size": 100, "model.patch_size": 20, "data.batch_size": 3}))
    assert masks_sheet(run).size == (3 * 104 - 4, 2 * 104 - 4)


def test_drawing_and_gradients_change_not_a_bit_of_the_run(tiny: Tiny):
    random = {"model.drop_path_rate": 0.3, "training.epochs": 2, "data.augmentation.color_jitter": 0.2}
    plain, drawn = build_run(tiny(random)), build_run(tiny(random | ALL))
    first_pictures(drawn)
    for expected, report in zip(train_run(plain), train_run(drawn), strict=True):
        epoch_pictures(drawn)
        kept = {name: value for name, value in expected.metrics.items() if not name.startswith("time/")}
        assert kept.items() <= report.metrics.items()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, drawn.model.state_dict()[name]), name


# Gradients


def test_every_part_has_the_norm_of_its_gradient_and_together_they_are_the_whole(tiny: Tiny):
    config = tiny(ALL | {"model.fpn.use_fpn": True, "training.clip_grad": 1e-3})
    terms = train_step(build_run(config), np.arange(239))
    parts = {name.removeprefix("gradients/"): value for name, value in terms.items() if "gradients/" in name}
    assert set(parts) == {
        *(f"encoder.{part}" for part in ("pos_embed", "patch_embed", "blocks.0", "blocks.1", "norm")),
        "predictor",
        "pyramid",
        "heads",
    }
    whole = torch.stack(list(parts.values())).square().sum().sqrt()
    torch.testing.assert_close(whole, terms["train/grad_norm"])  # before clipping, both


def test_the_norm_of_a_part_is_that_of_all_its_parameters(tiny: Tiny):
    model = build_run(tiny()).model
    for parameter in model.predictor.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    count = sum(parameter.numel() for parameter in model.predictor.parameters())
    (norm,) = gradient_norms(model).values()
    assert norm.item() == pytest.approx(2 * count**0.5)
