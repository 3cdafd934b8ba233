"""What every augmentation promises, whichever it is, and what each draws."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from hjepa.data import Augmentation, AugmentationConfig
from hjepa.data.changes import RandomErasing
from hjepa.data.deit3 import Deit3Config
from hjepa.schema import inert_reason

STILL: dict[str, Any] = {"random_crop": False}


def deit3(**changed: Any) -> dict[str, Any]:
    return {"strategy": "deit3", "deit3": Deit3Config(**{"three_augment": False} | changed)}


class Case(NamedTuple):
    always: dict[str, Any]
    half: dict[str, Any] | None  # None where there is no probability
    never: dict[str, Any]
    grey_stays_grey: bool = True


CASES = {
    "gray": Case({"random_gray_scale": 1.0}, {"random_gray_scale": 0.5}, {"random_gray_scale": 0.0}),
    "blur": Case({"gaussian_blur": 1.0}, {"gaussian_blur": 0.5}, {"gaussian_blur": 0.0}),
    "solarization": Case({"solarization": 1.0}, {"solarization": 0.5}, {"solarization": 0.0}),
    "jitter": Case({"color_jitter": 0.4}, None, {"color_jitter": 0.0}),
    "3-augment": Case(deit3(three_augment=True), None, deit3()),
    "randaugment": Case(deit3(auto_augment=True, rand_aug_num_ops=6), None, deit3()),
    "erasing": Case(
        deit3(random_erasing_prob=1.0), deit3(random_erasing_prob=0.5), deit3(random_erasing_prob=0.0)
    ),
}
EVERYTHING = {"horizontal_flip": True, "color_jitter": 0.4, "random_gray_scale": 0.3} | {
    "gaussian_blur": 0.5,
    "solarization": 0.3,
    **deit3(three_augment=True, random_erasing_prob=0.5),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
with_probability = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.half], ids=[name for name in CASES if CASES[name].half]
)


def build(changed: dict[str, Any], size: int = 16) -> Augmentation:
    """Without normalisation, so that values in [0, 1] come out."""
    return Augmentation(AugmentationConfig(**{**STILL, **changed}), size, mean=[0.0] * 3, std=[1.0] * 3)


def random_images(count: int, height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def changed_share(augment: Augmentation, images: Tensor) -> float:
    torch.manual_seed(0)
    return (augment(images) != augment.plain(images)).flatten(1).any(1).float().mean().item()


@each
@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 8), (9, 33, 17), (33, 20, 33), (13, 13, 32)])
def test_images_of_any_size_come_out_whole(case: Case, height: int, width: int, size: int):
    output = build(case.always, size)(random_images(12, height, width))
    assert output.shape == (12, 3, size, size)
    assert output.dtype == torch.float32
    assert output.isfinite().all()
    assert output.min() >= -1e-6
    assert output.max() <= 1 + 1e-6


@each
def test_off_it_neither_changes_nor_draws_anything(case: Case):
    augment, images = build(case.never), random_images(8)
    state = torch.get_rng_state()
    output = augment(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(output, augment.plain(images).expand_as(output))


@each
def test_on_it_changes_images(case: Case):
    # A weak blur, the identity of RandAugment or a box of black pixels may leave one as it is.
    assert changed_share(build(case.always), random_images(500)) > 0.9


@with_probability
def test_the_share_of_changed_images_is_the_probability(case: Case):
    assert case.half is not None
    always = changed_share(build(case.always), random_images(2000))
    share = changed_share(build(case.half), random_images(2000))
    assert share == pytest.approx(always / 2, abs=4 * (0.25 / 2000) ** 0.5)


@each
def test_equal_seeds_give_equal_images_and_others_do_not(case: Case):
    augment, images = build(case.always), random_images(8)
    torch.manual_seed(1)
    first = augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images), first)
    if case is not CASES["gray"] and case is not CASES["solarization"]:
        assert not torch.equal(augment(images), first)


@each
def test_randomness_is_torchs_alone(case: Case):
    augment, images = build(case.half or case.always), random_images(32)
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(0)
        np.random.seed(seed)
        outputs.append(augment(images))
    assert torch.equal(*outputs)


@each
def test_an_image_does_not_depend_on_the_others(case: Case):
    augment, images = build(case.half or case.always), random_images(16)
    drawn = augment.draw(16)
    together = augment.apply_drawn(images, drawn)
    for i in range(0, 16, 5):
        alone = augment.apply_drawn(images[i : i + 1], drawn.take(lambda rows, i=i: rows[i : i + 1]))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-5)


@each
def test_images_of_a_batch_are_changed_each_in_its_own_way(case: Case):
    torch.manual_seed(0)
    output = build(case.half or case.always)(random_images(1).expand(24, -1, -1, -1))
    assert len(output.flatten(1).unique(dim=0)) >= 2


@each
def test_grey_images_stay_grey(case: Case):
    images = random_images(64, channels=1).expand(-1, 3, -1, -1)
    output = build(case.always)(images)
    torch.testing.assert_close(output, output[:, :1].expand_as(output), rtol=0, atol=1e-5)


def test_slices_of_a_batch_are_what_they_are_within_it():
    augment, images = build(EVERYTHING | {"random_crop": True}), random_images(12)
    drawn = augment.draw(12)
    whole = augment.apply_drawn(images, drawn)
    halves = [
        augment.apply_drawn(images[part], drawn.take(lambda rows, part=part: rows[part]))
        for part in (slice(0, 6), slice(6, 12))
    ]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=0, atol=1e-5)


def test_drawing_and_applying_is_what_a_call_does():
    augment, images = build(EVERYTHING | {"random_crop": True}), random_images(12)
    torch.manual_seed(0)
    expected = augment(images)
    torch.manual_seed(0)
    assert torch.equal(augment.apply_drawn(images, augment.draw(12)), expected)


def test_boxes_may_be_given():
    augment, images = build({"random_crop": True, "gaussian_blur": 1.0}), random_images(4)
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]]).expand(4, 4)
    torch.manual_seed(0)
    output = augment.view(images, box)
    torch.manual_seed(0)
    inner = build({"gaussian_blur": 1.0})(images[:, :, 4:12, 4:12])
    torch.testing.assert_close(output[..., 4:12, 4:12], inner[..., 4:12, 4:12], rtol=0, atol=0.05)


def test_three_augment_takes_a_third_each_of_grey_solarised_and_blurred():
    augment = build(deit3(three_augment=True))
    stored = random_images(3000, 8, 8)
    torch.manual_seed(0)
    output, images = augment(stored), augment.plain(stored)
    grey = (output - output[:, :1]).abs().flatten(1).amax(1) < 1e-6
    bright = images >= 128 / 255
    solarised = ((output - torch.where(bright, 1 - images, images)).abs() < 1e-6).flatten(1).all(1)
    assert not (grey & solarised).any()
    for share in (grey, solarised):
        assert share.float().mean().item() == pytest.approx(1 / 3, abs=0.04)


def test_colour_comes_before_erasing_and_erased_is_the_mean_colour():
    config = AugmentationConfig(**STILL, color_jitter=0.4, **deit3(random_erasing_prob=1.0))
    augment = Augmentation(config, 16, mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2])
    output = augment(random_images(32))
    erased = (output == 0).all(1)
    assert (erased.flatten(1).sum(1) >= 1).all()
    for box in erased:
        rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
        assert box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@settings(max_examples=30)
@given(
    scale=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 10.0)).map(sorted),
)
def test_erased_boxes_keep_to_area_and_ratio_and_to_the_image(scale: list[float], ratio: list[float]):
    _, height, width, *_ = RandomErasing(1.0, (scale[0], scale[1]), (ratio[0], ratio[1])).draw(200).unbind(1)
    area, proportion = height * width, height / width
    assert area.min() >= scale[0] - 1e-4
    assert area.max() <= scale[1] + 1e-4
    assert torch.stack([height, width]).max() <= 1 + 1e-4
    fits = (height < 0.999) & (width < 0.999)
    assert (proportion[fits] >= ratio[0] * 0.999).all()
    assert (proportion[fits] <= ratio[1] * 1.001).all()


def test_erased_boxes_reach_every_pixel_and_none_twice_as_often_as_the_middle():
    erasing = RandomErasing(1.0, (0.1, 0.1), (1.0, 1.0))
    torch.manual_seed(0)
    erased = erasing.apply(torch.ones(4000, 1, 8, 8), erasing.draw(4000)) == 0
    counts = erased.sum((0, 1, 2, 3))
    assert counts > 0
    assert (erased.float().mean((0, 1)) > 0).all()


def test_autocast_changes_nothing():
    augment, images = build(EVERYTHING), random_images(8)
    torch.manual_seed(0)
    expected = augment(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(images), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("changed", [EVERYTHING, *(case.always for case in CASES.values())])
def test_cuda_and_cpu_change_images_alike(changed: dict[str, Any]):
    augment, images = build(changed), random_images(32)
    torch.manual_seed(0)
    expected = augment(images)
    torch.manual_seed(0)
    output = augment.cuda()(images.cuda())
    # Rounding may move a value across a threshold or to the next of 8 bits.
    assert ((output.cpu() - expected).abs() > 1e-3).float().mean() < 0.01


# Config


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"three_augment": True, "auto_augment": True}, "three_augment and auto_augment are both true"),
        ({"random_erasing_scale": (0.5, 0.1)}, "0 < smallest <= largest <= 1"),
        ({"random_erasing_ratio": (0.0, 1.0)}, "0 < smallest <= largest"),
        ({"mixup_alpha": 1e-6}, "must be 0, which is off, or at least 0.01"),
        ({"rand_aug_magnitude": 31}, "less than or equal to 30"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        Deit3Config(**changed)


def test_randaugment_replaces_three_augment_where_nothing_is_said_of_it():
    assert Deit3Config().uses_three_augment
    assert not Deit3Config(auto_augment=True).uses_three_augment
    assert not Deit3Config(three_augment=False).uses_three_augment


@pytest.mark.parametrize(
    ("key", "strategy", "changed", "reason"),
    [
        ("deit3.auto_augment", "jepa", {}, "strategy is jepa"),
        ("deit3.rand_aug_magnitude", "deit3", {}, "auto_augment is false"),
        ("deit3.three_augment", "deit3", {"auto_augment": True}, "auto_augment is true"),
        ("deit3.random_erasing_ratio", "deit3", {}, "random_erasing_prob is 0"),
        ("deit3.mixup_switch_prob", "deit3", {"mixup_alpha": 0.0}, "mixup_alpha is 0"),
        (
            "deit3.mixup_cutmix_prob",
            "deit3",
            {"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
            "mixup_alpha and cutmix_alpha are 0",
        ),
        ("deit3.cutmix_alpha", "deit3", {"mixup_cutmix_prob": 0.0}, "mixup_cutmix_prob is 0"),
        ("deit3.mixup_alpha", "deit3", {"mixup_switch_prob": 1.0}, "mixup_switch_prob is 1: CutMix only"),
        ("deit3.mixup_alpha", "deit3", {}, None),
        ("deit3.mixup_switch_prob", "deit3", {}, None),
        ("deit3.random_erasing_scale", "deit3", {"random_erasing_prob": 0.1}, None),
    ],
)
def test_keys_that_cannot_matter_are_known(
    key: str, strategy: str, changed: dict[str, Any], reason: str | None
):
    config = AugmentationConfig.model_validate({"strategy": strategy, "deit3": changed})
    assert inert_reason(config, key) == reason


@pytest.mark.parametrize(
    ("changed", "varies"),
    [
        ({}, False),
        ({"random_gray_scale": 0.2}, True),
        ({"random_gray_scale": 1.0, "solarization": 1.0, "horizontal_flip": 1.0}, False),
        ({"gaussian_blur": 1.0}, True),
        (deit3(mixup_alpha=1.0), False),
        (deit3(random_erasing_prob=1.0), True),
        (deit3(three_augment=True), True),
    ],
)
def test_views_differ_only_by_what_is_random(changed: dict[str, Any], varies: bool):
    config = AugmentationConfig(**STILL, **changed)
    assert config.varies is varies
    augment, images = build(changed), random_images(32)
    torch.manual_seed(0)
    assert torch.equal(augment(images), augment(images)) is not varies
