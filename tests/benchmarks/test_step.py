"""The benchmark of a training step: it runs, and counts what torch counts."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import step
from benchmarks.flops import old_style_flops, our_flops
from benchmarks.old_style import LEVEL_WEIGHTS, OldStyle
from hjepa.encoder import timm_shape
from hjepa.masking import sample_masks
from hjepa.run import build_run
from hjepa.step import optimize

ENCODER, IMAGES = "vit_tiny_patch16_224", 2


@pytest.mark.parametrize("named", [{}, {"model.encoder_type": ENCODER, "data.image_size": 64}])
def test_the_operations_of_our_step_are_those_that_torch_counts(tiny: Callable, named: dict[str, Any]):
    shape = dict.fromkeys(["embed_dim", "depth", "num_heads", "patch_size"]) if named else {}
    # The plain kernel: torch counts the scores once more in the backward pass of the other one.
    plain = {"model.use_flash_attention": False, "data.batch_size": IMAGES}
    run = build_run(tiny({f"model.{key}": None for key in shape} | named | plain))
    side = run.config.data.image_size
    masks = sample_masks(run.config.masking, IMAGES, run.model.grid, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        optimize(run, torch.randn(IMAGES, 3, side, side), masks)
    assert counter.get_total_flops() == IMAGES * our_flops(run.config, masks.visible_BK.shape[1])


def test_the_operations_of_the_old_step_are_those_that_torch_counts():
    model = OldStyle(ENCODER, image_size=64, predictor_depth=2, target_blocks=4)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # pyright: ignore[reportArgumentType]
    masks = model.draw_masks(IMAGES)
    with FlopCounterMode(display=False) as counter:
        model.step(torch.randn(IMAGES, 3, 64, 64), *masks)
    expected = old_style_flops(timm_shape(ENCODER), 64, 2, len(LEVEL_WEIGHTS))
    assert counter.get_total_flops() == IMAGES * expected


def test_the_old_step_learns_and_its_target_follows():
    torch.manual_seed(0)
    model = OldStyle(ENCODER, image_size=32, predictor_depth=1, target_blocks=1)
    images, before = (
        torch.randn(8, 3, 32, 32),
        nn.utils.parameters_to_vector(model.target_encoder.parameters()),
    )
    masks = model.draw_masks(8)
    losses = [model.step(images, *masks) for _ in range(10)]
    assert losses[-1] < losses[0]
    after = nn.utils.parameters_to_vector(model.target_encoder.parameters())
    assert 0 < (after - before).norm() < 0.1 * before.norm()


def test_the_benchmark_prints_ratios_limits_and_parts(capsys: pytest.CaptureFixture[str]):
    options = ["--image-size", "64", "--batch", "2", "--rounds", "2", "--threads", "1", "--device", "cpu"]
    sides = ["--sides", "old style", "old style, memory as ours", "bfloat16"]  # a process each
    assert step.main([*options, "--product", "256", *sides]) == 0
    said = capsys.readouterr().out
    for expected in (
        "bfloat16 over old style: ",
        "bfloat16 over old style, memory as ours: ",
        "bfloat16 reaches ",
        "bfloat16, 256 x 256 x 256: ",
        "target encoder",
    ):
        assert expected in said


@pytest.mark.slow  # nine processes
def test_the_memory_benchmark_shows_that_checkpointing_and_accumulation_hold_the_peak():
    options = ["--image-size", "64", "--batch", "64", "--threads", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_memory", *options], capture_output=True, text=True, check=True
    )
    rows = [line.rsplit(maxsplit=4) for line in done.stdout.splitlines()[2:]]
    taken = {name.strip(): float(step) for name, _, _, step, _ in rows}
    assert len(taken) == 9
    assert taken["float32, checkpointing"] < taken["float32"] < taken["old style"]
    assert taken["float32, accumulated of 4"] < taken["float32"]
