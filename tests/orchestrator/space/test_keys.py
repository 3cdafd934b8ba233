"""Keys and distributions that cannot be."""

from typing import Any

import pytest

from tests.orchestrator.space.spaces import LR, drawn, load, refusal


@pytest.mark.parametrize(
    ("key", "distribution", "expected"),
    [
        ("training.lr", {}, "has no distribution; must have exactly one of choice, grid_search, uniform,"),
        (
            "training.lr",
            {"uniform": [1, 2], "choice": [1]},
            "has choice and uniform; must have exactly one of",
        ),
        (
            "training.lr",
            {"loguniform_": [1, 2]},
            "no such distribution: loguniform_; nearest: loguniform; one of",
        ),
        (
            "training.lr",
            [1e-3, 1e-2],
            "[0.001, 0.01] is not allowed: must be a distribution, such as {choice:",
        ),
        ("training.lr", {"uniform": [1]}, "uniform takes [low, high], got [1]."),
        (
            "training.lr",
            {"uniform": [1, "2"]},
            "uniform: '2' is not allowed: input should be a valid number.",
        ),
        ("training.lr", {"choice": []}, "choice is empty; give at least one value."),
        ("training.lr", {"choice": [1, 1.0]}, "choice has 1.0 twice."),
        ("training.lr", {"uniform": [2, 1]}, "uniform has low 2 and high 1; low must be less than high."),
        ("training.lr", {"loguniform": [0, 1]}, "loguniform has low 0; a logarithmic range must be above 0."),
        ("training.lr", {"quniform": [1, 2, 0]}, "quniform has q 0.0; must be above 0."),
        (
            "training.lr",
            {"quniform": [0.1, 1, 0.3]},
            "quniform goes from 0.1 to 1.0; both must be multiples of q 0.3.",
        ),
        ("training.lr", {"quniform": [0, 1, 1e-6]}, "quniform has more than 10,000 values; write uniform."),
        ("training.lr", {"quniform": [0, 1, 1e-320]}, "quniform has more than 10,000 values; write uniform."),
        (
            "training.lr",
            {"quniform": [0, 1e300, 1e-300]},
            "quniform has more than 10,000 values; write uniform.",
        ),
        (
            "seed",
            {"randint": [0, 10**19]},
            "randint goes beyond 2^53, where not every whole number can be drawn.",
        ),
        ("training.lr", {"uniform": [0, 1]}, "0.0 is not allowed: input should be greater than 0."),
        ("training.lr", {"choice": ["high"]}, '"high" is not allowed: input should be a valid number.'),
        (
            "training.lr",
            {"randint": [1, 3]},
            "the key takes any number: write quniform, uniform or loguniform.",
        ),
        (
            "training.lr",
            {"grid_search": [1, 2]},
            "grid_search needs search.algorithm grid; with gp write choice.",
        ),
        (
            "model.depth",
            {"uniform": [1.5, 3]},
            "1.5 is not allowed: input should be a valid integer.\n"
            "The key takes whole numbers: write randint, lograndint or choice.",
        ),
        (
            "model.num_hierarchies",
            {"randint": [1, 6]},
            "5 is not allowed: input should be less than or equal to 4.",
        ),
        ("loss.type", {"choice": ["mse", "l1"]}, "\"l1\" is not allowed: input should be 'mse', 'smoothl1',"),
        (
            "model.fpn",
            {"choice": [1]},
            "is a section, not a value.\nVary the keys below it, written with dots: mod",
        ),
        (
            "model",
            {"fpn": {"use_fpn": {"choice": [True]}}},
            "is a section, not a value.\nVary the keys below it,",
        ),
        (
            "training.epochs",
            {"choice": [1, 2]},
            "how long trials run is the scheduler's; set scheduler.max_epochs.",
        ),
        (
            "device",
            {"choice": ["cpu", "cuda"]},
            "may not vary: it changes speed or place only, never a result.",
        ),
        (
            "logging.log_frequency",
            {"choice": [1]},
            "may not vary: it changes speed or place only, never a result.",
        ),
        (
            "data.split_seed",
            {"randint": [0, 3]},
            "may not vary: it changes what the objective measures, so trials",
        ),
        (
            "data.class_list",
            {"choice": ["a.txt", "b.txt"]},
            "may not vary: it changes what the objective measures, so trials",
        ),
        (
            "data.val_fraction",
            {"choice": [0.1]},
            "may not vary: it changes what the objective measures, so trials",
        ),
        (
            "data.dataset",
            {"choice": ["digits"]},
            "may not vary: it changes what the objective measures, so trials",
        ),
        (
            "evaluation.knn.k",
            {"choice": [5, 20]},
            "may not vary: it changes what the objective measures, so trials",
        ),
    ],
)
def test_a_key_that_cannot_vary_so_is_refused(key: str, distribution: Any, expected: str) -> None:
    message = refusal({key: distribution})
    assert message.removeprefix(f"s.yaml: space.{key}").lstrip(":. ").startswith(expected), message
    assert message.startswith(f"s.yaml: space.{key}")


def test_the_seed_may_vary() -> None:
    assert drawn(load({"seed": {"randint": [0, 1000]}}), 0)[0]["seed"] < 1000


def test_a_grid_needs_values_that_can_be_listed() -> None:
    message = refusal(LR, search={"algorithm": "grid"})
    assert message == (
        "s.yaml: space.training.lr: loguniform has no list of values; a grid needs one of choice, "
        "grid_search, quniform, randint."
    )


def test_an_endless_grid_needs_a_limit() -> None:
    endless = {"seed": {"randint": [0, 10**9]}}
    message = refusal(endless, search={"algorithm": "grid"})
    assert message.startswith("s.yaml: search.num_trials: the grid has more than 100,000 combinations;")
    assert load(endless, search={"algorithm": "grid", "num_trials": 3}).num_trials == 3
