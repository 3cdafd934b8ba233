import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from hjepa.records import JsonLines, LoggingConfig, Records, TensorboardConfig, WandbConfig, free_folder
from hjepa.schema import ConfigError

METRICS = {"val/knn_top1": 0.5, "train/loss": 2.0}


def recorded(config: LoggingConfig, folder: Path) -> None:
    records = Records(config, folder, {"seed": 42})
    records.write(1, 10, METRICS)
    records.write(2, 20, METRICS)
    records.close()


def test_every_epoch_is_one_json_line(tmp_path: Path) -> None:
    recorded(LoggingConfig(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 10), (2, 20)]
    assert lines[0].items() >= METRICS.items()


def test_unwanted_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.keep(lambda record: False)
    for epoch in (1, 2, 3):
        lines.write({"epoch": epoch})
    with lines.path.open("a") as file:
        file.write('{"epoch": 4, "tr')
    lines.keep(lambda record: record["epoch"] <= 2)
    assert lines.path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_tensorboard_gets_every_metric_by_epoch(tmp_path: Path) -> None:
    from tensorboardX.proto import event_pb2

    recorded(LoggingConfig(tensorboard=TensorboardConfig(enabled=True)), tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    found, data = {}, file.read_bytes()
    while data:  # TFRecord: length as uint64, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    assert found == {(name, epoch): value for name, value in METRICS.items() for epoch in (1, 2)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_keeps_a_run_on_disk_when_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    recorded(LoggingConfig(wandb=WandbConfig(enabled=True, tags=("tiny",))), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"val/knn_top1" in file.read_bytes()


@pytest.mark.parametrize(
    ("section", "config", "package"),
    [
        ("tensorboard", LoggingConfig(tensorboard=TensorboardConfig(enabled=True)), "tensorboardX"),
        ("wandb", LoggingConfig(wandb=WandbConfig(enabled=True)), "wandb"),
    ],
)
def test_a_missing_package_is_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, config: Any, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"logging\.{section}\.enabled: .*pip install {package}"):
        Records(config, tmp_path, {})


def test_a_second_run_of_one_name_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert free_folder(folder) == folder
    folder.mkdir()
    assert free_folder(folder) == folder
    (folder / "metrics.jsonl").touch()
    assert free_folder(folder) == tmp_path / "run-2"
