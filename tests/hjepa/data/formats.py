"""Tiny data sets of random or smooth images in the public formats."""

import importlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from hjepa.data.cifar import CIFAR10, IMAGE_BYTES


def write_cifar10(folder: Path, per_batch: int = 20, seed: int = 0) -> np.ndarray:
    """Binary files of cifar10 in `folder`; the training images, (N, 3, 32, 32)."""
    folder.mkdir(parents=True)
    random, images = np.random.default_rng(seed), []
    for batch in CIFAR10.train + CIFAR10.test:
        rows = random.integers(0, 256, (per_batch, 1 + IMAGE_BYTES), dtype=np.uint8)
        rows[:, 0] = np.arange(per_batch) % 10
        (folder / f"{batch}.bin").write_bytes(rows.tobytes())
        images.append(rows[:, 1:].reshape(-1, 3, 32, 32))
    return np.concatenate(images[:-1])


def write_stl10(folder: Path, count: int = 40, seed: int = 0) -> None:
    """Files of stl10 in `folder`, with as many training, test and unlabelled images."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for part in ("train", "test", "unlabeled"):
        images = random.integers(0, 100, (count, 3, 96, 96), dtype=np.uint8)
        (folder / f"{part}_X.bin").write_bytes(images.tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(count)))


def smooth_image(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded_image(seed: int, width: int = 18, height: int = 24, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    smooth_image(seed, width, height).save(stream, kind)
    return stream.getvalue()


def write_parquet(
    file: Path, images: list[bytes | None], labels: list[int], rows_per_group: int = 4, **names: str
) -> None:
    """A shard as Hugging Face's `datasets` writes it; `names` of the columns `image` and `label`."""
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": image, "path": f"{i}.jpg"} for i, image in enumerate(images)]
    columns = {names.get("image", "image"): pa.array(values, kind), names.get("label", "label"): labels}
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file, row_group_size=rows_per_group, compression="snappy")


def write_image_folder(
    folder: Path, count: int = 20, classes: tuple[str, ...] = ("ant", "bee", "cow")
) -> None:
    """Image files of each class in `folder`, PNG and JPEG by turns, of several sizes."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            suffix = (".png", ".JPEG", ".jpg")[i % 3]
            smooth_image(100 * label + i, 18 + i, 24).save(folder / name / f"{i:02}{suffix}")
