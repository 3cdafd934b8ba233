"""Image folders whose first epoch draws while threads decode: real files, threads and processes."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hjepa.config import RunConfig
from hjepa.data import Data, DataConfig, load_data
from hjepa.data.decode import Skipped, decode_square
from hjepa.data.filling import Filling
from hjepa.data.imagefolder import find
from hjepa.data.loaded import load_one, load_part
from hjepa.pace import measure_pace
from hjepa.run import build_run
from hjepa.schema import ConfigError
from hjepa.train import train_run
from tests.hjepa.data.formats import write_image_folder

Tiny = Callable[..., RunConfig]
forks = pytest.mark.skipif(sys.platform == "darwin", reason="macOS forks no process with threads safely")
IMAGES, SAMPLE = 60, 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 images, of which 8 and those of a batch are decoded before the first step."""
    for module in ("loaded", "dataset"):
        monkeypatch.setattr(f"hjepa.data.{module}.STATISTICS_IMAGES", SAMPLE)
    write_image_folder(tmp_path / "images" / "train", IMAGES // 3)
    return tmp_path / "images"


def config(folder: Path, **changed: Any) -> DataConfig:
    given = {"dataset": "imagefolder", "data_path": str(folder), "stored_size": 12, "num_workers": 2}
    return DataConfig.model_validate({**given, "cache_dir": str(folder.parent / "cache"), **changed})


def cache(folder: Path) -> Path:
    return folder.parent / "cache"


def anew(config: DataConfig) -> Data:
    """As a new process loads it."""
    load_one.cache_clear()
    load_part.cache_clear()
    return load_data(config)


def filling(data: Data) -> Filling:
    assert isinstance(data.train.stored_MCHW, Filling)
    return data.train.stored_MCHW


def missing(data: Data) -> int:
    return IMAGES - filling(data).decoded


def alone(folder: Path, name: str) -> Filling:
    source = find(config(folder))
    return Filling(source.items("train"), folder.parent / name, 2, Skipped(9, "train"))


def test_training_may_begin_when_a_sample_is_decoded(folder: Path):
    data = anew(config(folder))
    assert missing(data) == IMAGES - len(range(0, len(data.train), -(-len(data.train) // SAMPLE)))
    assert not list(cache(folder).glob("*.npy"))
    filling(data).fill()
    (file,) = cache(folder).iterdir()
    assert np.load(file)["label"].tolist() == filling(data).items.labels_M.tolist()


def test_images_are_those_of_a_set_decoded_before(folder: Path):
    filled, streamed = anew(config(folder)), load_data(config(folder, cache_budget_gb=1e-9))
    for name in ("train", "val"):
        one, other = getattr(filled, name), getattr(streamed, name)
        every = np.arange(len(one))
        np.testing.assert_array_equal(one.images(every), other.images(every))
        np.testing.assert_array_equal(one.labels_N, other.labels_N)
    np.testing.assert_array_equal(filled.mean_C, streamed.mean_C)


def test_a_whole_file_is_read_without_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = anew(config(folder))
    filling(first).fill()
    images = first.train.images(np.arange(len(first.train)))
    monkeypatch.setattr("hjepa.data.decode.decode_square", None)
    monkeypatch.setattr("hjepa.data.partial.alone_with", None)  # it may lie where nothing can be written
    second = anew(config(folder))
    with second.train.ahead([np.arange(9)]):
        np.testing.assert_array_equal(second.train.images(np.arange(len(second.train))), images)
        assert named("decode") == []


def named(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_what_was_decoded_before_a_stop_is_not_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    batch = np.arange(20)
    first = anew(config(folder)).train
    images = first.images(batch)
    monkeypatch.setattr("hjepa.data.decode.decode_square", None)
    second = anew(config(folder))
    np.testing.assert_array_equal(second.train.images(batch), images)
    assert 0 < missing(second) <= IMAGES - len(batch)


def test_leaving_ahead_ends_its_threads(folder: Path):
    train = anew(config(folder)).train
    with train.ahead([np.arange(len(train))]):
        assert len(named("decode")) == 2
    assert named("decode") == []


def test_a_run_gives_the_same_numbers_while_decoding_and_after(tiny: Tiny, folder: Path):
    keys = {"dataset": "imagefolder", "data_path": str(folder), "stored_size": 12, "batch_size": 10}
    keys |= {"cache_dir": str(cache(folder)), "num_workers": 2}
    changed = {f"data.{key}": value for key, value in keys.items()} | {"training.epochs": 2}
    found = []
    for _ in range(2):
        load_one.cache_clear()
        load_part.cache_clear()
        run = build_run(tiny(changed))
        reports = [report.metrics for report in train_run(run)]
        kept = [{k: v for k, v in m.items() if not k.startswith("time/")} for m in reports]
        filling(run.data).fill()
        found.append((run.model.state_dict(), kept))
    (weights, reports), (expected, expected_reports) = found
    assert reports == expected_reports
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert [file.suffix for file in cache(folder).iterdir()] == [".npy"]


def test_the_pace_of_a_run_is_measured_without_its_first_decoding(tiny: Tiny, folder: Path):
    keys = {"dataset": "imagefolder", "data_path": str(folder), "stored_size": 12, "batch_size": 10}
    keys |= {"cache_dir": str(cache(folder))}
    run = build_run(tiny({f"data.{key}": value for key, value in keys.items()}))
    measure_pace(run, 1)
    assert missing(run.data) == 0


# Several processes


@forks
def test_processes_decode_each_image_once_between_them(folder: Path):
    context = multiprocessing.get_context("fork")
    start, count, equal = context.Barrier(3), context.Value("i", 0), context.Queue()
    expected = [decode_square(file, 12) for file in find(config(folder))._listed("train")[0]]

    def decode(file: str, size: int) -> np.ndarray:
        with count.get_lock():
            count.value += 1
        return decode_square(file, size)

    def load() -> None:
        sys.modules["hjepa.data.decode"].decode_square = decode  # pyright: ignore[reportAttributeAccessIssue]
        images, every = alone(folder, "set.npy"), np.arange(IMAGES)
        start.wait()
        with images.ahead([every]):
            equal.put(np.array_equal(images.read(every, every), expected))

    processes = [context.Process(target=load) for _ in range(3)]
    for process in processes:
        process.start()
    assert [equal.get(timeout=30) for _ in processes] == [True] * 3
    for process in processes:
        process.join()
    assert count.value == IMAGES
    assert (folder.parent / "set.npy").exists()


@forks
@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGSTOP]])
def test_an_image_claimed_by_a_process_that_is_killed_or_stopped_comes_all_the_same(
    folder: Path, signals: list[int]
):
    context = multiprocessing.get_context("fork")
    claimed = context.Event()

    def claim() -> None:
        images = alone(folder, "set.npy")  # a lock ends with the last reference
        assert images._file.claim(7)
        claimed.set()
        signal.pause()

    process = context.Process(target=claim)
    process.start()
    try:
        assert claimed.wait(20)
        assert process.pid is not None
        for number in signals:
            os.kill(process.pid, number)
        images, every = alone(folder, "set.npy"), np.arange(IMAGES)
        with images.ahead([every]):
            assert images.read(every, every).any(axis=(1, 2, 3)).all()
    finally:
        process.kill()
        process.join()


# What goes wrong


def test_a_disk_that_is_full_is_one_message(folder: Path, monkeypatch: pytest.MonkeyPatch):
    data = anew(config(folder))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hjepa.data.partial.os.pwrite", full)
    batch = np.arange(len(data.train))
    told = pytest.raises(ConfigError, match=r"^data\.cache_dir: .* cannot be written: No space left")
    with told, data.train.ahead([batch]):
        data.train.images(batch)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def test_a_bad_image_is_named_counted_and_replaced_now_and_from_the_cache(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    bad = folder / "train" / "ant" / "02.jpg"
    truncate(bad)
    every = np.arange(IMAGES)
    found = []
    for _ in range(2):
        data = anew(config(folder, max_bad=1))
        filling(data).fill()
        found.append(filling(data).read(every, every))
        assert data.bad == 1
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0][2], found[0][3])
    assert len([message for message in caplog.messages if str(bad) in message]) == 1
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 0 is not enough") as raised:
        anew(config(folder, max_bad=0))
    assert str(bad) in str(raised.value)
    (made,) = cache(folder).glob("*.npy")
    assert str(raised.value).endswith(f"After a repair in place remove {made} too; it is made again.")


def test_what_is_bad_is_on_disk_before_the_images_have_their_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    truncate(folder / "train" / "ant" / "02.jpg")
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def named(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(target.name.partition(".")[2])

    monkeypatch.setattr(os, "fsync", lambda handle: (sync(handle), done.append("synced")))
    monkeypatch.setattr(os, "replace", named)
    filling(anew(config(folder, max_bad=1))).fill()
    assert done == ["synced", "synced", "bad.txt", "npy"]


def test_a_bad_image_that_is_repaired_in_place_is_decoded_by_the_next_process(folder: Path):
    bad, every = folder / "train" / "ant" / "02.jpg", np.arange(IMAGES)
    whole = bad.read_bytes()
    truncate(bad)
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 0 is not enough"):
        filling(anew(config(folder))).read(every[:4], every)
    bad.write_bytes(whole)
    data = anew(config(folder))
    np.testing.assert_array_equal(filling(data).read(every[2:3], every)[0], decode_square(bad, 12))
    filling(data).fill()
    assert anew(config(folder)).bad == 0


def test_one_bad_image_too_many_ends_the_epoch(folder: Path):
    truncate(folder / "train" / "bee" / "07.JPEG")
    data = anew(config(folder))
    every = np.arange(IMAGES)
    with pytest.raises(ConfigError, match=r"^data\.max_bad: 0 is not enough"), filling(data).ahead([every]):
        filling(data).read(every, every)


def test_a_class_of_bad_images_alone_is_an_error(folder: Path):
    for file in (folder / "train" / "bee").iterdir():
        truncate(file)
    with pytest.raises(ConfigError, match=r"of the class of .*bee/.* no image can be decoded"):
        anew(config(folder, max_bad=100))


def test_a_file_left_by_an_earlier_boot_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = alone(folder, "set.npy")
    first.read(np.arange(5), np.arange(5))
    monkeypatch.setattr("hjepa.data.partial.boot", lambda: "another")
    second = alone(folder, "set.npy")
    assert (first.decoded, second.decoded) == (5, 0)
    monkeypatch.setattr("hjepa.temporary._ABANDONED_S", -1.0)
    monkeypatch.setattr("hjepa.data.partial.boot", lambda: "a third")
    alone(folder, "set.npy")
    assert {file.name for file in folder.parent.glob(".set*")} == {
        ".set.npy.a third.filling",
        ".set.npy.a third.marks",
    }
