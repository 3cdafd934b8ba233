"""RandAugment, operation by operation against torchvision's, and its choice of them."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import RandAugment as Reference
from torchvision.transforms.autoaugment import _apply_op as reference_op

from hjepa.data.randaugment import BINS, RandAugment

# Ours to torchvision's.
NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "saturation": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


def images(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 210, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def drawn(*rows: tuple[str, int]) -> Tensor:
    return torch.tensor([[float(RandAugment.OPERATIONS.index(name)), float(sign)] for name, sign in rows])


def test_the_operations_are_torchvisions():
    space = Reference()._augmentation_space(BINS, (224, 224))
    assert list(NAMES) == list(RandAugment.OPERATIONS)
    assert sorted(NAMES.values()) == sorted(space)


@pytest.mark.parametrize("size", [9, 24])
@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_agrees_with_torchvision(name: str, magnitude: int, size: int):
    stored = images(2, size)
    magnitudes, signed = Reference()._augmentation_space(BINS, (size, size))[NAMES[name]]
    amount = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    # On floats its colours are not rounded; what is defined on 8 bits it takes only as such.
    whole = name in ("posterize", "solarize", "equalize")
    given = stored if whole else stored.float() / 255
    expected = torch.stack(
        [
            reference_op(image, NAMES[name], sign * amount, InterpolationMode.BILINEAR, None)
            for image, sign in zip(given, (1, -1 if signed else 1), strict=True)
        ]
    )
    expected = expected.float() / (255 if whole else 1)
    found = RandAugment(1, magnitude).apply(stored.float() / 255, drawn((name, 1), (name, -1)))
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-4)


def test_each_image_has_operations_of_its_own():
    rows = RandAugment(2, 9).draw(500)
    assert rows.shape == (500, 4)
    assert len(rows.unique(dim=0)) > 300


def test_operations_and_signs_are_equally_likely():
    torch.manual_seed(0)
    operations, signs = RandAugment(2, 9).draw(7000).chunk(2, dim=1)
    shares = operations.long().flatten().bincount(minlength=14) / operations.numel()
    torch.testing.assert_close(shares, torch.full((14,), 1 / 14), rtol=0, atol=0.01)
    assert signs.mean().abs() < 0.03
    assert set(signs.unique().tolist()) == {-1.0, 1.0}


def test_operations_follow_one_another():
    first, second = drawn(("solarize", 1)), drawn(("rotate", -1))
    both = torch.cat([first[:, :1], second[:, :1], first[:, 1:], second[:, 1:]], dim=1)
    start = images(1, 16).float() / 255
    once = RandAugment(1, 20)
    expected = once.apply(once.apply(start, first), second)
    torch.testing.assert_close(RandAugment(2, 20).apply(start, both), expected)
