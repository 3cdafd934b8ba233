"""Pictures of what a run sees: masks, augmented views, attention.

Shape letters: B images, V views, N patches, H heads, S x S the size that the model sees in pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hjepa.block import Block
from hjepa.masking import sample_masks
from hjepa.run import Run, random_stream, to_device

IMAGES, VIEWS = 8, 6
PICTURES_STREAM = 2**32 - 3  # beyond any epoch's
_LEAST_SIDE = 96
_GAP = 4
_TARGET, _CONTEXT = (220, 60, 50), (60, 170, 90)
_TINT = 0.45


def first_pictures(run: Run) -> dict[str, Image.Image]:
    """What is drawn once, before training: with logging.log_images, augmented views of training images."""
    return {"views": views_sheet(run)} if run.config.logging.log_images else {}


def epoch_pictures(run: Run) -> dict[str, Image.Image]:
    """What is drawn at an evaluation, by name, as the config says; nothing of the run changes."""
    found: dict[str, Image.Image] = {}
    if run.config.logging.log_images:
        found["masks"] = masks_sheet(run)
    if run.config.logging.log_attention:
        found["attention"] = attention_sheet(run)
    return found


def views_sheet(run: Run) -> Image.Image:
    """A row for each of some training images: as stored, then as augmented."""
    split = run.data.train
    stored_BCHW = to_device(run, split, _spread(len(split)))
    with random_stream(run.config.seed, PICTURES_STREAM):
        views = [run.augment(stored_BCHW) for _ in range(VIEWS)]
    shown = [_pixels(run, images) for images in (run.augment.plain(stored_BCHW), *views)]
    return _sheet(torch.stack(shown, dim=1))


def masks_sheet(run: Run) -> Image.Image:
    """Evaluation images as they are, and beneath each its context patches in green and its targets in red.

    Masks are drawn for a whole batch, as in training, others at each epoch.
    """
    plain_BCSS = _evaluation_images(run)
    with random_stream(run.config.seed + run.epoch, PICTURES_STREAM):
        masks = sample_masks(run.config.masking, run.batch, run.model.grid, torch.default_generator)
    count = min(len(plain_BCSS), run.batch)
    target_BN = masks.target_BN[:count]
    context_BN = torch.zeros_like(target_BN).scatter(1, masks.visible_BK[:count], True)
    images_BSSC = _pixels(run, plain_BCSS[:count])
    marked_BSSC = images_BSSC.float()
    for mask_BN, colour in ((context_BN, _CONTEXT), (target_BN, _TARGET)):
        over_BSS1 = _TINT * _as_pixels(run, mask_BN.float())
        marked_BSSC = torch.lerp(marked_BSSC, torch.tensor(colour).float(), over_BSS1)
    return _sheet(torch.stack([images_BSSC, marked_BSSC.round().byte()]))


def attention_sheet(run: Run) -> Image.Image:
    """Evaluation images as they are, and beneath each what attention its patches receive, white the most."""
    plain_BCSS = _evaluation_images(run)
    received_BN = attention_received(run, plain_BCSS).cpu()
    brightness_BSS1 = _as_pixels(run, received_BN / received_BN.amax(dim=1, keepdim=True))
    heat_BSSC = (255 * brightness_BSS1).round().byte().expand(-1, -1, -1, 3)
    return _sheet(torch.stack([_pixels(run, plain_BCSS), heat_BSSC]))


@torch.no_grad()
def attention_received(run: Run, images_BCSS: Tensor) -> Tensor:
    """Attention that each patch receives in the encoder's last block: the mean over heads and over the
    patches that look, (B, N) float32; each image's sum is 1."""
    encoder = run.model.encoder
    last = encoder.blocks[-1]
    assert isinstance(last, Block)
    seen: list[tuple[Tensor, Tensor | None]] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    was_training = encoder.training
    encoder.eval()
    try:
        encoder(images_BCSS)
    finally:
        hook.remove()
        encoder.train(was_training)
    ((x_BND, rotary),) = seen
    weights_BHNN = last.attn.weights(last.norm1(x_BND), rotary)
    return weights_BHNN.float().mean(dim=(1, 2))


def _evaluation_images(run: Run) -> Tensor:
    split = run.data.val
    return run.augment.plain(to_device(run, split, _spread(len(split))))


def _spread(count: int) -> np.ndarray:
    """Positions of the images that are drawn, always the same."""
    return np.unique(np.linspace(0, count - 1, IMAGES).astype(np.int64))


def _pixels(run: Run, images_BCSS: Tensor) -> Tensor:
    """Normalised images as (B, S, S, 3) uint8 on the CPU."""
    shown_BCSS = images_BCSS * run.augment.std_C11 + run.augment.mean_C11
    return (255 * shown_BCSS).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def _as_pixels(run: Run, values_BN: Tensor) -> Tensor:
    """A value per patch as one per pixel, (B, S, S, 1)."""
    grid_B1HW = values_BN.unflatten(1, run.model.grid)[:, None]
    return F.interpolate(grid_B1HW, size=run.config.data.image_size).permute(0, 2, 3, 1)


def _sheet(rows_RBSSC: Tensor) -> Image.Image:
    """Rows of equal images, uint8, side by side with a gap; small ones are enlarged."""
    rows, columns, side = rows_RBSSC.shape[:3]
    factor = -(-_LEAST_SIDE // side)
    step = side * factor + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, rows * step - _GAP), "white")
    for row in range(rows):
        for column in range(columns):
            tile = Image.fromarray(rows_RBSSC[row, column].numpy())
            enlarged = tile.resize((side * factor, side * factor), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (column * step, row * step))
    return sheet
