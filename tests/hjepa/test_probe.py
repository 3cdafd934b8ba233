"""The linear probe, on the run's own images and on another data set's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hjepa import RunConfig, train
from hjepa.data.cifar import CIFAR10, IMAGE_BYTES
from hjepa.evaluate import EvaluationConfig
from hjepa.judge import probe_features
from hjepa.probe import LinearProbeConfig, linear_probe_accuracy
from hjepa.run import build_run
from hjepa.schema import ConfigError, inert_reason

Tiny = Callable[..., RunConfig]

PROBE = LinearProbeConfig(enabled=True, epochs=20, batch_size=32)
ON = {"evaluation.linear_probe.enabled": True, "evaluation.linear_probe.epochs": 5}


def clusters(count: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy points around five fixed directions in 8-D, and their classes."""
    centres = torch.randn(5, 8, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, 8, generator=generator), labels


def test_a_probe_learns_what_is_linearly_separable():
    train, val = clusters(300, 0.2, seed=1), clusters(100, 0.2, seed=2)
    assert linear_probe_accuracy(*train, *val, PROBE, seed=0) == 1.0


def test_a_probe_does_not_depend_on_the_scale_of_features():
    (train, train_labels), (val, val_labels) = clusters(300, 1.0, seed=1), clusters(100, 1.0, seed=2)
    here = linear_probe_accuracy(train, train_labels, val, val_labels, PROBE, seed=0)
    scaled = linear_probe_accuracy(100 * train, train_labels, 100 * val, val_labels, PROBE, seed=0)
    assert scaled == pytest.approx(here, abs=0.02)


def test_a_probe_is_the_same_for_the_same_seed_whatever_the_global_generator():
    train, val = clusters(300, 2.0, seed=1), clusters(100, 2.0, seed=2)
    torch.manual_seed(0)
    first = linear_probe_accuracy(*train, *val, PROBE, seed=5)
    torch.manual_seed(1)
    assert linear_probe_accuracy(*train, *val, PROBE, seed=5) == first


def test_a_probe_leaves_the_global_generator_as_it_was():
    train, val = clusters(65, 1.0, seed=1), clusters(20, 1.0, seed=2)
    before = torch.get_rng_state()
    linear_probe_accuracy(*train, *val, PROBE, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_probe_trains_on_features_made_without_grad(mode):
    with mode():
        train, val = clusters(300, 0.2, seed=1), clusters(100, 0.2, seed=2)
        assert linear_probe_accuracy(*train, *val, PROBE, seed=0) == 1.0


def test_a_probe_passes_over_a_last_batch_of_one():
    train, val = clusters(33, 0.2, seed=1), clusters(20, 0.2, seed=2)
    assert linear_probe_accuracy(*train, *val, PROBE, seed=0) > 0.8


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_one_step_is_enough_to_standardise_as_all_training_features_are(scale: float):
    config = LinearProbeConfig(enabled=True, epochs=1, batch_size=300, lr=1.0)
    (train, train_labels), (val, val_labels) = clusters(300, 0.2, seed=1), clusters(100, 0.2, seed=2)
    far = 5.0  # a mean that a classifier without it takes for a class
    features = scale * (train + far), train_labels, scale * (val + far), val_labels
    assert linear_probe_accuracy(*features, config, seed=0) == 1.0


def test_a_feature_that_is_the_same_for_all_images_does_not_matter():
    (train, train_labels), (val, val_labels) = clusters(300, 1.0, seed=1), clusters(100, 1.0, seed=2)
    train[:, 3], val[:, 3] = 0.1, 0.1
    found = linear_probe_accuracy(train, train_labels, val, val_labels, PROBE, seed=0)
    train[:, 3], val[:, 3] = 0.0, 0.0
    assert linear_probe_accuracy(train, train_labels, val, val_labels, PROBE, seed=0) == found


def test_keys_of_a_probe_that_is_off_cannot_matter():
    assert inert_reason(EvaluationConfig(), "linear_probe.lr") == "linear_probe.enabled is false"
    assert inert_reason(EvaluationConfig(linear_probe=PROBE), "linear_probe.lr") is None
    assert inert_reason(EvaluationConfig(), "linear_probe.enabled") is None


# On another data set


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200 images of CIFAR-10's format whose class is how bright they are."""
    folder, random = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for batch in CIFAR10.train + CIFAR10.test:
        rows = random.integers(0, 30, (40, 1 + IMAGE_BYTES), dtype=np.uint8)
        rows[:, 0] = np.arange(40) % 10
        rows[:, 1:] += 22 * rows[:, :1]
        (folder / f"{batch}.bin").write_bytes(rows.tobytes())
    return str(folder)


def elsewhere(path: str, **more: Any) -> dict[str, Any]:
    named = {"dataset": "cifar10", "data_path": path, **more}
    return ON | {f"evaluation.linear_probe.{name}": value for name, value in named.items()}


def probed(config: RunConfig) -> float:
    (report,) = train(config)
    return report.metrics["val/linear_probe_top1"]


def test_a_probe_on_another_data_set_takes_its_images_size_split_and_classes(tiny: Tiny, cifar10: str):
    run = build_run(tiny(elsewhere(cifar10)))
    assert run.probe_data is not None
    assert (len(run.probe_data.bank), len(run.probe_data.val)) == (100, 100)  # data.val_fraction is 0.5
    bank_ND, labels_N, val_MD, labels_M = probe_features(run, run.probe_data)
    assert bank_ND.shape == val_MD.shape == (100, 16)
    assert torch.equal(labels_N.bincount(), torch.full((10,), 10))
    images = torch.from_numpy(run.probe_data.val.images(np.arange(4)))
    # Normalised by the run's statistics, those of digits.
    seen = run.augment.plain(images)
    assert seen.shape == (4, 3, 8, 8)
    scaled = torch.nn.functional.interpolate(images.float() / 255, 8, mode="bilinear", antialias=True)
    expected = (scaled - torch.tensor(run.data.mean_C)[:, None, None]) / torch.tensor(run.data.std_C)[
        :, None, None
    ]
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(val_MD[:4], run.model.features(expected))
    assert labels_M[:4].tolist() == run.probe_data.val.labels_N[:4].tolist()


def test_a_probe_on_another_data_set_learns_its_classes_not_the_runs(tiny: Tiny, cifar10: str):
    one = ON | {"evaluation.linear_probe.epochs": 30, "training.epochs": 1}
    there = probed(tiny(one | {**elsewhere(cifar10), "evaluation.linear_probe.epochs": 30}))
    assert there > 0.5  # by chance 0.1
    assert there != probed(tiny(one))


def test_everything_but_the_probe_is_as_without_another_data_set(tiny: Tiny, cifar10: str):
    (here,), (there,) = train(tiny(ON)), train(tiny(elsewhere(cifar10)))
    drop = ("val/linear_probe_top1", "time/images_per_s", "time/epoch_s", "time/data_wait")
    assert {k: v for k, v in here.metrics.items() if k not in drop} == {
        k: v for k, v in there.metrics.items() if k not in drop
    }


@pytest.mark.parametrize(
    "named",
    [{"dataset": "digits"}, {"dataset": "digits", "data_path": "anywhere"}, {"data_path": "anywhere"}],
)
def test_the_runs_own_data_set_by_name_is_the_runs_own(tiny: Tiny, named: dict[str, str]):
    config = tiny(ON | {f"evaluation.linear_probe.{name}": value for name, value in named.items()})
    assert config.probe_data is config.data
    assert build_run(config).probe_data is None


def test_the_same_data_set_takes_the_runs_folder_or_another(tiny: Tiny, cifar10: str):
    data = {"data.dataset": "cifar10", "data.data_path": cifar10, "data.batch_size": 50}
    same = tiny(data | ON | {"evaluation.linear_probe.dataset": "cifar10"})
    assert same.probe_data is same.data
    other = tiny(data | ON | {"evaluation.linear_probe.data_path": "elsewhere"})
    assert (other.probe_data.dataset, other.probe_data.data_path) == ("cifar10", "elsewhere")
    digits = tiny(data | ON | {"evaluation.linear_probe.dataset": "digits"})
    assert digits.probe_data.dataset == "digits"
    assert build_run(digits).probe_data is not None


def test_a_probe_is_on_the_mixture_unless_a_data_set_is_named(tiny: Tiny):
    sets = [{"name": name, "path": name, "dataset": "imagefolder"} for name in ("one", "two")]
    mixture = {"data.dataset": "imagefolder", "data.use_multi_dataset": True, "data.datasets": sets}
    config = tiny(mixture | ON)
    assert config.probe_data is config.data
    named = tiny(mixture | elsewhere("three", dataset="imagefolder")).probe_data
    assert (named.dataset, named.data_path, named.use_multi_dataset) == ("imagefolder", "three", False)
    assert not tiny(mixture | ON | {"evaluation.linear_probe.dataset": "digits"}).probe_data.use_multi_dataset
    with pytest.raises(ConfigError, match=r"data_path must name the folder"):
        tiny(mixture | ON | {"evaluation.linear_probe.dataset": "imagefolder"})
    for dataset in ({}, {"data.dataset": "digits"}):
        with pytest.raises(ConfigError, match=r"three is a folder of which .*linear_probe\.dataset"):
            tiny(mixture | dataset | ON | {"evaluation.linear_probe.data_path": "three"})


def test_what_belongs_to_the_runs_kind_of_files_is_not_taken_to_another(tiny: Tiny):
    data = {
        "data.dataset": "imagefolder",
        "data.data_path": "one",
        "data.class_list": "list",
        "data.stored_size": 9,
    }
    same = tiny(data | ON | {"evaluation.linear_probe.data_path": "two"}).probe_data
    assert (same.data_path, same.class_list, same.stored_size) == ("two", "list", 9)
    other = tiny(data | elsewhere("two", dataset="imagenet")).probe_data
    assert (other.data_path, other.class_list, other.stored_size) == ("two", None, None)
    assert other.image_size == 8


def test_another_data_set_needs_its_folder(tiny: Tiny):
    named = {"evaluation.linear_probe.dataset": "cifar10"}
    with pytest.raises(ConfigError, match=r"linear_probe\.data_path must name the folder"):
        tiny(ON | named)
    assert tiny(named).evaluation.linear_probe.dataset == "cifar10"  # nothing is probed


def test_a_subset_of_its_own_is_refused(tiny: Tiny):
    with pytest.raises(ConfigError, match=r"class_list of its own; give imagefolder"):
        tiny(elsewhere("anywhere", dataset="imagenet100"))


@pytest.mark.parametrize("make", [False, True])
def test_missing_files_are_told_before_training_by_the_probes_key(tiny: Tiny, tmp_path: Path, make: bool):
    folder = tmp_path / "there"
    if make:
        folder.mkdir()
    with pytest.raises(ConfigError, match=r"^evaluation\.linear_probe\.data_path: '.*there'") as told:
        build_run(tiny(elsewhere(str(folder))))
    assert "set evaluation.linear_probe.data_path to the folder" in str(told.value)
    assert " data.data_path" not in str(told.value)


def test_damaged_files_are_told_by_the_probes_key(tiny: Tiny, cifar10: str, tmp_path: Path):
    for file in Path(cifar10).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"^evaluation\.linear_probe\.data_path: .*data_batch_1"):
        build_run(tiny(elsewhere(str(tmp_path))))
