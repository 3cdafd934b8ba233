"""How large a run is said to be, beside how large it is."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hjepa.catalog import ROOT, find_config
from hjepa.config import RunConfig, load_config
from hjepa.measure import evaluation_batch, measure
from hjepa.run import build_run

Tiny = Callable[..., RunConfig]

FACTOR = 2.0
"""Between the estimated and the measured peak, either way."""

# The peak of a step over what was held before, after a first step has made the optimizer's moments.
STEPS = """
import sys
sys.path.insert(0, "benchmarks")
from features import PeakMemory, timed_step
from hjepa.config import load_config
from hjepa.run import build_run
from hjepa.schema import parse_overrides
run = build_run(load_config("configs/quick/digits.yaml", parse_overrides(sys.argv[1:])))
memory = PeakMemory(run.device)
print(max(timed_step(run, memory).peak_bytes for _ in range(3)))
"""
VIT = {
    "model.encoder_type": "vit_tiny_patch16_224",
    "model.embed_dim": 192,
    "model.depth": 12,
    "model.num_heads": 3,
    "model.patch_size": 16,
    "data.image_size": 224,
    "data.batch_size": 8,
    "device": "cpu",
    "threads": 1,
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "changed",
    [
        {},
        *(
            pytest.param(changed, marks=pytest.mark.slow)
            for changed in (
                {"training.use_gradient_checkpointing": True},
                {"model.predictor.mode": "per_block"},
                {"data.use_multicrop": True},
                {"model.use_target_encoder": False, "loss.use_sigreg": True},
            )
        ),
    ],
    ids=["base", "checkpointing", "per block", "several crops", "no target encoder"],
)
def test_the_estimate_is_within_a_factor_of_two_of_the_measured_peak(changed: dict[str, Any]):
    words = [f"{key}={str(value).lower()}" for key, value in (VIT | changed).items()]
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    estimated = measure(load_config(find_config("digits"), VIT | changed)).activation_bytes
    assert 1 / FACTOR < estimated / int(done.stdout) < FACTOR


@pytest.mark.parametrize(
    "changed", [{}, {"model.fpn.use_fpn": True}, {"model.use_target_encoder": False, "loss.use_vicreg": True}]
)
def test_counts_are_those_of_the_model_that_is_built(tiny: Tiny, changed: dict[str, Any]):
    config = tiny(changed)
    size, model = measure(config), build_run(config).model
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert size.encoder + size.predictor + size.others == trained
    assert size.target == sum(p.numel() for p in parameters) - trained
    assert size.encoder == sum(p.numel() for p in model.encoder.parameters())


def test_weights_gradients_and_both_moments_are_four_bytes_each(tiny: Tiny):
    size = measure(tiny())
    trained = size.encoder + size.predictor + size.others
    assert size.weights_bytes == 4 * (4 * trained + size.target)
    sgd = measure(tiny({"training.optimizer": "sgd"}))
    assert sgd.weights_bytes == 4 * (3 * trained + size.target)


@pytest.mark.parametrize(
    ("encoder", "images"), [("vit_tiny_patch16_224", 111), ("vit_large_patch16_224", 20), (None, 512)]
)
def test_what_an_evaluation_holds_depends_on_the_model_alone(encoder: str | None, images: int):
    base = find_config("digits" if encoder is None else "default")
    named = {} if encoder is None else {"model.encoder_type": encoder, "model.predictor.num_heads": 4}
    found = [load_config(base, named | {"data.batch_size": batch}) for batch in (4, 64)]
    assert [evaluation_batch(config) for config in found] == [images, images]
    small, large = map(measure, found)
    assert small.evaluation_bytes == large.evaluation_bytes < 5e8


def test_an_evaluation_counts_where_it_is_the_peak():
    one, many = (measure(load_config(find_config("digits"), {"data.batch_size": n})) for n in (2, 512))
    assert one.peak_bytes == one.weights_bytes + one.evaluation_bytes
    assert one.evaluation_bytes > one.activation_bytes
    assert many.peak_bytes == many.weights_bytes + many.activation_bytes


def test_named_encoders_have_timms_parameters():
    import timm

    with torch.device("meta"):
        reference = timm.create_model("vit_base_patch16_224", num_classes=0)
    size = measure(load_config(find_config("default")))
    # Ours has no class token, nor its position.
    assert size.encoder == sum(p.numel() for p in reference.parameters()) - 2 * 768
    assert size.tokens == 14 * 14


def test_a_larger_step_shows_fewer_patches_of_each_image():
    small, large = (
        measure(load_config(find_config("default"), {"data.batch_size": batch})) for batch in (8, 256)
    )
    assert large.visible < small.visible < small.tokens
    assert small.visible + small.predicted < small.tokens
