"""Files, sections and overrides that are refused, and what is told."""

from typing import Any

import pytest

from orchestrator.space import ConfigError, load_sweep, parse_overrides
from tests.orchestrator.space.spaces import FPN, LR, fpn, refusal


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


def test_a_base_may_be_a_config_that_comes_with_the_project() -> None:
    fpn()
    assert load_sweep("fpn.yaml", base="digits").base.data.dataset == "digits"
    with pytest.raises(ConfigError, match=r"no config of that name below configs/\. Nearest: digits\."):
        load_sweep("fpn.yaml", base="digit")


def test_a_missing_base_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--base: nowhere\.yaml: no such file\."):
        fpn(base="nowhere.yaml")
    with pytest.raises(ConfigError, match=r"^fpn\.yaml: base: nowhere\.yaml: no such file\."):
        fpn(FPN.replace("base.yaml", "nowhere.yaml"))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"serach": {}},
            "s.yaml: serach: no such config key.\nNearest: search. Keys at the top: base, confirm,",
        ),
        ({"confirm": {"top_k": -1}}, "s.yaml: confirm.top_k: -1 is not allowed"),
        ({"name": "../up"}, "s.yaml: name: '../up' is not allowed: string should match pattern"),
        (
            {"search": {"num_trials": 0}},
            "s.yaml: search.num_trials: 0 is not allowed: input should be greater",
        ),
        (
            {"search": {"algorithm": "pbt"}},
            "s.yaml: search.algorithm: 'pbt' is not allowed: input should be 'gp'",
        ),
        (
            {"search": {}},
            "s.yaml: search.num_trials: must be given with search.algorithm gp, here or as --trials.",
        ),
        (
            {"resources": {"workers": 2, "engine": "actor"}},
            "s.yaml: resources: engine actor runs a trial in one process, and workers is 2; allowed: engine",
        ),
        ({"resources": {"cpus_per_worker": 0}}, "s.yaml: resources.cpus_per_worker: 0 is not allowed: input"),
        (
            {"resources": {"engine": "local"}},
            "s.yaml: resources.engine: 'local' is not allowed: input should be",
        ),
        (
            {"scheduler": {"max_epochs": 3, "grace_epochs": 4}},
            "s.yaml: scheduler: grace_epochs 4 is more than max_epochs 3.",
        ),
        (
            {"scheduler": {"max_epochs": 9, "grace_epochs": 1, "brackets": 3}},
            "s.yaml: scheduler.brackets: 3 is more than there are rungs, 2 (at 1, 3 of 9 epochs); "
            "allowed: 1 to 2, or null for as many.",
        ),
        (
            {"scheduler": {"grace_epochs": 30}},
            "s.yaml (training.epochs of base.yaml): scheduler: grace_epochs 30 is more than max_epochs 20.",
        ),
        (
            {"objective": {"metric": "val/knn"}},
            "s.yaml: objective.metric: 'val/knn' is not allowed: no run reports val/knn; nearest: ",
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
