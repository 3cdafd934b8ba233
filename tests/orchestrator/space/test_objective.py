"""Which metrics may rank the trials of which space."""

from typing import Any

import pytest

from orchestrator.space import load_sweep, parse_overrides
from tests.orchestrator.space.spaces import LR, USE_FPN, load, refusal


def test_a_training_loss_is_refused_where_its_scale_may_change() -> None:
    loss = {"metric": "train/loss"}
    assert load(LR | {"seed": {"randint": [0, 9]}}, objective=loss).objective_mode == "min"
    assert refusal(LR | USE_FPN, objective=loss) == (
        "s.yaml: objective.metric: train/loss cannot be compared between values of model.fpn.use_fpn, "
        "which may change the loss's scale.\nTake val/knn_top1."
    )


@pytest.mark.parametrize("metric", ["val/rankme", "val/feature_std"])
@pytest.mark.parametrize(
    ("key", "values"),
    [("model.embed_dim", [32, 64]), ("loss.type", ["mse", "cosine"]), ("loss.use_vicreg", [True])],
)
def test_a_rank_is_refused_where_something_swept_sets_it(metric: str, key: str, values: list[Any]) -> None:
    assert load(LR, objective={"metric": metric}).config.objective.metric == metric
    message = refusal({key: {"choice": values}}, objective={"metric": metric})
    assert message.startswith(
        f"s.yaml: objective.metric: {metric} cannot be compared between values of {key},"
    )


def test_an_objective_may_be_its_metric_alone() -> None:
    assert (
        load(LR, objective="train/loss").config.objective
        == load(LR, objective={"metric": "train/loss"}).config.objective
    )
    assert refusal(LR, objective="knn_top1").startswith("s.yaml: objective: 'knn_top1' is not allowed")


def test_an_objective_set_beside_the_file_takes_the_whole_of_its_place() -> None:
    load(LR, objective=["val/knn_top1", "time/images_per_s"])
    replaced = load_sweep("s.yaml", overrides=parse_overrides(["objective=train/loss"]))
    assert (replaced.config.objective.metrics, replaced.objective_mode) == (("train/loss",), "min")
    several = load_sweep("s.yaml", overrides=parse_overrides(["objective=[train/loss, val/knn_top1]"]))
    assert several.config.objective.metrics == ("train/loss", "val/knn_top1")


LIDAR = {"evaluation": {"lidar": {"enabled": True}}}
LOSS = {"evaluation": {"val_loss": True}}


def test_an_evaluation_loss_is_refused_where_its_scale_may_change() -> None:
    loss = {"metric": "val/loss"}
    assert load(LR, LOSS, objective=loss).objective_mode == "min"
    for key, value in (("loss.use_vicreg", True), ("model.embed_dim", 32), ("masking.num_masks", 2)):
        assert refusal({key: {"choice": [value]}}, LOSS, objective=loss) == (
            f"s.yaml: objective.metric: val/loss cannot be compared between values of {key}, "
            "which may change the loss's scale.\nTake val/knn_top1."
        )


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        ("model.embed_dim", [32, 64], "which sets the features' width and so the most that it can be"),
        ("data.augmentation.color_jitter", [0.1, 0.4], "which changes the views that it compares"),
        ("data.image_size", [16, 32], "which changes the views that it compares"),
        (
            "loss.type",
            ["mse", "cosine"],
            "each value of which leaves features of a rank and spread of its own, whatever is learnt",
        ),
        (
            "loss.vicreg.weight",
            [0.1, 1.0],
            "which pays the features for the very spread that is measured",
        ),
    ],
)
def test_lidar_is_refused_where_width_views_loss_or_regularizer_vary(
    key: str, values: list[Any], reason: str
) -> None:
    lidar = {"metric": "val/lidar"}
    assert load(LR, LIDAR, objective=lidar).objective_mode == "max"
    assert refusal({key: {"choice": values}}, LIDAR, objective=lidar) == (
        f"s.yaml: objective.metric: val/lidar cannot be compared between values of {key}, {reason}.\n"
        "Take val/knn_top1."
    )


def test_rankme_is_refused_between_widths_for_the_width() -> None:
    message = refusal({"model.embed_dim": {"choice": [32, 64]}}, objective={"metric": "val/rankme"})
    assert "which sets the features' width" in message


@pytest.mark.parametrize(
    ("metric", "reason", "mend"),
    [
        ("val/lidar", "evaluation.lidar.enabled is false", "evaluation.lidar.enabled=true"),
        ("val/loss", "evaluation.val_loss is false", "evaluation.val_loss=true"),
        ("val/knn_top1_k7", "evaluation.knn.k_values lacks 7", "evaluation.knn.k_values=[5,7]"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_with_the_mend(metric: str, reason: str, mend: str) -> None:
    base = {"evaluation": {"knn": {"k_values": [5]}}}
    assert refusal(LR, base, objective={"metric": metric}) == (
        f"s.yaml: objective.metric: {metric} is not measured: {reason} in base.yaml.\nAdd --set {mend}."
    )
    mended = load_sweep("s.yaml", overrides=parse_overrides([mend]))
    assert mended.config.objective.metric == metric


def test_a_number_of_neighbours_that_is_measured_may_be_the_objective() -> None:
    sweep = load(LR, {"evaluation": {"knn": {"k_values": [5]}}}, objective={"metric": "val/knn_top1_k5"})
    assert sweep.objective_mode == "max"
    assert "no run reports val/knn_top1_k05" in refusal(LR, objective={"metric": "val/knn_top1_k05"})


def test_rungs_that_are_not_evaluated_are_refused() -> None:
    base = {"evaluation": {"eval_frequency": 2}}
    scheduler = {"max_epochs": 9, "grace_epochs": 2, "reduction_factor": 2}
    load(LR, base, scheduler=scheduler)
    load(LR, base, scheduler={"type": "fifo"})
    assert refusal(LR, base, scheduler=scheduler | {"grace_epochs": 3}) == (
        "s.yaml: objective.metric: val/knn_top1 is not measured at epoch 3, where ASHA needs it: "
        "evaluation.eval_frequency is 2 in base.yaml.\nAdd --set evaluation.eval_frequency=1."
    )
