"""What a valid space proposes, and the run configs that this makes."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hjepa.schema import inert_reason
from orchestrator.space import Sweep, load_sweep, parse_overrides, to_yaml
from tests.orchestrator.space.spaces import CHOICES, FPN, LR, USE_FPN, drawn, fpn, load, refusal


def test_a_trial_is_the_base_with_its_values_at_the_schedulers_length() -> None:
    config = fpn().resolve({"model.fpn.use_fpn": True, "model.fpn.fusion_method": "concat"})
    assert config.model.fpn.fusion_method == "concat"
    assert config.training.epochs == 27
    assert config.threads == 2


def test_conditions_stand_before_what_depends_on_them_and_values_as_the_schema_has_them() -> None:
    space = fpn().config.space
    assert list(space)[:2] == ["model.fpn.use_fpn", "model.fpn.fusion_method"]
    assert space["loss.hierarchy_weights"].choice == ([1.0, 0.5, 0.25], [1.0, 1.0, 1.0])


def test_name_length_and_mode_are_taken_from_file_base_and_metric() -> None:
    sweep = load(LR, {"training": {"epochs": 7}})
    assert sweep.config.name == "s"
    assert sweep.config.scheduler.max_epochs == sweep.max_epochs == 7
    assert sweep.config.objective.mode == sweep.objective_mode == "max"


def test_command_line_goes_over_the_file() -> None:
    Path("other.yaml").write_text("model: {depth: 3}")
    overrides = parse_overrides(["scheduler.max_epochs=9", "model.embed_dim=32"])
    sweep = fpn(base="other.yaml", overrides=overrides, trials=2)
    assert (sweep.num_trials, sweep.max_epochs) == (2, 9)
    assert (sweep.base.model.depth, sweep.base.model.embed_dim) == (3, 32)


def test_base_is_found_relative_to_the_space_file() -> None:
    Path("spaces").mkdir()
    Path("base.yaml").write_text("seed: 5")
    Path("spaces/fpn.yaml").write_text(FPN.replace("base.yaml", "../base.yaml"))
    assert load_sweep("spaces/fpn.yaml").base.seed == 5


def test_rungs_are_a_factor_apart_and_short_of_the_end() -> None:
    assert fpn().rungs == [3, 9]
    assert load(LR, scheduler={"type": "fifo", "max_epochs": 27}).rungs == []


def test_grid_has_every_combination_once_without_inactive_keys() -> None:
    space = USE_FPN | {
        "model.fpn.fusion_method": {"grid_search": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
        "training.warmup_epochs": {"quniform": [0.1, 0.3, 0.1]},
    }
    sweep = load(space, search={"algorithm": "grid"})
    found = list(sweep.grid())
    assert len(found) == len({json.dumps(v) for v in found}) == sweep.num_trials == 9
    assert found == list(sweep.grid())
    assert [v for v in found if not v["model.fpn.use_fpn"]] == [
        {"model.fpn.use_fpn": False, "training.warmup_epochs": q} for q in (0.1, 0.2, 0.3)
    ]


def test_num_trials_is_an_upper_limit_for_a_grid() -> None:
    assert load(USE_FPN, search={"algorithm": "grid", "num_trials": 1}).num_trials == 1
    assert (
        load(USE_FPN, search={"algorithm": "grid", "num_trials": 9}).num_trials == 1
    )  # the other is the base


def test_list_choices_are_optuna_categories_by_their_json() -> None:
    sweep = fpn()
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    values = sweep.suggest(trial)
    assert trial.params["loss.hierarchy_weights"] in ("[1.0, 0.5, 0.25]", "[1.0, 1.0, 1.0]")
    assert json.loads(trial.params["loss.hierarchy_weights"]) == values["loss.hierarchy_weights"]
    assert sweep.params(values) == trial.params
    assert sweep.labels(values)["training.lr"] == json.dumps(values["training.lr"])


def test_values_of_a_flip_probability_are_told_apart_from_true() -> None:
    sweep = load({"data.augmentation.horizontal_flip": {"choice": [True, 1.0]}})
    values = [v["data.augmentation.horizontal_flip"] for v in drawn(sweep, 0, 20)]
    assert {type(v) for v in values} == {bool, float}


@pytest.mark.parametrize(
    ("distribution", "allowed"),
    [
        ({"randint": [2, 4]}, {2, 3}),
        ({"lograndint": [1, 3]}, {1, 2}),
        ({"choice": [2, 8]}, {2, 8}),
    ],
)
def test_integers_exclude_the_upper_end_as_in_tune(distribution: dict[str, Any], allowed: set[int]) -> None:
    sweep = load({"model.depth": distribution})
    assert {v["model.depth"] for v in drawn(sweep, 0, 40)} == allowed


def test_quniform_gives_exact_multiples() -> None:
    sweep = load({"training.weight_decay": {"quniform": [0.1, 0.7, 0.1]}})
    found = {v["training.weight_decay"] for v in drawn(sweep, 0, 100)}
    assert found == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}


def test_base_values_come_back_from_an_enqueued_trial() -> None:
    sweep = fpn(overrides={"model.fpn.use_fpn": True})
    values = sweep.base_values() or {}
    assert values == {
        "model.fpn.use_fpn": True,
        "model.fpn.fusion_method": "add",
        "loss.hierarchy_weights": [1.0, 0.5, 0.25],
        "training.lr": 1e-3,
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(sweep.params(values))
    assert sweep.suggest(study.ask()) == values
    assert sweep.resolve(values) == sweep.base


def test_base_outside_the_space_has_no_values() -> None:
    assert fpn(overrides={"training.lr": 0.1}).base_values() is None


def test_fingerprint_is_of_what_changes_results() -> None:
    same = fpn().fingerprint()
    assert same == fpn().fingerprint()
    assert same == fpn(trials=99).fingerprint()
    overrides = {"resources.concurrency": 2, "resources.max_failures": 9, "device": "cpu"}
    assert same == fpn(overrides=overrides).fingerprint()
    assert same == fpn(FPN.replace("[1, 1, 1]", "[1.0, 1.0, 1.0]")).fingerprint()
    different = [
        fpn(overrides={key: value}).fingerprint()
        for key, value in {"name": "x", "search.seed": 1, "seed": 1, "scheduler.max_epochs": 9}.items()
    ]
    different.append(fpn(FPN.replace("3e-3", "4e-3")).fingerprint())
    assert len({same, *different}) == 6


def test_the_resolved_file_beside_its_base_is_the_same_sweep(folder: Path) -> None:
    sweep = fpn(overrides={"model.depth": 3, "resources.concurrency": 2})
    (folder / "results").mkdir()
    Path("results/sweep.yaml").write_text(sweep.to_yaml())
    Path("results/base.yaml").write_text(to_yaml(sweep.base))
    again = load_sweep("results/sweep.yaml")
    assert again.definition() == json.loads(json.dumps(sweep.definition()))
    assert again.fingerprint() == sweep.fingerprint()


def test_importing_takes_neither_ray_nor_optuna_nor_mlflow() -> None:
    code = "import sys, orchestrator.space; print({'ray', 'optuna', 'mlflow'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


RANGES = {
    "training.lr": {"loguniform": [1e-4, 1e-2]},
    "training.warmup_epochs": {"uniform": [0.0, 5.0]},
    "training.warmup_lr_ratio": {"uniform": [0.0, 0.5]},
    "model.depth": {"randint": [1, 4]},
    "model.predictor.depth": {"lograndint": [1, 4], "when": {"model.depth": [2, 3]}},
}
ALL_CHOICES = {key: CHOICES[key] for key in CHOICES if "hierarch" not in key}


@cache
def loaded(space: str) -> Sweep:
    return load(ALL_CHOICES if space == "choices" else ALL_CHOICES | RANGES)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), space=st.sampled_from(["choices", "ranges"]))
def test_every_draw_is_a_valid_run_in_which_every_active_key_matters(seed: int, space: str) -> None:
    sweep = loaded(space)
    (values,) = drawn(sweep, seed)
    config = sweep.resolve(values)
    assert [key for key in values if inert_reason(config, key)] == []
    assert json.loads(json.dumps(values)) == values
    if space == "choices":
        assert values in list(sweep.grid())


def test_a_large_space_is_checked_by_pairs() -> None:
    # Each key alone and 3^10 combinations at large are fine; one pair of values is not.
    wide = {f"training.{key}": {"uniform": [0.1, 0.9]} for key in ("weight_decay", "warmup_lr_ratio")}
    wide |= {"model.predictor.depth": {"choice": [1, 2, 3, 4]}, "masking.num_masks": {"choice": [1, 2, 3, 4]}}
    wide |= {"masking.num_context_masks": {"choice": [1, 2, 3, 4]}, "seed": {"choice": list(range(40))}}
    load(wide | {"model.embed_dim": {"choice": [48, 64]}, "model.num_heads": {"choice": [4, 8]}})
    message = refusal(
        wide | {"model.embed_dim": {"choice": [64, 72]}, "model.num_heads": {"choice": [4, 16]}}
    )
    assert message == (
        "s.yaml: space.model.num_heads: model.embed_dim = 72, model.num_heads = 16 makes no valid config: "
        "embed_dim 72 is no multiple of num_heads 16.\n"
        "Keep them apart with when: {model.embed_dim: 64} here."
    )
