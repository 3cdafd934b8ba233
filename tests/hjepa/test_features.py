"""A run's features as a function of images, apart from the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hjepa.config import RunConfig
from hjepa.features import WEIGHTS, Features, write_features
from hjepa.judge import split_features
from hjepa.run import build_run
from hjepa.schema import ConfigError
from hjepa.train import train

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize("use_amp", [False, True])
def test_the_function_gives_what_the_runs_own_evaluation_sees(tiny: Tiny, tmp_path: Path, use_amp: bool):
    config = tiny({"training.use_amp": use_amp})
    (report,) = train(config)
    report.save(tmp_path / "last.pt")
    run = build_run(config)
    run.load(tmp_path / "last.pt")
    example = write_features(config, tmp_path / "last.pt", tmp_path / "model")
    seen_MD = split_features(run, run.data.val, run.model.features).numpy()
    images_MCHW = run.data.val.images(np.arange(len(run.data.val)))
    features_MD = Features.load(tmp_path / "model").predict(images_MCHW)
    np.testing.assert_allclose(features_MD, seen_MD, rtol=0, atol=1e-2 if use_amp else 1e-5)
    with np.load(example, allow_pickle=False) as told:
        assert (told["images"] == images_MCHW[:2]).all()
        np.testing.assert_allclose(told["features"], seen_MD[:2], rtol=0, atol=1e-2 if use_amp else 1e-5)


def test_a_torn_file_is_refused_in_words(tiny: Tiny, tmp_path: Path):
    (tmp_path / WEIGHTS).write_bytes(b"half of it")
    with pytest.raises(ConfigError, match=r"features\.pt: not a readable checkpoint"):
        Features.load(tmp_path)


@pytest.fixture(scope="module")
def function(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Features:
    folder = tmp_path_factory.mktemp("features")
    build_run(tiny()).save(folder / "start.pt")
    write_features(tiny(), folder / "start.pt", folder / "model")
    return Features.load(folder / "model")


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(12, 20), (21, 12)])
def test_of_an_image_that_is_not_square_the_middle_counts(function: Features, height: int, width: int):
    images = pixels(2, 3, height, width)
    top, left = (height - 12) // 2, (width - 12) // 2
    middle = images[:, :, top : top + 12, left : left + 12]
    np.testing.assert_array_equal(function.predict(images), function.predict(middle))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_pixels_may_be_whole_numbers_or_shares(function: Features, kind: type):
    images = pixels(2, 3, 12, 12)
    given = images.astype(kind) if kind is np.int64 else images.astype(kind) / 255
    np.testing.assert_array_equal(function.predict(given), function.predict(images))


def test_no_images_have_no_features(function: Features):
    found = function.predict(np.empty((0, 3, 12, 12), np.uint8))
    assert (found.shape, found.dtype) == ((0, 16), np.float32)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.full((1, 3, 8, 8), 200.0), "pixels of float64 must be from 0 to 1"),
        (np.full((1, 3, 8, 8), np.nan), "pixels of float64 must be from 0 to 1"),
        (np.full((1, 3, 8, 8), 256), "pixels of int64 must be from 0 to 255"),
        (np.zeros((8, 8, 3), np.uint8), r"must be \(N, 3, height, width\), got shape \(8, 8, 3\)"),
    ],
)
def test_what_are_no_images_is_refused(function: Features, images: np.ndarray, told: str):
    with pytest.raises(ValueError, match=told):
        function.predict(images)
