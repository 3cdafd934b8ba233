"""Constraints between keys, and values derived from others."""

import pytest

from orchestrator.space import Sweep
from tests.orchestrator.space.spaces import LR, USE_FPN, drawn, load, refusal

SIZE = {"model.embed_dim": {"choice": [32, 48, 64]}, "model.num_heads": {"choice": [4, 16, 32]}}
FITS = ["model.embed_dim % model.num_heads == 0"]
SHAPE = {"model": {"embed_dim": 64, "num_heads": 4}}


def sizes(sweep: Sweep) -> list[tuple[int, int]]:
    return [(v["model.embed_dim"], v["model.num_heads"]) for v in sweep.grid()]


def test_a_constraint_admits_a_space_that_without_it_is_refused() -> None:
    assert "embed_dim 48 is no multiple of num_heads 32" in refusal(SIZE, SHAPE)
    sweep = load(SIZE, SHAPE, constraints=FITS)
    assert sizes(sweep) == [(32, 4), (32, 16), (32, 32), (48, 4), (48, 16), (64, 4), (64, 16), (64, 32)]


def test_a_constraint_sees_derived_values_and_keys_that_are_not_swept() -> None:
    sweep = load(
        {"model.num_heads": {"choice": [2, 4, 8]}},
        constraints=["model.embed_dim <= 16 * model.depth"],
        derived={"model.embed_dim": "12 * model.num_heads"},
        base={"model": {"depth": 4}},
    )
    assert [v["model.num_heads"] for v in sweep.grid()] == [2, 4]


def test_a_constraint_does_not_ask_for_derived_values_that_it_does_not_read() -> None:
    swept = {"model.num_heads": {"choice": [2, 4, 8]}, "training.warmup_epochs": {"choice": [1, 2]}}
    sweep = load(
        swept,
        constraints=["model.num_heads < 8"],
        derived={"training.weight_decay": "0.1 / training.warmup_epochs"},
        base={"training": {"warmup_epochs": 0}},
    )
    assert len(list(sweep.grid())) == 4


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("model.num_head > 1", "model.num_head: no such config key.\nNearest: model.num_heads."),
        ("loss.type == mse", "mse: no such config key."),
        ("loss > 1", "loss: is a section, not a value."),
        ("model.depth > 1", "reads no swept key, so nothing changes it."),
        ("model.num_heads > 64", "nothing in the space satisfies it (of 3 tried)."),
        ("model.num_heads >= 4", "everything in the space satisfies it (of 3 tried); take it out."),
        ("model.num_heads / 4", "gives 1.0, not true or false, at model.num_heads = 4."),
        ("model.num_heads > model.predictor.embed_dim", "cannot be computed: '>' not supported"),
        ("1 / (model.num_heads - 4) > 0", "divides by zero, at model.num_heads = 4."),
    ],
)
def test_a_constraint_that_cannot_be_meant_is_refused(constraint: str, expected: str) -> None:
    message = refusal(SIZE, SHAPE, constraints=[*FITS, constraint])
    assert message.startswith(f"s.yaml: constraints[1]: {constraint}: {expected}")


@pytest.mark.parametrize("design", ["sampled", "factorial"])
def test_a_derived_value_that_has_none_is_refused_beside_a_constraint(design: str) -> None:
    derived = {"training.weight_decay": "1 / abs(model.num_heads - 16)"}
    message = refusal(SIZE, SHAPE, constraints=FITS, derived=derived, design=design)
    assert message.startswith(
        "s.yaml: derived.training.weight_decay: 1 / abs(model.num_heads - 16): divides by zero, at "
    )


def test_text_without_quotes_is_told_that_it_lacks_them() -> None:
    message = refusal(SIZE, SHAPE, constraints=[*FITS, "loss.type == mse"])
    assert message.endswith("Text stands in quotes: 'mse'.")


def test_constraints_that_leave_nothing_together_are_refused() -> None:
    constraints = [*FITS, "model.num_heads > 4", "model.num_heads < 16"]
    assert refusal(SIZE, SHAPE, constraints=constraints) == (
        "s.yaml: constraints: of 1,000 random proposals none satisfy all of them, and 5 should; narrow the "
        "ranges, or write a constraint as a derived value."
    )


def test_a_key_that_constraints_never_let_vary_is_refused() -> None:
    fusion = {"model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}}}
    message = refusal(
        USE_FPN | fusion | LR,
        constraints=["not (model.fpn.use_fpn and training.lr < 1)", "training.lr < 5e-3"],
    )
    assert "would never vary: its when" in message
    assert "is never met as a whole under the constraints." in message


def test_what_is_derived_follows_what_is_swept() -> None:
    sweep = load(
        {"data.batch_size": {"choice": [32, 64, 128]}},
        {"data": {"batch_size": 64}, "training": {"lr": 2e-3}},
        derived={
            "training.lr": "base.training.lr * data.batch_size / base.data.batch_size",
            "training.min_lr": "training.lr / 100",
        },
    )
    runs = [sweep.resolve(values) for values in sweep.grid()]
    assert [run.training.lr for run in runs] == [1e-3, 2e-3, 4e-3]
    assert [run.training.min_lr for run in runs] == [1e-5, 2e-5, 4e-5]


def test_widths_follow_heads() -> None:
    sweep = load(
        {"model.num_heads": {"randint": [1, 5]}}, SHAPE, derived={"model.embed_dim": "16 * model.num_heads"}
    )
    assert {sweep.resolve(v).model.embed_dim for v in drawn(sweep, 0, 30)} == {16, 32, 48, 64}
    assert sweep.base_values() == {"model.num_heads": 4}


def test_the_base_is_run_as_it_is_and_lies_outside_where_derived_values_differ() -> None:
    derived = {"training.lr": "1e-4 * model.num_heads"}
    sweep = load({"model.num_heads": {"choice": [2, 4]}}, SHAPE, derived=derived)
    assert sweep.base_values() is None
    assert sweep.resolve({}).training.lr == sweep.base.training.lr == 1e-3
    assert sweep.resolve({"model.num_heads": 4}).training.lr == pytest.approx(4e-4)


def test_what_is_laid_over_a_trial_changes_nothing_that_is_derived() -> None:
    """A fresh seed, or half the micro-batch, is the same trial again."""
    sweep = load({"data.batch_size": {"choice": [32, 64]}}, derived={"training.lr": "data.batch_size / 1e5"})
    run = sweep.resolve({"data.batch_size": 64}, {"seed": 7, "data.batch_size": 32})
    assert (run.seed, run.data.batch_size, run.training.lr) == (7, 32, 64 / 1e5)


@pytest.mark.parametrize(
    ("derived", "expected"),
    [
        ({"training.lrr": "model.num_heads"}, "training.lrr: no such config key.\nNearest: training.lr."),
        ({"model.num_heads": "model.embed_dim"}, "model.num_heads: is swept too; take it out of one of"),
        ({"training.epochs": "model.num_heads"}, "training.epochs: how long trials run is the scheduler's"),
        ({"data.split_seed": "model.num_heads"}, "data.split_seed: may not vary: it changes what the objec"),
        ({"device": "model.num_heads"}, "device: may not vary: it changes speed or place only"),
        ({"training.lr": "model.num_heads +"}, "training.lr: model.num_heads +: cannot be read"),
        ({"training.lr": "base.model.depth"}, "training.lr: base.model.depth: reads no swept key, so it is"),
        (
            {"training.lr": "training.min_lr * 2", "training.min_lr": "training.lr / model.num_heads"},
            "training.lr: values are derived in a circle: training.lr -> training.min_lr -> training.lr.",
        ),
        (
            {"training.lr": "model.num_heads - 4"},
            "training.lr: model.num_heads - 4 gives 0, which is not allowed: input should be greater than 0, "
            "at model.embed_dim = 32, model.num_heads = 4.",
        ),
        (
            {"model.depth": "model.num_heads / 2"},
            "model.depth: model.num_heads / 2 gives 2.0, which is not allowed: input should be",
        ),
    ],
)
def test_a_derived_value_that_cannot_be_is_refused(derived: dict[str, str], expected: str) -> None:
    message = refusal(SIZE, SHAPE, constraints=FITS, derived=derived)
    assert message.startswith(f"s.yaml: derived.{expected}"), message


def test_a_condition_on_a_derived_key_is_refused() -> None:
    beta = {"loss.smoothl1.beta": {"choice": [0.5, 2.0], "when": {"loss.type": "smoothl1"}}}
    derived = {"loss.type": "'smoothl1' if model.num_heads > 4 else 'mse'"}
    assert refusal(SIZE | beta, SHAPE | {"loss": {"type": "smoothl1"}}, derived=derived) == (
        "s.yaml: space.loss.smoothl1.beta.when.loss.type: is derived; a condition needs a key that is swept."
    )


def test_a_derived_key_is_compared_like_a_swept_one() -> None:
    message = refusal(
        LR, objective={"metric": "train/loss"}, derived={"loss.prediction_weight": "training.lr * 10"}
    )
    assert "cannot be compared between values of loss.prediction_weight" in message


def test_rules_are_part_of_what_a_sweep_is() -> None:
    plain = load(SIZE, SHAPE, constraints=FITS)
    narrower = load(SIZE, SHAPE, constraints=[*FITS, "model.num_heads < 32"])
    derived = load(SIZE, SHAPE, constraints=FITS, derived={"training.lr": "model.num_heads / 100"})
    assert len({sweep.fingerprint() for sweep in (plain, narrower, derived)}) == 3
    assert derived.definition()["sweep"]["derived"] == {"training.lr": "model.num_heads / 100"}
    assert derived.definition()["sweep"]["constraints"] == FITS
    assert "constraints" not in load(LR).definition()["sweep"]
