"""A run's config: rules across keys, what a user is told, and the canonical file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hjepa.config import RunConfig, load_config
from hjepa.schema import ConfigError, annotated_yaml, inert_reason, leaves, nearest_key, to_yaml

ROOT = Path(__file__).parents[2]
CANONICAL = ROOT / "configs" / "canonical.yaml"
WRITE = (
    "python -c 'from hjepa import RunConfig; from hjepa.schema import annotated_yaml; "
    'print(annotated_yaml(RunConfig()), end="")\' > configs/canonical.yaml'
)


def refusal(folder: Path, overrides: dict[str, Any] | None = None, **files: str) -> str:
    """What is said of the first file, by the names of the files alone."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(folder / f"{next(iter(files))}.yaml", overrides)
    return str(caught.value).replace(f"{folder}/", "")


# The canonical file


def test_the_canonical_file_is_the_one_that_the_schema_writes():
    assert CANONICAL.read_text(encoding="utf-8") == annotated_yaml(RunConfig()), f"write it again: {WRITE}"


def test_the_canonical_file_is_the_default_run():
    assert load_config(CANONICAL) == RunConfig()


def test_the_canonical_file_sets_every_key_and_comments_on_each():
    lines = CANONICAL.read_text(encoding="utf-8").splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r" *\w+:", line)]
    assert all(lines[i - 1].lstrip().startswith("# ") for i in keys)
    found = {lines[i].split(":")[0].strip() for i in keys}
    assert {part for key, _ in leaves(RunConfig) for part in key.split(".")} == found


def test_every_key_says_what_it_means():
    for key, field in leaves(RunConfig):
        assert field.description, key
        assert field.description.rstrip().endswith("."), key


def test_a_config_written_and_loaded_is_the_same(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(
        "training: {lr: 1e-5, betas: [0.8, 0.99]}\nmodel: {ema: {momentum: 0.5}}"
    )
    config = load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "b.yaml") == config
    assert config.training.lr == 1e-5


def test_an_empty_file_is_the_default_run(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("")
    assert load_config(tmp_path / "a.yaml") == RunConfig()


# What a user is told


def test_an_unknown_key_is_told_with_file_nearest_and_siblings(tmp_path: Path):
    assert refusal(tmp_path, a="model: {fpn: {fusion_methd: add}}") == (
        "a.yaml: model.fpn.fusion_methd: no such config key.\n"
        "Nearest: model.fpn.fusion_method. Keys under model.fpn: feature_dim, fusion_method, use_fpn."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {lr: 0}", "a.yaml: training.lr: 0 is not allowed: input should be greater than 0."),
        (
            "loss: {type: l2}",
            "a.yaml: loss.type: 'l2' is not allowed: input should be 'mse', 'smoothl1', 'huber' or 'cosine'.",
        ),
        (
            "training: {warmup_epochs: 30}",
            "a.yaml: training: warmup_epochs 30 is more than epochs 20.",
        ),
        (
            "model: {num_hierarchies: 2}",
            "a.yaml: loss.hierarchy_weights has 3 weights, [1.0, 0.5, 0.25], but model.num_hierarchies is 2; "
            "give one weight per level.",
        ),
        (
            "data: {image_size: 15}",
            "a.yaml: data.image_size 15 is no multiple of the patch size 2 "
            "(model.patch_size, or model.encoder_type's).",
        ),
        (
            "data: {image_size: 4}",
            "a.yaml: data.image_size 4 over model.patch_size 2 gives a grid of 2 x 2, too small for "
            "model.num_hierarchies 3; the least side is 4.",
        ),
        (
            "data: {image_size: 4096}",
            "a.yaml: data.image_size 4096 over model.patch_size 2 gives a grid of 2048 x 2048; "
            "at most 1024 x 1024 are allowed.",
        ),
        ("masking: {min_keep: 64}", "a.yaml: masking.min_keep 64 leaves nothing of 64 patches."),
        (
            "data: {augmentation: {crop_scale: [0.5, 0.2]}}",
            "a.yaml: data.augmentation.crop_scale: [0.5, 0.2] is not allowed: must be [smallest, largest] "
            "with 0 < smallest <= largest <= 1.",
        ),
        (
            "data: {augmentation: {horizontal_flip: 'yes'}}",
            "a.yaml: data.augmentation.horizontal_flip: 'yes' is not allowed: input should be a valid "
            "boolean or a valid number.",
        ),
        (
            "model: {encoder_type: vit_tiny_patch16_244}",
            "a.yaml: model: encoder_type 'vit_tiny_patch16_244' is neither 'vit' nor a model that timm "
            "knows; nearest: vit_tiny_patch16_224.",
        ),
    ],
)
def test_a_mistake_is_told_with_file_key_value_and_what_is_allowed(tmp_path: Path, text: str, message: str):
    assert refusal(tmp_path, a=text) == message


@pytest.mark.parametrize(
    "key",
    ["depth", "mlp_ratio", "embed_dim", "predictor.depth", "predictor.mlp_ratio", "predictor.embed_dim"],
)
def test_a_model_that_no_machine_holds_is_refused_before_it_is_laid_out(tmp_path: Path, key: str):
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(ConfigError, match=f"model.{key}: .* input should be less than or equal to "):
        load_config(tmp_path / "a.yaml", {f"model.{key}": 10**20})


def test_a_rule_across_keys_names_the_file_that_set_the_last_of_them(tmp_path: Path):
    child, parent = "extends: parent.yaml\nseed: 1", "training: {epochs: 3, warmup_epochs: 5}"
    assert refusal(tmp_path, child=child, parent=parent) == (
        "parent.yaml: training: warmup_epochs 5 is more than epochs 3."
    )
    parent = "model: {num_hierarchies: 2}"
    assert refusal(tmp_path, child=child, parent=parent).startswith(
        "parent.yaml: loss.hierarchy_weights has 3"
    )
    child = "extends: parent.yaml\nloss: {hierarchy_weights: [1.0]}"
    assert refusal(tmp_path, child=child, parent=parent).startswith(
        "child.yaml: loss.hierarchy_weights has 1"
    )
    overrides = {"loss.hierarchy_weights": [1.0]}
    assert refusal(tmp_path, overrides, parent=parent).startswith(
        "--set loss.hierarchy_weights: loss.hierarchy_weights has 1"
    )


def test_an_override_is_blamed_on_set(tmp_path: Path):
    assert refusal(tmp_path, {"training.lr": -1}, a="") == (
        "--set training.lr: training.lr: -1 is not allowed: input should be greater than 0."
    )
    assert refusal(tmp_path, {"training.lrr": 1}, a="").startswith(
        "--set training.lrr: training.lrr: no such config key.\nNearest: training.lr."
    )


# Rules that hold


@pytest.mark.parametrize(
    "overrides",
    [
        {"data.image_size": 8},
        {
            "data.image_size": 4,
            "model.num_hierarchies": 1,
            "loss.hierarchy_weights": [1],
            "masking.min_keep": 1,
        },
        {"model.num_hierarchies": 4, "loss.hierarchy_weights": [1, 0, 0, 0]},
        {"training.warmup_epochs": 20},
        {"data.image_size": 224, "model.encoder_type": "vit_small_patch16_224"},
    ],
    ids=str,
)
def test_configs_at_the_edge_of_the_rules_are_accepted(tmp_path: Path, overrides: dict[str, Any]):
    (tmp_path / "a.yaml").write_text("")
    load_config(tmp_path / "a.yaml", overrides)


def test_momentum_is_inert_where_its_rise_takes_no_time(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("model: {ema: {momentum_warmup_epochs: 0}}")
    assert inert_reason(load_config(tmp_path / "a.yaml"), "model.ema.momentum")
    assert inert_reason(RunConfig(), "model.ema.momentum") is None


@pytest.mark.parametrize("flip", ["false", "1.0"])
def test_lidar_of_views_that_are_all_the_same_is_refused(tmp_path: Path, flip: str):
    text = f"evaluation: {{lidar: {{enabled: true}}}}\ndata: {{augmentation: {{horizontal_flip: {flip}}}}}\n"
    varied = tmp_path / "varied.yaml"
    varied.write_text(text)
    assert load_config(varied).evaluation.lidar.enabled
    message = refusal(tmp_path, {"data.augmentation.random_crop": False}, a=text)
    assert "makes them all the same" in message


@pytest.mark.parametrize("key", ["threads", "data.num_workers"])
def test_more_threads_than_any_machine_starts_are_refused(tiny: Callable[..., RunConfig], key: str):
    with pytest.raises(
        ConfigError, match=rf"{key}: 1099511627776 is not allowed: .* less than or equal to 1024"
    ):
        tiny({key: 1099511627776})


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("training.batch_size", "data.batch_size"),
        ("optimizer.lr", "training.lr"),
        ("training.seed", "seed"),
        ("loss.beta", "loss.smoothl1.beta"),
        ("model.fpn.enabled", "model.fpn.feature_dim"),
        ("training.wieght_decay", "training.weight_decay"),
    ],
)
def test_a_name_in_the_wrong_section_is_nearer_than_another_name_in_that_section(slip: str, meant: str):
    assert nearest_key(RunConfig, slip).startswith(f"Nearest: {meant}. ")
