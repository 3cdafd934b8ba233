"""Schedules at their ends and in the middle, and which parameters decay."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hjepa import RunConfig
from hjepa.model import HJEPA, EmaConfig, ModelConfig
from hjepa.optim import TrainingConfig, build_optimizer, ema_momentum, learning_rate


def training(**changed: Any) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 10, "warmup_epochs": 2.0, "lr": 0.5, "warmup_lr_ratio": 0.1} | changed)


# Learning rate; 10 epochs of 8 steps are steps 0 to 79, warm-up ends at 16


def test_the_first_step_has_the_share_of_the_rate_that_warm_up_starts_from():
    assert learning_rate(training(), 0, 8) == pytest.approx(0.05)
    assert learning_rate(training(warmup_lr_ratio=0.0), 0, 8) == 0.0
    assert learning_rate(training(warmup_epochs=0), 0, 8) == 0.5


def test_warm_up_rises_evenly_to_the_full_rate():
    assert learning_rate(training(), 8, 8) == pytest.approx(0.5 * (0.1 + 0.9 / 2))
    assert learning_rate(training(), 16, 8) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(
    ("least", "expected"),
    [({}, 0.0), ({"min_lr": 0.02}, 0.02), ({"min_lr_ratio": 0.3}, 0.15), ({"min_lr": 0.0}, 0.0)],
)
def test_the_last_step_has_the_least_rate(schedule: str, least: dict[str, float], expected: float):
    config = training(lr_schedule=schedule, **least)
    assert learning_rate(config, 79, 8) == pytest.approx(expected, abs=1e-12)


def test_cosine_and_linear_are_halfway_at_the_middle():
    config = {"warmup_epochs": 0, "min_lr": 0.1, "epochs": 1}
    for schedule in ("cosine", "linear"):
        assert learning_rate(training(lr_schedule=schedule, **config), 40, 81) == pytest.approx(0.3)
    quarter = 0.1 + 0.4 * (1 + math.cos(math.pi / 4)) / 2
    assert learning_rate(training(**config), 20, 81) == pytest.approx(quarter)
    assert learning_rate(training(lr_schedule="linear", **config), 20, 81) == pytest.approx(0.4)


def test_cosine_is_torchs():
    config = training(warmup_epochs=0, min_lr=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 79, eta_min=0.1)
    for step in range(80):
        assert learning_rate(config, step, 8) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


def test_a_constant_rate_stays_after_warm_up():
    config = training(lr_schedule="constant")
    assert learning_rate(config, 4, 8) < 0.5
    assert {learning_rate(config, step, 8) for step in range(16, 80)} == {0.5}


@given(
    epochs=st.integers(1, 30), share=st.floats(0, 1), steps=st.integers(1, 50), least=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)  # fmt: skip
def test_the_rate_stays_in_range_rising_through_warm_up_and_falling_after(
    epochs: int, share: float, steps: int, least: float, schedule: Any
):
    config = training(
        epochs=epochs,
        warmup_epochs=share * epochs,
        min_lr_ratio=least,
        lr_schedule=schedule,
        warmup_lr_ratio=0,
    )
    rates = [learning_rate(config, step, steps) for step in range(epochs * steps)]
    assert all(0 <= rate <= 0.5 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    falls = schedule != "constant" and config.warmup_epochs * steps < epochs * steps - 1
    assert rates[-1] == pytest.approx(config.final_lr if falls else 0.5)


def test_a_run_of_a_single_step_takes_it_at_the_full_rate():
    assert learning_rate(training(epochs=1, warmup_epochs=0), 0, 1) == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"warmup_epochs": 11}, "warmup_epochs 11 is more than epochs 10"),
        ({"min_lr": 0.1, "min_lr_ratio": 0.1}, "both given; set one of them to null"),
        ({"min_lr": 0.6}, "min_lr 0.6 is more than lr 0.5"),
        ({"betas": (0.9, 1.0)}, r"betas are \[0.9, 1.0\]; each must be in \[0, 1\)"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changed: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        training(**changed)


# Momentum of the target


def test_momentum_goes_from_its_start_to_its_end_over_all_steps():
    config = EmaConfig(momentum=0.996, momentum_end=1.0)
    assert ema_momentum(config, 0, 8, 10) == 0.996
    assert ema_momentum(config, 79, 8, 10) == 1.0
    middle = ema_momentum(config, 40, 81, 1)
    assert middle == pytest.approx(0.998)


def test_momentum_rises_over_the_epochs_given_and_stays():
    config = EmaConfig(momentum=0.9, momentum_end=0.99, momentum_warmup_epochs=5)
    assert ema_momentum(config, 0, 8, 10) == 0.9
    assert ema_momentum(config, 20, 8, 10) == pytest.approx(0.945)
    assert all(ema_momentum(config, step, 8, 10) == pytest.approx(0.99) for step in range(40, 80))


def test_without_a_rise_momentum_is_at_its_end_from_the_start():
    config = EmaConfig(momentum=0.9, momentum_end=0.99, momentum_warmup_epochs=0)
    assert ema_momentum(config, 0, 8, 10) == pytest.approx(0.99)


# Optimizer


@pytest.mark.parametrize("fpn", [False, True])
def test_biases_norms_tokens_and_positions_take_no_weight_decay(fpn: bool):
    config = ModelConfig.model_validate({"embed_dim": 16, "depth": 1, "fpn": {"use_fpn": fpn}})
    model = HJEPA(config, 16)
    optimizer = build_optimizer(training(weight_decay=0.2), model)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {}
    for name, module in model.named_modules():
        if not name.startswith("target_"):
            for key, parameter in module.named_parameters(recurse=False):
                layer = isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
                expected[id(parameter)] = 0.2 if layer and key == "weight" else 0.0
    assert decays == expected
    assert set(decays.values()) == {0.0, 0.2}


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_betas_reach_the_optimizer(kind: Any):
    model = HJEPA(ModelConfig(embed_dim=16, depth=1), 16)
    optimizer = build_optimizer(training(optimizer=kind, betas=(0.7, 0.8)), model)
    expected = {"betas": (0.7, 0.8)} if kind == "adamw" else {"momentum": 0.7}
    assert all(expected.items() <= group.items() for group in optimizer.param_groups)
    assert isinstance(optimizer, {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_steps_and_states_are_those_of_torchs_own_optimizer(kind: Any):
    models = [HJEPA(ModelConfig(embed_dim=16, depth=1), 16) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = build_optimizer(training(optimizer=kind, betas=(0.7, 0.8)), models[0])
    groups = build_optimizer(training(optimizer=kind, betas=(0.7, 0.8)), models[1]).param_groups
    theirs = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind](groups, fused=True)
    for step in range(3):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            optimizer.zero_grad()
            for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
                parameter.grad = torch.full_like(parameter, 0.1 * (number - step))
            optimizer.step()
        for mine, its in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(mine, its)
        states = ours.state_dict(), theirs.state_dict()
        assert states[0].keys() == states[1].keys()
        ours.load_state_dict(states[1])
        theirs.load_state_dict(states[0])
    assert all(p.requires_grad and p.grad is not None for group in groups for p in group["params"])


def test_a_process_that_trains_does_not_load_the_compiler(tiny: Callable[..., RunConfig], tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from hjepa import RunConfig, train\n"
        "config, path = RunConfig.model_validate_json(sys.stdin.read()), Path('run.pt')\n"
        "for resume in (None, path):\n"
        "    report = next(train(config, resume)); report.save(path)\n"
        "print(report.epoch, 'val/linear_probe_top1' in report.metrics, 'torch._dynamo' in sys.modules)"
    )
    probe = {"evaluation.linear_probe.enabled": True, "evaluation.linear_probe.epochs": 1}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=tiny({"training.epochs": 2, **probe}).model_dump_json(),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["2", "True", "False"], done.stderr
