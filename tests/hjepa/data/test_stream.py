"""Images over the budget: decoded by real worker processes, with the numbers of the cached path."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from hjepa.config import RunConfig
from hjepa.data import DataConfig, load_data, load_test
from hjepa.data.decode import decode_square
from hjepa.data.stream import Streamed
from hjepa.judge import evaluation_loss
from hjepa.run import build_run
from hjepa.schema import ConfigError, to_yaml
from hjepa.train import train_run
from tests.hjepa.data.formats import write_cifar10, write_image_folder, write_stl10

Tiny = Callable[..., RunConfig]
OVER = {"cache_budget_gb": 1e-9, "num_workers": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 20), ("val", 5)):
        write_image_folder(tmp_path / "images" / part, count)
    return tmp_path / "images"


def config(folder: Path, **changed: Any) -> DataConfig:
    given = {"dataset": "imagefolder", "data_path": str(folder), "stored_size": 12}
    return DataConfig.model_validate({**given, "cache_dir": str(folder.parent / "cache"), **changed})


def workers() -> list[psutil.Process]:
    """Processes that decode. Their fork server stays; what else this process has started is not theirs."""
    server = forkserver._forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue]
    return psutil.Process(server).children() if server else []


def test_over_the_budget_nothing_is_written_and_everything_is_the_same(folder: Path):
    streamed, cached = load_data(config(folder, **OVER)), load_data(config(folder, num_workers=1))
    assert isinstance(streamed.train.stored_MCHW, Streamed)
    assert isinstance(cached.train.stored_MCHW, np.ndarray)
    for name in ("train", "val", "bank"):
        one, other = getattr(streamed, name), getattr(cached, name)
        every = np.arange(len(one))
        np.testing.assert_array_equal(one.images(every), other.images(every))
        np.testing.assert_array_equal(one.labels_N, other.labels_N)
    np.testing.assert_array_equal(streamed.mean_C, cached.mean_C)
    np.testing.assert_array_equal(streamed.std_C, cached.std_C)
    test = load_test(config(folder, **OVER))
    np.testing.assert_array_equal(test.images(np.arange(15)), load_test(config(folder)).images(np.arange(15)))


def test_streaming_alone_writes_no_cache(folder: Path):
    load_data(config(folder, **OVER)).train.images(np.arange(3))
    assert not (folder.parent / "cache").exists()


def test_batches_announced_come_from_worker_processes_in_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    train = load_data(config(folder, **OVER)).train
    whole = train.images(np.arange(len(train)))
    batches = np.split(np.random.default_rng(0).permutation(len(train))[:40], [33, 35])
    with train.ahead(batches):
        # From here on this process decodes nothing.
        monkeypatch.setattr("hjepa.data.decode.decode_square", None)
        for batch in batches:
            np.testing.assert_array_equal(train.images(batch), whole[batch])
        assert len(workers()) == 2
    assert workers() == []


def test_what_was_not_announced_comes_all_the_same(folder: Path):
    train = load_data(config(folder, **OVER)).train
    whole = train.images(np.arange(len(train)))
    with train.ahead([np.arange(4), np.arange(4, 8)]):
        np.testing.assert_array_equal(train.images(np.array([9, 3])), whole[[9, 3]])
        np.testing.assert_array_equal(train.images(np.arange(4)), whole[:4])
    np.testing.assert_array_equal(train.images(np.arange(4, 8)), whole[4:8])


def test_streaming_draws_no_random_numbers(folder: Path):
    train = load_data(config(folder, **OVER)).train
    before = torch.get_rng_state()
    with train.ahead([np.arange(4)]):
        train.images(np.arange(4))
    assert torch.equal(before, torch.get_rng_state())


def tiny_run(tiny: Tiny, folder: Path, **changed: Any) -> RunConfig:
    data = config(folder, batch_size=10, image_size=8, **changed)
    keys = ("dataset", "data_path", "stored_size", "cache_dir", "batch_size", "max_bad", *OVER)
    return tiny({f"data.{key}": getattr(data, key) for key in keys} | {"training.epochs": 2})


def test_a_streamed_run_is_a_cached_run_to_the_bit(tiny: Tiny, folder: Path):
    found = []
    for changed in (OVER, {}):
        run = build_run(tiny_run(tiny, folder, **changed))
        reports = [report.metrics for report in train_run(run)]
        kept = [{k: v for k, v in m.items() if not k.startswith("time/")} for m in reports]
        found.append((run.model.state_dict(), kept))
    (weights, reports), (expected, expected_reports) = found
    assert reports == expected_reports
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_the_loss_on_evaluation_images_is_of_what_workers_decode_ahead(
    tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = evaluation_loss(build_run(tiny_run(tiny, folder)))
    run = build_run(tiny_run(tiny, folder, **OVER))
    monkeypatch.setattr("hjepa.data.decode.decode_square", None)
    assert evaluation_loss(run) == expected


def test_a_closed_run_leaves_no_worker(tiny: Tiny, folder: Path):
    reports = train_run(build_run(tiny_run(tiny, folder, **OVER)))
    next(reports)
    reports.close()
    assert workers() == []


def deaf_to(process: psutil.Process) -> set[int]:
    """The signals that it blocks or ignores."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(line.split(":\t") for line in status.splitlines())
    mask = int(fields["SigBlk"], 16) | int(fields["SigIgn"], 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_epoch_leaves_no_process(
    tiny: Tiny, folder: Path, tmp_path: Path, number: signal.Signals
):
    endless = tiny_run(tiny, folder, **OVER)
    training = endless.training.model_copy(update={"epochs": 100_000})
    logging = endless.logging.model_copy(update={"log_dir": str(tmp_path / "run")})
    endless = endless.model_copy(update={"training": training, "logging": logging})
    (tmp_path / "run.yaml").write_text(to_yaml(endless))
    with subprocess.Popen(
        [sys.executable, "-m", "hjepa", "run.yaml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        told = ""
        while "epoch 1/" not in told:
            told += process.stdout.readline()
            assert process.poll() is None, process.communicate()[1]
        assert (
            "imagefolder: 30 training images; 2.6e-05 GB decoded, more than is left of data.cache_budget_gb "
            "1e-09: decoded when drawn, by 2 worker processes"
        ) in told
        below = psutil.Process(process.pid).children(recursive=True)
        assert below
        # The workers' server, and the tracker of their resources; workers come and go.
        lasting = psutil.Process(process.pid).children()
        assert all({signal.SIGINT, signal.SIGTERM} <= deaf_to(one) for one in lasting)
        # As a terminal and a scheduler do: to the workers too.
        os.killpg(process.pid, number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    _, left = psutil.wait_procs(below, timeout=10)
    assert left == []


def test_a_killed_run_leaves_no_process(tiny: Tiny, folder: Path, tmp_path: Path):
    code = (
        "import sys, time, numpy as np\n"
        "from hjepa.config import load_config\n"
        "from hjepa.data import load_data\n"
        "if __name__ == '__main__':\n"
        "    train = load_data(load_config(sys.argv[1]).data).train\n"
        "    with train.ahead([np.arange(10)] * 1000):\n"
        "        train.images(np.arange(10))\n"
        "        print('started', flush=True)\n"
        "        time.sleep(100)\n"
    )
    (tmp_path / "hold.py").write_text(code)
    (tmp_path / "run.yaml").write_text(to_yaml(tiny_run(tiny, folder, **OVER)))
    with subprocess.Popen(
        [sys.executable, "hold.py", "run.yaml"], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 3
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(below, timeout=20)
    assert left == []


# What fits


def test_data_sets_fit_in_the_order_in_which_they_are_listed(tmp_path: Path):
    write_stl10(tmp_path / "stl10_binary")
    write_image_folder(tmp_path / "images" / "train")
    write_cifar10(tmp_path / "cifar")
    sets = {
        "images": {"name": "images", "dataset": "imagefolder", "path": str(tmp_path / "images")},
        "stl10": {"name": "stl10", "path": str(tmp_path)},
        "cifar10": {"name": "cifar10", "path": str(tmp_path / "cifar")},
    }

    def streamed(*names: str, budget_gb: float) -> list[str]:
        data = load_data(
            DataConfig.model_validate(
                {
                    "use_multi_dataset": True, "datasets": [sets[name] for name in names], "num_workers": 1,
                    "cache_budget_gb": budget_gb, "stored_size": 100, "cache_dir": str(tmp_path / "cache"),
                }
            )
        )  # fmt: skip
        for place in data.places:
            assert ("worker process" in place.reason) == bool(place.num_workers)
        return [place.name for place in data.places if place.num_workers]

    # 60 images of 30 kB, 40 of 28 kB, 100 of 3 kB.
    assert streamed("images", "stl10", "cifar10", budget_gb=3.3e-3) == []
    assert streamed("images", "stl10", "cifar10", budget_gb=2e-3) == ["stl10"]
    assert streamed("stl10", "images", "cifar10", budget_gb=2e-3) == ["images"]
    assert streamed("cifar10", "images", budget_gb=1e-9) == ["images"]


def test_sets_streamed_and_kept_are_mixed_with_the_numbers_of_sets_kept(tmp_path: Path):
    write_image_folder(tmp_path / "images" / "train")
    write_cifar10(tmp_path / "cifar")

    def loaded(**changed: Any) -> Any:
        sets = [
            {"name": "images", "dataset": "imagefolder", "path": str(tmp_path / "images"), "weight": 2.0},
            {"name": "cifar10", "path": str(tmp_path / "cifar")},
        ]
        given = {"use_multi_dataset": True, "datasets": sets, "stored_size": 40, **changed}
        return load_data(DataConfig.model_validate({**given, "cache_dir": str(tmp_path / "cache")}))

    streamed, kept = loaded(**OVER), loaded()
    torch.manual_seed(0)
    batches = np.split(streamed.mixture.order(60), [40])
    with streamed.train.ahead(batches):
        for batch in batches:
            np.testing.assert_array_equal(streamed.train.images(batch), kept.train.images(batch))
    np.testing.assert_array_equal(streamed.mean_C, kept.mean_C)
    np.testing.assert_array_equal(streamed.train.labels_N, kept.train.labels_N)


# Bad images


def test_a_bad_streamed_image_is_named_counted_and_replaced_by_one_of_its_class(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    bad = folder / "train" / "bee" / "03.png"
    bad.write_bytes(b"")
    data = load_data(config(folder, max_bad=1, **OVER))
    files = sorted((folder / "train" / "bee").iterdir())
    train = data.train
    stored = np.flatnonzero(train.indices_N == 20 + 3)
    if len(stored) == 0:  # held out
        train = data.val
        stored = np.flatnonzero(train.indices_N == 20 + 3)
    after = next(int(i) for i in train.indices_N if i > 23)
    for _ in range(2):
        image = train.images(stored)[0]
        np.testing.assert_array_equal(image, decode_square(files[after - 20], 12))
    assert data.bad == 1
    assert [message for message in caplog.messages if str(bad) in message] == [
        f"skipped {bad}: it is no image of a known kind"
    ]


def test_one_bad_streamed_image_too_many_ends_it(folder: Path):
    # Both are learnt from, so the statistics see them.
    for name in ("00.png", "01.JPEG"):
        (folder / "train" / "cow" / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 1 is not enough, 2 or more images of train"):
        load_data(config(folder, max_bad=1, **OVER))


def test_a_class_of_bad_images_alone_is_an_error(folder: Path):
    for file in (folder / "train" / "cow").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"of the class of .*cow.* no image can be decoded"):
        load_data(config(folder, max_bad=100, **OVER))


def test_a_run_records_how_many_images_were_bad(tiny: Tiny, folder: Path):
    (folder / "train" / "bee" / "03.png").write_bytes(b"")
    run = build_run(tiny_run(tiny, folder, max_bad=1))
    assert run.data.bad == 1
    assert next(train_run(run)).metrics["data/bad_images"] == 1
