"""Every audited config trains for an epoch at reduced width, on tiny data sets in the public formats."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa.catalog import ROOT
from hjepa.cli import main
from hjepa.data.cifar import CIFAR10, CIFAR100, IMAGE_BYTES, Edition
from tests.hjepa.test_configs import AUDITED, ENTRIES

SMALL = {
    "model.encoder_type": "vit",
    "model.embed_dim": 16,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.patch_size": 4,
    "model.predictor.depth": 1,
    "model.predictor.num_heads": 2,
    "data.image_size": 32,
    "data.batch_size": 24,
    "training.epochs": 1,
    "training.warmup_epochs": 0,
    "device": "cpu",
    "threads": 1,
}
# What would be wrong, or have no effect, in other configs.
FOR_ONE = {
    "fpn_example": {"model.fpn.feature_dim": 16},
    "sigreg_example": {"loss.sigreg.num_slices": 32, "masking.min_keep": 4, "masking.max_keep": 24},
}
OTHER_CLASSES = 900


def write_cifar(folder: Path, edition: Edition, images: int = 120) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in edition.train + edition.test:
        count = images // len(edition.train)
        rows = random.integers(0, 256, (count, edition.label_bytes + IMAGE_BYTES), dtype=np.uint8)
        rows[:, edition.label_bytes - 1] = np.arange(count) % 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_stl10(folder: Path, images: int = 80) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part in ("train", "test", "unlabeled"):
        (folder / f"{part}_X.bin").write_bytes(
            random.integers(0, 256, (images, 3, 96, 96), dtype=np.uint8).tobytes()
        )
        (folder / f"{part}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(images)))


def write_imagenet(folder: Path) -> None:
    """A thousand class folders of two images; a hundred of them are ImageNet-100's."""
    lines = (ROOT / "configs/imagenet100_classes.txt").read_text().splitlines()
    classes = [line for line in lines if not line.startswith("#")]
    classes += [f"n9{i:07}" for i in range(OTHER_CLASSES)]
    random = np.random.default_rng(0)
    for name in classes:
        (folder / "train" / name).mkdir(parents=True)
        for i in range(2):
            image = Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8))
            image.save(folder / "train" / name / f"{i}.JPEG")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_cifar(folder / "cifar10", CIFAR10)
    write_cifar(folder / "cifar100", CIFAR100)
    write_stl10(folder / "stl10")
    write_imagenet(folder / "imagenet")
    return folder


@pytest.mark.parametrize("name", AUDITED)
def test_a_config_trains_and_records_finite_numbers(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(data)
    Path("configs").symlink_to(ROOT / "configs")
    small = SMALL | FOR_ONE.get(name, {})
    if ENTRIES[name].config.data.dataset == "imagenet":
        small |= {"data.batch_size": 250, "data.val_fraction": 0.5}
        if name != "default":  # a tenth of the classes is a tenth of the time
            small |= {"data.dataset": "imagenet100", "data.class_list": "configs/imagenet100_classes.txt"}
            small |= {"data.batch_size": 50}
    status = main([name, *(word for key, value in small.items() for word in ("--set", f"{key}={value}"))])
    out, err = capsys.readouterr()
    assert status == 0, out + err
    assert "epoch 1/1" in out
    (folder,) = Path("results/runs").iterdir()
    (record,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "val/knn_top1"} <= record.keys()
    assert all(math.isfinite(value) for value in record.values() if isinstance(value, float))
    assert (folder / "checkpoints").is_dir()
