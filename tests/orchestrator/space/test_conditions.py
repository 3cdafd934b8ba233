"""Conditions between keys, and combinations of values."""

from typing import Any

import pytest

from tests.orchestrator.space.spaces import CHOICES, FUSION, LR, USE_FPN, load, refusal


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (
            {"model.fpn.use_fp": True},
            "model.fpn.use_fp: no such config key.\nNearest: model.fpn.use_fpn. Keys under model.fpn: ",
        ),
        ({"model.fpn": True}, "model.fpn: is a section, not a value."),
        (
            {"model.fpn.use_fpn": "on"},
            'model.fpn.use_fpn: "on" is not allowed: input should be a valid boolean.',
        ),
        ({"model.fpn.use_fpn": []}, "model.fpn.use_fpn: is empty; give a value, or a list of values."),
        (
            {"model.num_hierarchies": 2},
            "model.num_hierarchies: the key would never vary: model.num_hierarchies is not in the space, "
            "and is 3 in base.yaml.\nSet it to 2 there, or sweep it.",
        ),
        (
            {"loss.type": "huber"},
            'loss.type: loss.type never takes huber; the space has choice: ["mse", "cosine"].',
        ),
        (
            {"training.lr": 0.001},
            "training.lr: training.lr varies continuously (loguniform) and hits no single value; "
            "a condition needs a key with choices or whole numbers.",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when: dict[str, Any], expected: str) -> None:
    space = LR | USE_FPN | {"loss.type": {"choice": ["mse", "cosine"]}}
    message = refusal(space | {FUSION: {"choice": ["add", "concat"], "when": when}})
    assert message.startswith(f"s.yaml: space.{FUSION}.when.{expected}"), message


def test_a_condition_that_the_base_meets_is_taken() -> None:
    sweep = load(
        {FUSION: {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}}},
        {"model": {"fpn": {"use_fpn": True}}},
    )
    assert len(list(sweep.grid())) == 2


def test_a_condition_on_a_list_means_the_list_or_one_of_several() -> None:
    weights = [[1.0, 0.5, 0.25], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    for wanted, count in ((weights[0], 4), (weights[:2], 5)):
        space: dict[str, Any] = {"loss.hierarchy_weights": {"choice": weights}}
        space["loss.type"] = {"choice": ["mse", "cosine"], "when": {"loss.hierarchy_weights": wanted}}
        assert len(list(load(space).grid())) == count


def test_a_circle_of_conditions_is_refused() -> None:
    space = {
        "model.fpn.use_fpn": {"choice": [True, False], "when": {"loss.type": "mse"}},
        "loss.type": {"choice": ["mse", "cosine"], "when": {"model.fpn.use_fpn": True}},
    }
    assert refusal(space) == (
        "s.yaml: space.model.fpn.use_fpn.when: keys depend on one another in a circle: "
        "model.fpn.use_fpn -> loss.type -> model.fpn.use_fpn."
    )


def test_conditions_that_are_never_met_together_are_refused() -> None:
    space = USE_FPN | {
        "loss.type": {"choice": ["mse", "cosine"], "when": {"model.fpn.use_fpn": False}},
        FUSION: {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True, "loss.type": "mse"}},
    }
    assert refusal(space) == (
        f"s.yaml: space.{FUSION}: would never vary: its when "
        '{"model.fpn.use_fpn": [true], "loss.type": ["mse"]} is never met as a whole.'
    )


def test_values_that_do_not_go_together_are_named_with_the_condition_that_parts_them() -> None:
    assert refusal(CHOICES | LR) == (
        "s.yaml: space.model.num_hierarchies: model.num_hierarchies = 2 makes no valid config: "
        "loss.hierarchy_weights has 3 weights, [1.0, 0.5, 0.25], but model.num_hierarchies is 2; give one "
        "weight per level.\nLeave that value out, or change the base."
    )
    space = {"model.embed_dim": {"choice": [32, 48]}, "model.num_heads": {"choice": [4, 32]}}
    assert refusal(space) == (
        "s.yaml: space.model.num_heads: model.embed_dim = 48, model.num_heads = 32 makes no valid config: "
        "embed_dim 48 is no multiple of num_heads 32.\nKeep them apart with when: {model.embed_dim: 32} here."
    )


def test_no_condition_is_proposed_that_would_only_move_the_mistake() -> None:
    space = {
        "model.num_hierarchies": {"choice": [2, 3]},
        "loss.hierarchy_weights": {"choice": [[1.0, 0.5], [1.0, 0.5, 0.25]]},
    }
    message = refusal(space)
    assert message.startswith(
        "s.yaml: space.loss.hierarchy_weights: model.num_hierarchies = 2, loss.hierarchy_weights = "
        "[1.0, 0.5, 0.25] makes no valid config: loss.hierarchy_weights has 3 weights"
    )
    assert message.endswith("with when: or a constraint, narrow a range, or leave a value out.")


def test_a_key_without_effect_is_refused_with_the_condition_that_mends_it() -> None:
    fusion = {FUSION: {"choice": ["add", "concat"]}}
    assert refusal(fusion | USE_FPN) == (
        f"s.yaml: space.{FUSION}: has no effect where model.fpn.use_fpn is false.\n"
        "Add to it: when: {model.fpn.use_fpn: true}"
    )
    assert refusal(fusion) == (
        f"s.yaml: space.{FUSION}: has no effect: model.fpn.use_fpn is false.\n"
        "Change that in the base, or sweep it and add a when:."
    )
    mended = USE_FPN | {FUSION: {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}}}
    assert len(list(load(mended).grid())) == 3


def test_values_that_differ_in_an_element_without_effect_are_refused() -> None:
    betas = {"training.betas": {"choice": [[0.9, 0.95], [0.9, 0.999], [0.8, 0.95]]}}
    optimizer = {"training.optimizer": {"choice": ["adamw", "sgd"]}}
    assert refusal(betas | optimizer) == (
        "s.yaml: space.training.betas: has values that differ in training.betas[1] alone, which has no "
        "effect where training.optimizer is sgd (training.optimizer is sgd, whose momentum is betas[0]).\n"
        'Add to it: when: {training.optimizer: "adamw"}'
    )
    load(betas)
    told_apart = {"training.betas": {"choice": [[0.9, 0.95], [0.8, 0.999]]}} | optimizer
    assert len(list(load(told_apart).grid())) == 4


def test_what_only_predicts_may_not_vary_where_nothing_is_predicted() -> None:
    depth = {"model.predictor.depth": {"choice": [1, 2]}}
    weight = {"loss.prediction_weight": {"choice": [0.0, 1.0]}, "loss.use_sigreg": {"choice": [True]}}
    assert refusal(weight | depth) == (
        "s.yaml: space.model.predictor.depth: has no effect where loss.prediction_weight is 0.0 "
        "(loss.prediction_weight is 0, so nothing is predicted).\n"
        "Add to it: when: {loss.prediction_weight: 1.0}"
    )


def test_a_key_is_not_without_effect_for_the_very_end_of_a_range() -> None:
    space = {"training.warmup_lr_ratio": {"uniform": [0, 1]}}
    load(space | {"training.warmup_epochs": {"uniform": [0, 5]}})
    message = refusal(space | {"training.warmup_epochs": {"choice": [0, 2, 5]}})
    assert message.endswith("Add to it: when: {training.warmup_epochs: [2.0, 5.0]}")


def test_a_proposed_condition_names_all_whole_numbers_of_a_range() -> None:
    momentum = {"model.ema.momentum": {"quniform": [0.9, 1.0, 0.025]}}
    message = refusal(momentum | {"model.ema.momentum_warmup_epochs": {"uniform": [1, 5]}})
    assert message == (
        "s.yaml: space.model.ema.momentum_warmup_epochs: has no effect where model.ema.momentum is 1.0 "
        "(momentum equals momentum_end).\nAdd to it: when: {model.ema.momentum: [0.9, 0.925, 0.95, 0.975]}"
    )
