import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hjepa.schema import inert_reason
from orchestrator.space import ConfigError, Sweep, load_sweep, parse_overrides, to_yaml

FPN = """
name: fpn
base: base.yaml
objective: {metric: val/knn_top1, mode: max}
space:
  model.fpn.fusion_method:  {choice: [add, concat], when: {model.fpn.use_fpn: true}}
  model.fpn.use_fpn:        {choice: [true, false]}
  loss.hierarchy_weights:   {choice: [[1.0, 0.5, 0.25], [1, 1, 1]]}
  training.lr:              {loguniform: [1e-4, 3e-3]}
search:    {algorithm: tpe, num_trials: 24, seed: 0}
scheduler: {type: asha, max_epochs: 27, grace_epochs: 3, reduction_factor: 3}
resources: {workers: 1, cpus_per_worker: 2, gpus_per_worker: 0}
"""
USE_FPN = {"model.fpn.use_fpn": {"choice": [True, False]}}
LR = {"training.lr": {"loguniform": [1e-4, 1e-2]}}
EMPTY: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("")
    return tmp_path


def load(space: Any, base: dict[str, Any] = EMPTY, **sections: Any) -> Sweep:
    """The sweep of a file s.yaml with this space on base.yaml."""
    Path("base.yaml").write_text(yaml.safe_dump(base))
    sections = {"base": "base.yaml", "search": {"num_trials": 4}} | sections
    Path("s.yaml").write_text(yaml.safe_dump(sections | {"space": space}, sort_keys=False))
    return load_sweep("s.yaml")


def refusal(space: Any, base: dict[str, Any] = EMPTY, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(space, base, **sections)
    return str(caught.value)


def fpn(text: str = FPN, **arguments: Any) -> Sweep:
    Path("fpn.yaml").write_text(text)
    return load_sweep("fpn.yaml", **arguments)


def drawn(sweep: Sweep, seed: int, trials: int = 1) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [sweep.suggest(study.ask()) for _ in range(trials)]


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


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
    assert load(USE_FPN, search={"algorithm": "grid", "num_trials": 9}).num_trials == 2


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
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


CHOICES = {
    "model.fpn.use_fpn": {"choice": [True, False]},
    "model.fpn.fusion_method": {"choice": ["add", "concat"], "when": {"model.fpn.use_fpn": True}},
    "model.num_hierarchies": {"choice": [2, 3]},
    "loss.hierarchy_weights": {
        "choice": [[1.0, 0.5, 0.25], [1.0, 1.0, 1.0]],
        "when": {"model.num_hierarchies": 3},
    },
    "loss.type": {"choice": ["mse", "smoothl1", "cosine"]},
    "loss.smoothl1.beta": {"choice": [0.5, 1.0], "when": {"loss.type": "smoothl1"}},
    "loss.normalize_embeddings": {"choice": [False, True], "when": {"loss.type": ["mse", "smoothl1"]}},
}
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


def test_an_unknown_config_key_is_named_with_the_nearest_and_its_siblings() -> None:
    message = refusal({"model.fpn.fusion_methd": {"choice": ["add", "concat"]}})
    assert message == (
        "s.yaml: space.model.fpn.fusion_methd: no such config key.\n"
        "Nearest: model.fpn.fusion_method. Keys under model.fpn: feature_dim, fusion_method, use_fpn."
    )


def test_a_missing_file_is_named_with_the_nearest() -> None:
    fpn()
    with pytest.raises(ConfigError, match=r"^fpm\.yaml: no such file\. Nearest: fpn\.yaml\.$"):
        load_sweep("fpm.yaml")


def test_a_missing_base_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: no such file\."):
        fpn(base="nowhere.yaml")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"serach": {}},
            "s.yaml: serach: no such config key.\nNearest: search. Keys at the top: base, confirm, name,",
        ),
        ({"confirm": {"top_k": -1}}, "s.yaml: confirm.top_k: -1 is not allowed"),
        ({"name": "../up"}, "s.yaml: name: '../up' is not allowed: string should match pattern"),
        (
            {"search": {"num_trials": 0}},
            "s.yaml: search.num_trials: 0 is not allowed: input should be greater",
        ),
        (
            {"search": {"algorithm": "pbt"}},
            "s.yaml: search.algorithm: 'pbt' is not allowed: input should be 'tpe'",
        ),
        (
            {"search": {}},
            "s.yaml: search.num_trials: must be given with search.algorithm tpe, here or as --trials.",
        ),
        (
            {"resources": {"workers": 2}},
            "s.yaml: resources.workers: 2 is not allowed: input should be less than",
        ),
        ({"resources": {"cpus_per_worker": 0}}, "s.yaml: resources.cpus_per_worker: 0 is not allowed: input"),
        (
            {"resources": {"engine": "train"}},
            "s.yaml: resources.engine: 'train' is not allowed: input should be",
        ),
        (
            {"scheduler": {"max_epochs": 3, "grace_epochs": 4}},
            "s.yaml: scheduler: grace_epochs 4 is more than max_epochs 3.",
        ),
        (
            {"scheduler": {"grace_epochs": 30}},
            "s.yaml (training.epochs of base.yaml): scheduler: grace_epochs 30 is more than max_epochs 20.",
        ),
        (
            {"objective": {"metric": "val/knn"}},
            "s.yaml: objective.metric: 'val/knn' is not allowed: no run reports it; nearest: val/knn_top1;",
        ),
        (
            {"objective": {"metric": "time/images_per_s"}},
            "s.yaml: objective.metric: 'time/images_per_s' is not allowed: it says how fast a trial is",
        ),
        (
            {"objective": {"mode": "min"}},
            "s.yaml: objective: mode min would look for the worst trial by val/knn_top1; leave mode out.",
        ),
        (
            {"objective": {"metric": "val/linear_probe_top1"}},
            "s.yaml: objective.metric: val/linear_probe_top1 is not measured: "
            "evaluation.linear_probe.enabled is false in base.yaml.\n"
            "Add --set evaluation.linear_probe.enabled=true.",
        ),
    ],
)
def test_a_section_that_cannot_be_is_refused(sections: dict[str, Any], expected: str) -> None:
    assert refusal(LR, **sections).startswith(expected)


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
            "grid_search needs search.algorithm grid; with tpe write choice.",
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


FUSION = "model.fpn.fusion_method"


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
    assert message.endswith("\nKeep them apart with when:, narrow a range, or leave a value out.")


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


def test_rungs_that_are_not_evaluated_are_refused() -> None:
    base = {"evaluation": {"eval_frequency": 2}}
    scheduler = {"max_epochs": 9, "grace_epochs": 2, "reduction_factor": 2}
    load(LR, base, scheduler=scheduler)
    load(LR, base, scheduler={"type": "fifo"})
    assert refusal(LR, base, scheduler=scheduler | {"grace_epochs": 3}) == (
        "s.yaml: objective.metric: val/knn_top1 is not measured at epoch 3, where ASHA needs it: "
        "evaluation.eval_frequency is 2 in base.yaml.\nAdd --set evaluation.eval_frequency=1."
    )


def test_a_warmup_longer_than_the_trials_is_refused() -> None:
    message = refusal(LR, {"training": {"warmup_epochs": 10}}, scheduler={"max_epochs": 9})
    assert message == "s.yaml: scheduler.max_epochs: training: warmup_epochs 10 is more than epochs 9."


def test_missing_data_is_refused_with_the_name_of_the_base() -> None:
    message = refusal(LR, {"data": {"dataset": "cifar10", "data_path": "nowhere"}})
    assert message.startswith("base.yaml: data.data_path: 'nowhere' ")


def test_a_base_of_several_processes_is_refused() -> None:
    message = refusal(LR, {"distributed": {"enabled": True, "world_size": 2}})
    assert message == (
        "base.yaml: distributed.enabled: how many processes share a trial is resources.workers in a sweep.\n"
        "Add --set distributed.enabled=false."
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=3", "--set training.epochs: is scheduler.max_epochs in a sweep, 27; set that."),
        ("threads=3", "--set threads: is resources.cpus_per_worker in a sweep, 2; set that."),
        ("space.training.lr=1", "--set space.training.lr: a space is changed in its file."),
        ("base=x.yaml", "--set base: write --base FILE."),
        (
            "training.lrr=1",
            "--set training.lrr: training.lrr: no such config key.\nNearest: training.lr. Keys",
        ),
        (
            "scheduler.grace=1",
            "--set scheduler.grace: scheduler.grace: no such config key.\nNearest: scheduler.",
        ),
    ],
)
def test_an_override_that_would_do_nothing_is_refused(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fpn(overrides=parse_overrides([override]))
    assert str(caught.value).startswith(expected)


def test_trials_from_the_command_line_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^--trials: search\.num_trials: 0 is not allowed"):
        fpn(trials=0)


def test_values_that_make_no_config_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        fpn().resolve({"training.warmup_epochs": 99.0})
    assert str(caught.value) == (
        "fpn.yaml: training.warmup_epochs = 99.0 makes no valid config: "
        "warmup_epochs 99 is more than epochs 27."
    )
