"""A space on top of others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.space import ConfigError, Sweep, load_sweep
from tests.orchestrator.space.spaces import refusal

LOSS = {
    "name": "loss",
    "base": "../base.yaml",
    "space": {
        "loss.type": {"choice": ["mse", "cosine"]},
        "training.lr": {"loguniform": [1e-4, 1e-2]},
        "data.batch_size": {"choice": [32, 64]},
    },
    "constraints": ["training.lr < 0.005"],
    "search": {"num_trials": 9, "seed": 3},
}


@pytest.fixture
def include(folder: Path) -> Any:
    (folder / "lib").mkdir()
    (folder / "lib/loss.yaml").write_text(yaml.safe_dump(LOSS, sort_keys=False))

    def load(**sections: Any) -> Sweep:
        (folder / "s.yaml").write_text(yaml.safe_dump({"include": "lib/loss.yaml"} | sections))
        return load_sweep("s.yaml")

    return load


def test_what_a_file_says_goes_over_what_it_includes(include: Any) -> None:
    sweep = include(
        space={"training.lr": {"uniform": [0.001, 0.01]}, "model.depth": {"choice": [2, 4]}},
        constraints=["training.lr < 0.005", "training.lr * model.depth < 0.02"],
        search={"num_trials": 4},
    )
    assert sweep.config.name == "s"
    assert set(sweep.config.space) == {"loss.type", "training.lr", "data.batch_size", "model.depth"}
    assert sweep.config.space["training.lr"].kind == "uniform"
    assert sweep.config.constraints == ("training.lr < 0.005", "training.lr * model.depth < 0.02")
    assert (sweep.config.search.num_trials, sweep.config.search.seed) == (4, 3)


def test_a_base_stands_relative_to_the_file_that_names_it(include: Any, folder: Path) -> None:
    (folder / "base.yaml").write_text("seed: 5")
    assert include().base.seed == 5


def test_null_takes_an_included_key_out_and_a_swept_one_may_be_derived(include: Any) -> None:
    sweep = include(space={"loss.type": None}, derived={"training.lr": "data.batch_size / 1e4"})
    assert list(sweep.config.space) == ["data.batch_size"]
    assert list(sweep.config.derived) == ["training.lr"]


def test_null_that_takes_nothing_out_is_refused(include: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        include(space={"training.lrr": None})
    assert str(caught.value) == (
        "s.yaml: space.training.lrr: is null, which takes an included key out, and none is there."
    )


def test_the_resolved_file_stands_alone(include: Any, folder: Path) -> None:
    sweep = include()
    assert "include" not in sweep.to_yaml()
    (folder / "lib/loss.yaml").unlink()
    (folder / "sweep.yaml").write_text(sweep.to_yaml())
    assert load_sweep("sweep.yaml").definition()["sweep"]["space"] == sweep.definition()["sweep"]["space"]


def test_several_files_are_included_in_their_order(include: Any, folder: Path) -> None:
    (folder / "lib/optim.yaml").write_text("space: {training.lr: {choice: [0.001, 0.008]}}")
    assert include(include=["lib/loss.yaml", "lib/optim.yaml"]).config.space["training.lr"].kind == "choice"
    assert (
        include(include=["lib/optim.yaml", "lib/loss.yaml"]).config.space["training.lr"].kind == "loguniform"
    )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("s.yaml", "s.yaml: include: files include one another in a circle: s.yaml -> s.yaml."),
        ("lib/los.yaml", "s.yaml: include: lib/los.yaml: no such file. Nearest: lib/loss.yaml."),
        (
            "lib/child.yaml",
            "lib/child.yaml: extends: no such config key; a search space has `include` in its",
        ),
        ([3], "s.yaml: include: 3 is not allowed: must be a path, or a list of them."),
        (
            "lib/none.yaml",
            "lib/none.yaml: space: 3 is not allowed: input should be a map, {key: value}.\n"
            "lib/none.yaml: derived: [] is not allowed: input should be a map, {key: value}.",
        ),
        (
            "lib/back.yaml",
            "s.yaml: include: files include one another in a circle: s.yaml -> back.yaml -> s.yaml.",
        ),
    ],
)
def test_an_include_that_cannot_be_is_refused(include: Any, folder: Path, wanted: Any, expected: str) -> None:
    (folder / "lib/child.yaml").write_text("extends: ../base.yaml")
    (folder / "lib/back.yaml").write_text("include: ../s.yaml")
    (folder / "lib/none.yaml").write_text("base: ../base.yaml\nspace: 3\nderived: []")
    with pytest.raises(ConfigError) as caught:
        include(include=wanted)
    assert str(caught.value).startswith(expected)


def test_a_slip_in_the_word_include_is_told() -> None:
    assert "\nNearest: include. Keys at the top: base, " in refusal({}, inclde="lib/loss.yaml")


def test_a_mistake_names_the_file_that_it_stands_in(include: Any, folder: Path) -> None:
    (folder / "lib/loss.yaml").write_text("search: {num_trials: many}")
    with pytest.raises(ConfigError, match=r"^lib/loss\.yaml: search\.num_trials: 'many' is not allowed"):
        include(base="base.yaml", space={"loss.type": {"choice": ["mse", "cosine"]}})
