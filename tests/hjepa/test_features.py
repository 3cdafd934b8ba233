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
