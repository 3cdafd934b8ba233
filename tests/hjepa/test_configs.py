"""The configs that come with the project: what they hold, how they are found, and that each one runs."""

import re
from pathlib import Path

import pytest

from hjepa.catalog import FIELDS, FOLDERS, REPLACED, ROOT, Entry, entries, find_config
from hjepa.config import RunConfig
from hjepa.docs import pages
from hjepa.schema import ConfigError, inert_reason

# The configs that the audit of the predecessor lists.
AUDITED = [
    "cjepa_example",
    "cpu_cifar10",
    "default",
    "foundation_model_cifar_stl",
    "foundation_model_mini",
    "fpn_concat_example",
    "fpn_example",
    "imagenet100_multi_dataset",
    "m1_max_full_100epoch",
    "m1_max_full_20epoch",
    "m1_max_imagenet100_100epoch",
    "m1_max_quick_val",
    "overnight_safe",
    "overnight_training_conservative",
    "pure_ijepa",
    "quick_validation",
    "rope_experiment",
    "small_experiment",
    "validation_test",
]

ENTRIES = {entry.name: entry for entry in entries()}


@pytest.fixture(params=list(ENTRIES.values()), ids=list(ENTRIES))
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


def value_of(config: RunConfig, key: str) -> object:
    value: object = config.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def parent_of(entry: Entry) -> RunConfig:
    if entry.extends is None:
        return RunConfig()
    return next(other.config for other in ENTRIES.values() if other.path.as_posix() == entry.extends)


# What they hold


def test_every_audited_name_is_there():
    assert set(AUDITED) <= set(ENTRIES)


def test_names_are_unique_so_that_a_bare_one_is_enough():
    files = [path for folder in FOLDERS for path in (ROOT / "configs" / folder).glob("*.yaml")]
    assert len({path.stem for path in files}) == len(files)


def test_every_folder_is_in_the_index():
    assert {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()} == set(FOLDERS)


def test_a_config_holds_only_what_differs_from_its_parent(entry: Entry):
    parent = parent_of(entry)
    same = [key for key in entry.own if value_of(entry.config, key) == value_of(parent, key)]
    assert not same


def test_a_config_sets_nothing_that_has_no_effect_in_it(entry: Entry):
    assert {key: reason for key in entry.own if (reason := inert_reason(entry.config, key))} == {}


def test_a_head_says_what_a_reader_asks(entry: Entry):
    assert tuple(field for field in entry.head if field != REPLACED) == FIELDS
    assert all(text.endswith(".") for field, text in entry.head.items() if field != REPLACED)


def test_a_head_promises_no_accuracy_and_no_duration(entry: Entry):
    text = " ".join(entry.head.values())
    assert not re.search(r"accura|faster|\b\d+ ?(hours?|minutes?|h|min)\b|expected", text)


def test_names_in_a_head_are_configs_or_keys(entry: Entry):
    text = " ".join(entry.head.values())
    named = re.findall(r"\b(?:core|quick|m1_max|foundation|features|archive)/\w+(?:\.yaml)?", text)
    assert all((ROOT / "configs" / f"{name.removesuffix('.yaml')}.yaml").exists() for name in named)
    for word in re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", re.sub(r"\b\w+(?:\.\w+)+\b", "", text)):
        assert word in ENTRIES or word in FOLDERS or word in {"search_spaces", "batch_size"}, word


def test_what_is_replaced_extends_its_replacement(entry: Entry):
    if REPLACED in entry.head:
        assert entry.extends == entry.head[REPLACED]
        assert set(entry.own) <= {"device"}


def test_paths_are_relative_and_not_below_tmp(entry: Entry):
    text = (ROOT / "configs" / entry.path).read_text(encoding="utf-8")
    assert not re.search(r"(?m)(?:path|dir|list): *[\"']?(/|~|\./)", text)
    assert "/tmp" not in text


def test_no_account_of_weights_and_biases_is_named_and_none_is_needed(entry: Entry):
    assert entry.config.logging.wandb.entity is None
    assert not entry.config.logging.wandb.enabled


def test_imagenet_100_has_its_hundred_classes():
    lines = (ROOT / "configs" / "imagenet100_classes.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert len(set(names)) == len(names) == 100
    assert names == sorted(names)
    assert all(re.fullmatch(r"n\d{8}", name) for name in names)


# The pages written from them


@pytest.mark.parametrize("path", ["configs/canonical.yaml", "configs/README.md", "docs/parameters.md"])
def test_a_page_is_the_one_that_the_code_writes(path: str):
    written = (ROOT / path).read_text(encoding="utf-8")
    assert written == pages()[Path(path)], "write it again: make docs"


# How they are found


@pytest.mark.parametrize("name", AUDITED)
def test_an_audited_name_is_found_bare_and_where_it_lay(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = ROOT / "configs" / ENTRIES[name].path
    assert find_config(name) == find_config(f"configs/{name}.yaml") == expected


def test_the_configs_of_the_working_folder_come_first(tmp_path: Path, monkeypatch):
    (tmp_path / "configs/core").mkdir(parents=True)
    (tmp_path / "configs/core/default.yaml").write_text("seed: 1")
    monkeypatch.chdir(tmp_path)
    assert find_config("default") == Path("configs/core/default.yaml")


def test_a_file_of_that_name_comes_before_a_config(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("default").write_text("seed: 1")
    assert find_config("default") == Path("default")


def test_a_path_elsewhere_is_left_to_the_loader():
    assert find_config("elsewhere/default.yaml") == Path("elsewhere/default.yaml")
    assert find_config("elsewhere/default") == Path("elsewhere/default")
    assert find_config("default.yaml") == Path("default.yaml")


def test_a_bare_name_that_is_none_says_the_nearest():
    with pytest.raises(ConfigError) as caught:
        find_config("quik_validation")
    assert str(caught.value) == (
        "quik_validation: no such file, and no config of that name below configs/. Nearest: quick_validation."
    )
