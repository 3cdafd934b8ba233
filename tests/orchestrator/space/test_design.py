"""Which trials a design lists, and runs that are one and the same."""

from typing import Any

import pytest

from tests.orchestrator.space.spaces import FUSION, LR, load, refusal

FPN = {
    "model.fpn.use_fpn": {"choice": [True, False]},
    FUSION: {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
}
TYPE = {"loss.type": {"choice": ["smoothl1", "cosine"]}}
ALONE: dict[str, Any] = {"design": "one_at_a_time", "search": {}}


def test_one_at_a_time_changes_the_base_in_one_key_with_what_its_condition_asks_for() -> None:
    sweep = load(FPN | TYPE, **ALONE)
    changes = [
        {key: value for key, value in values.items() if value != own.get(key)}
        for own in [sweep.base_values() or {}]
        for values in sweep.listed or []
    ]
    assert changes == [
        {"model.fpn.use_fpn": True, FUSION: "add"},
        {"model.fpn.use_fpn": True, FUSION: "concat"},
        {"loss.type": "smoothl1"},
        {"loss.type": "cosine"},
    ]
    assert sweep.num_trials == 4


def test_one_at_a_time_takes_the_bases_value_in() -> None:
    sweep = load(TYPE, **ALONE)
    assert sweep.config.space["loss.type"].choice == ("mse", "smoothl1", "cosine")
    assert sweep.base_values() == {"loss.type": "mse"}
    assert "needs a list of values" in refusal(LR, **ALONE)
    assert "with the base's 4 in it" in refusal(
        {"model.depth": {"randint": [1, 3]}}, {"model": {"depth": 4}}, **ALONE
    )


def test_one_at_a_time_needs_a_base_that_its_derived_values_agree_with() -> None:
    heads = {"model.num_heads": {"choice": [2, 4]}}
    derived = {"model.embed_dim": "16 * model.num_heads"}
    agreeing = load(heads, {"model": {"embed_dim": 64, "num_heads": 4}}, derived=derived, **ALONE)
    assert agreeing.listed == [{"model.num_heads": 2}]
    assert "one_at_a_time compares with the base, which model.embed_dim would have otherwise" in refusal(
        heads, {"model": {"embed_dim": 32, "num_heads": 4}}, derived=derived, **ALONE
    )


def test_factorial_is_the_grid_without_the_base() -> None:
    by_design = load(FPN | TYPE, design="factorial", search={})
    by_algorithm = load(FPN | TYPE, search={"algorithm": "grid"})
    assert by_design.listed == by_algorithm.listed
    assert by_design.num_trials == 6
    whole = load(FPN, search={"algorithm": "grid"})
    assert len(list(whole.grid())) == 3
    assert whole.listed == [v for v in whole.grid() if v["model.fpn.use_fpn"]]


def test_a_design_and_an_algorithm_that_do_not_go_together_are_refused() -> None:
    expected = "design factorial lists its trials, and search.algorithm is tpe; write grid, or leave one of"
    assert expected in refusal(TYPE, design="factorial", search={"algorithm": "tpe"})
    assert "design sampled has them proposed, and search.algorithm is grid" in refusal(
        TYPE, design="sampled", search={"algorithm": "grid"}
    )


def test_runs_that_differ_in_keys_without_effect_there_are_the_same_run() -> None:
    sweep = load(FPN)
    off = {"model.fpn.use_fpn": False}
    assert sweep.identity(off) == sweep.identity(off | {FUSION: "concat"}) == sweep.identity({})
    on = {"model.fpn.use_fpn": True}
    assert sweep.identity(on | {FUSION: "add"}) != sweep.identity(on | {FUSION: "concat"})


def test_a_finite_space_is_searched_no_longer_than_it_has_runs() -> None:
    assert load(FPN, search={"num_trials": 50}).num_trials == 2
    assert load(FPN | LR, search={"num_trials": 50}).num_trials == 50


def test_a_space_of_the_base_alone_is_refused() -> None:
    assert refusal({"loss.type": {"choice": ["mse"]}}) == (
        "s.yaml: space: every configuration of it is the base's own."
    )


@pytest.mark.parametrize("design", ["one_at_a_time", "factorial"])
def test_a_design_is_loaded_again_from_its_resolved_file(folder: Any, design: str) -> None:
    from orchestrator.space import load_sweep, to_yaml

    sweep = load(FPN | TYPE, design=design, search={})
    (folder / "sweep.yaml").write_text(sweep.to_yaml())
    (folder / "base.yaml").write_text(to_yaml(sweep.base))
    again = load_sweep("sweep.yaml")
    assert again.fingerprint() == sweep.fingerprint()
    assert again.listed == sweep.listed
