"""Several data sets at once: shares, one stored size, classes, statistics and the keys of each."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hjepa.cli import main
from hjepa.config import RunConfig
from hjepa.data import DataConfig, check_data, load_data, load_test
from hjepa.data.mixture import Mixture, Share, apportioned
from hjepa.run import build_run
from hjepa.schema import ConfigError, Layers, inert_reason, to_yaml
from hjepa.train import train_run
from tests.hjepa.data.formats import write_cifar10, write_image_folder, write_stl10

Tiny = Callable[..., RunConfig]
CIFAR, STL = {"name": "cifar10", "weight": 0.75}, {"name": "stl10", "weight": 0.25}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with the public folders of several sets, as old configs have it."""
    found = tmp_path_factory.mktemp("several") / "data"
    write_cifar10(found / "cifar-10-batches-bin")
    write_stl10(found / "stl10_binary")
    write_image_folder(found / "animals" / "train")
    return found


def config(root: Path, *datasets: dict[str, Any], **changed: Any) -> DataConfig:
    layers = Layers()
    given = {"use_multi_dataset": True, "datasets": list(datasets), "data_path": str(root)}
    layers.add({**given, "cache_dir": str(root.parent / "cache"), **changed}, "file.yaml")
    return layers.build(DataConfig, "file.yaml")


# What is drawn


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    images=st.lists(st.integers(1, 40), min_size=5, max_size=5),
    count=st.integers(1, 150),
)
def test_the_drawn_share_is_the_weight_to_within_one_image(
    weights: list[float], images: list[int], count: int
):
    shares, first = [], 0
    for position, weight in enumerate(weights):
        shares.append(Share(str(position), first, images[position], weight / sum(weights)))
        first += images[position]
    mixture = Mixture(tuple(shares), every_image_once=False)
    order = mixture.order(count)
    drawn = mixture.drawn(order)
    assert sum(drawn.values()) == count == len(order)
    for share in shares:
        assert abs(drawn[share.name] - share.share * count) < 1
        times = Counter(order[(order >= share.first) & (order < share.first + share.images)].tolist())
        most, least = max(times.values(), default=0), min(times.values(), default=0)
        assert most - (least if len(times) == share.images else 0) <= 1


def test_seats_go_to_the_largest_remainders():
    # The example of en.wikipedia.org/wiki/Quota_method, with the Hare quota.
    votes = np.array([47_000, 16_000, 15_900, 12_000, 6_000, 3_100]) / 100_000
    assert apportioned(votes.tolist(), 10) == [5, 2, 1, 1, 1, 0]
    assert apportioned([1 / 3] * 3, 100) == [34, 33, 33]


def test_each_strategy_draws_its_shares(root: Path):
    def drawn(strategy: str) -> dict[str, int]:
        mixture = load_data(config(root, CIFAR, STL, sampling_strategy=strategy)).mixture
        return mixture.drawn(mixture.order(100))

    assert drawn("weighted") == {"cifar10": 75, "stl10": 25}
    assert drawn("balanced") == {"cifar10": 50, "stl10": 50}
    data = load_data(config(root, CIFAR, STL, sampling_strategy="concat"))
    assert sorted(data.mixture.order(len(data.train))) == list(range(len(data.train)))


def test_draws_come_from_the_global_generator_and_differ_by_epoch(root: Path):
    mixture = load_data(config(root, CIFAR, STL)).mixture
    torch.manual_seed(0)
    first, second = mixture.order(90), mixture.order(90)
    torch.manual_seed(0)
    np.testing.assert_array_equal(mixture.order(90), first)
    assert (first != second).any()


def test_one_data_set_is_drawn_as_without_the_mixture(root: Path):
    data = load_data(config(root, CIFAR))
    torch.manual_seed(3)
    order = data.mixture.order(50)
    torch.manual_seed(3)
    np.testing.assert_array_equal(order, torch.randperm(len(data.train)).numpy()[:50])


# Images


def test_smaller_images_come_in_the_size_of_the_largest_and_in_the_order_asked_for(root: Path):
    data = load_data(config(root, CIFAR, STL))
    alone = {name: load_data(one).train for name, one in config(root, CIFAR, STL).sets().items()}
    assert data.train.stored_MCHW.shape[1:] == (3, 96, 96)
    stl = data.mixture.shares[1]
    found = data.train.images(np.array([stl.first + 3, 5, stl.first, 0]))
    np.testing.assert_array_equal(found[[0, 2]], alone["stl10"].images(np.array([3, 0])))
    for image, small in zip(found[[1, 3]], alone["cifar10"].images(np.array([5, 0])), strict=True):
        expected = Image.fromarray(small.transpose(1, 2, 0)).resize((96, 96), Image.Resampling.BILINEAR)
        assert np.abs(image - np.asarray(expected, np.int64).transpose(2, 0, 1)).max() <= 1


def test_an_image_is_the_same_whatever_else_is_in_the_batch(root: Path):
    train = load_data(config(root, CIFAR, STL)).train
    whole = train.images(np.arange(len(train)))
    for chosen in ([0], [len(train) - 1, 2], [100, 0, 70]):
        np.testing.assert_array_equal(train.images(np.array(chosen)), whole[chosen])


def test_mean_and_std_are_those_of_the_drawn_pixels(root: Path):
    data = load_data(config(root, CIFAR, STL, sampling_strategy="balanced"))
    sets = [load_data(one).train for one in config(root, CIFAR, STL).sets().values()]
    pixels = [
        split.images(np.arange(len(split))).transpose(1, 0, 2, 3).reshape(3, -1) / 255 for split in sets
    ]
    mean = sum(p.mean(1) for p in pixels) / 2
    square = sum((p**2).mean(1) for p in pixels) / 2
    np.testing.assert_allclose(data.mean_C, mean, rtol=1e-5)
    np.testing.assert_allclose(data.std_C, np.sqrt(square - mean**2), rtol=1e-5)


def test_classes_of_different_sets_are_distinct_and_evaluation_is_on_the_named_one(root: Path):
    data = load_data(config(root, CIFAR, {**STL, "unlabeled": True}, evaluate_on="stl10"))
    assert set(data.train.labels_N) == {-1, *range(20)}
    assert set(data.bank.labels_N) == set(data.val.labels_N) == set(range(10))
    stl = load_data(config(root, CIFAR, STL).sets()["stl10"])
    np.testing.assert_array_equal(data.val.images(np.arange(10)), stl.val.images(np.arange(10)))
    assert len(load_test(config(root, CIFAR, STL, evaluate_on="stl10"))) == 40
    first = load_test(config(root, CIFAR, STL))
    assert len(first) == 20
    assert first.images(np.arange(2)).shape == (2, 3, 96, 96)


def test_what_is_evaluated_on_does_not_change_what_is_learnt_from(root: Path):
    one, other = (load_data(config(root, CIFAR, STL, evaluate_on=name)) for name in ("cifar10", "stl10"))
    np.testing.assert_array_equal(one.train.indices_N, other.train.indices_N)
    assert not set(one.train.indices_N) & {*one.val.indices_N, *other.val.indices_N}


def test_a_set_may_have_a_name_a_kind_and_a_path_of_its_own(root: Path):
    animals = {"name": "animals", "dataset": "imagefolder", "path": str(root / "animals")}
    (root.parent / "list").write_text("ant\ncow\n")
    fewer = {**animals, "name": "fewer", "class_list": str(root.parent / "list")}
    data = load_data(config(root, animals, fewer, stored_size=12, sampling_strategy="concat"))
    assert [share.images for share in data.mixture.shares] == [45, 30]
    assert set(data.train.labels_N) == {0, 1, 2, 3, 4}


# Runs


def small(root: Path, **changed: Any) -> dict[str, Any]:
    sets = [CIFAR, {**STL, "path": str(root)}]
    dotted = {
        "use_multi_dataset": True,
        "datasets": sets,
        "data_path": str(root),
        "batch_size": 20,
        **changed,
    }
    return {f"data.{key}": value for key, value in dotted.items()}


def test_every_epoch_records_how_many_of_each_set_were_drawn(tiny: Tiny, root: Path):
    run = build_run(tiny({**small(root), "training.epochs": 2}))
    reports = [report.metrics for report in train_run(run)]
    # 50 + 20 training images, in steps of 20.
    assert [(m["data/cifar10_images"], m["data/stl10_images"]) for m in reports] == [(45, 15)] * 2
    quiet = build_run(tiny({**small(root), "logging.log_dataset_distribution": False}))
    assert not any(name.startswith("data/") for name in next(train_run(quiet)).metrics)


def test_the_command_prints_each_set_its_share_and_where_its_images_are(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = {
        **small(root), "data.image_size": 32, "data.cache_dir": str(tmp_path / "cache"), "training.epochs": 1,
        "training.warmup_epochs": 0, "model.depth": 1, "model.embed_dim": 16, "model.num_heads": 2,
        "model.patch_size": 8, "logging.log_dir": str(tmp_path / "run"), "device": "cpu",
    }  # fmt: skip
    layers = Layers()
    for key, value in settings.items():
        layers.set(key, value, "test")
    (tmp_path / "run.yaml").write_text(to_yaml(layers.build(RunConfig, "test")))
    assert main([str(tmp_path / "run.yaml"), "--test"]) == 0
    told = capsys.readouterr().out
    assert "cifar10: 80 training images, 75.0% of the draws; 0.000307 GB decoded, kept in" in told
    assert "stl10: 30 training images, 25.0% of the draws" in told
    assert " evaluation images (cifar10), " in told
    assert "(test set, cifar10)" in told


# Mistakes


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([], r"^file\.yaml: datasets must list at least one"),
        ([CIFAR, CIFAR], "datasets has two of the name cifar10"),
        ([{"name": "cifar"}], r"^file\.yaml: datasets\[0\]: name cifar is no known data set; .* cifar100"),
        (
            [CIFAR, {"name": "stl10", "wieght": 1}],
            r"^file\.yaml: datasets\[1\]\.wieght: no such key; nearest: weight; one of name, dataset, path, ",
        ),
        (
            [{"name": "stl10", "data_path": "x"}],
            r"datasets\[0\]\.data_path: no such key; nearest: path; one of",
        ),
        ([CIFAR, {"weight": 1}], r"^file\.yaml: datasets\[1\]\.name: must be given"),
        (
            [{**CIFAR, "weight": 0}],
            r"datasets\[0\]\.weight: 0 is not allowed: input should be greater than 0",
        ),
        ([{**CIFAR, "name": "a/b", "dataset": "digits"}], r"datasets\[0\]\.name: 'a/b' is not allowed"),
        (3, r"^file\.yaml: datasets: 3 is not allowed"),
    ],
)
def test_a_list_that_does_not_fit_is_one_message_with_the_place(root: Path, datasets: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        config(root, datasets=datasets)


def test_evaluation_on_a_set_that_is_not_listed_is_refused(root: Path):
    with pytest.raises(ConfigError, match="evaluate_on is digits, datasets has cifar10, stl10"):
        config(root, CIFAR, STL, evaluate_on="digits")


def test_files_that_are_not_there_name_the_set_and_its_key(root: Path):
    with pytest.raises(ConfigError, match=r"^data\.datasets\[1\]\.path: .*no' does not exist") as raised:
        check_data(config(root, CIFAR, {**STL, "path": str(root / "no")}))
    assert str(raised.value).endswith("(the data set stl10)")
    with pytest.raises(ConfigError, match=r"^data\.data_path: .*no' does not exist"):
        check_data(config(root, CIFAR, data_path=str(root / "no")))


def test_keys_of_one_set_are_inert_with_several_and_the_other_way_round(root: Path):
    both = config(root, {**CIFAR, "path": str(root)}, {**STL, "path": str(root)})
    for key in ("dataset", "data_path", "class_list", "unlabeled"):
        assert inert_reason(both, key), key
    assert inert_reason(config(root, CIFAR, STL), "data_path") is None
    for key in ("datasets", "sampling_strategy", "evaluate_on"):
        assert inert_reason(both, key) is None
        assert inert_reason(DataConfig(), key) == "use_multi_dataset is false"
    assert inert_reason(config(root, CIFAR), "sampling_strategy") == "datasets has one set"
