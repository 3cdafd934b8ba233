"""Images/s of a first epoch's data path, beside what the decoder alone does on the same threads.

A folder of JPEGs like photographs (benchmarks/photos.py: 500 x 375 pixels, about 45 kB), which the system
holds in memory, is read and decoded to squares by

  decoder      hjepa.data.decode.decode_square alone, in a loop by each thread; what it gives is dropped
  first epoch  load_data, then every image of the training and evaluation split, in batches in a random order,
               while an empty cache fills. Its ratio to `decoder` is what the path takes for itself. Until the
               file is safe on the disk takes longer; a run does not wait for that
  loader       torch's DataLoader of as many processes over torchvision's ImageFolder, for comparison
  pillow       decoded and resized by Pillow, in a loop by each thread
  torchvision  decoded by torchvision's decode_jpeg, which is deprecated, in a loop by each thread

The sides alternate, and every round gives ratios: neighbours on the machine slow all of them. CPU is that of
all threads and processes.
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks.photos import write_photos
from hjepa.data import DataConfig, Split, load_data
from hjepa.data.decode import decode_square, decoding_threads, resized
from hjepa.data.filling import Filling
from hjepa.data.loaded import load_one, load_part

BATCH = 64
DECODER, FIRST_EPOCH = "decoder", "first epoch"
Square = Callable[[str, int], np.ndarray]


def main() -> None:
    options = parse()
    warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = write_photos(folder / "photos", options.images) / options.images
        os.sync()  # what is still to be written would take time from the first round
        print(
            f"{options.images} JPEGs of {size / 1e3:.0f} kB, to {options.side} px; {options.threads} threads"
        )
        # The round that is not counted reads the files into memory and starts the fork server.
        rounds = [measured(folder, options) for _ in range(options.rounds + 1)][1:]
    show(rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256, help="pixels of the decoded squares")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where images and cache are written; a temporary one")
    return parser.parse_args()


def measured(folder: Path, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Of each side images/s and CPU milliseconds an image, in one round."""
    sides: dict[str, Callable[[], int]] = {
        DECODER: lambda: alone(folder, options, decode_square),
        FIRST_EPOCH: lambda: first_epoch(folder, options),
        "loader": lambda: torch_loader(folder, options),
        "pillow": lambda: alone(folder, options, by_pillow),
        "torchvision": lambda: alone(folder, options, by_torchvision),
    }
    found = {}
    for name, side in sides.items():
        began_s, began_cpu_s = time.perf_counter(), cpu_s()
        count = side()
        took_s, took_cpu_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
        assert count == options.images, (name, count)
        if name == FIRST_EPOCH:
            forget(folder, options)
        found[name] = count / took_s, took_cpu_s / count * 1e3
    return found


def cpu_s() -> float:
    """CPU seconds of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def alone(folder: Path, options: argparse.Namespace, decode: Square) -> int:
    """Every file decoded."""
    files = deque(str(file) for file in (folder / "photos").rglob("*.jpg"))

    def loop() -> int:
        count = 0
        while True:
            try:
                file = files.popleft()
            except IndexError:
                return count
            decode(file, options.side)
            count += 1

    with decoding_threads(options.threads) as pool:
        return sum(thread.result() for thread in [pool.submit(loop) for _ in range(options.threads)])


def first_epoch(folder: Path, options: argparse.Namespace) -> int:
    """Every image of the data set loaded and drawn, with an empty cache."""
    data = load_data(config_of(folder, options))
    assert isinstance(data.train.stored_MCHW, Filling), "so few images are decoded before the epoch"
    return drawn(data.train) + drawn(data.val)


def config_of(folder: Path, options: argparse.Namespace) -> DataConfig:
    """The photographs, decoded into a cache beside them."""
    return DataConfig(
        dataset="imagefolder",
        data_path=str(folder / "photos"),
        stored_size=options.side,
        num_workers=options.threads,
        cache_dir=str(folder / "cache"),
    )


def forget(folder: Path, options: argparse.Namespace) -> None:
    """Wait until what was decoded is on the disk, and remove it."""
    load_data(config_of(folder, options)).fill()
    load_one.cache_clear()
    load_part.cache_clear()
    shutil.rmtree(folder / "cache")


def drawn(split: Split) -> int:
    """How many images an epoch over a split has, each read."""
    order = torch.randperm(len(split)).numpy()
    batches = np.split(order, range(BATCH, len(order), BATCH))
    with split.ahead(batches):
        return sum(len(split.images(batch)) for batch in batches)


def torch_loader(folder: Path, options: argparse.Namespace) -> int:
    """The usual way: processes that decode each image with Pillow and torchvision's transforms."""
    square = v2.Compose([v2.Resize(options.side), v2.CenterCrop(options.side), v2.PILToTensor()])
    images = ImageFolder(str(folder / "photos" / "train"), square)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=options.threads)
    return sum(len(images_BCHW) for images_BCHW, _ in loader)


def by_pillow(file: str, size: int) -> np.ndarray:
    """A JPEG's square, resized by Pillow."""
    with Image.open(file) as image:
        square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=middle(*image.size))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def by_torchvision(file: str, size: int) -> np.ndarray:
    """A JPEG's square, decoded by torchvision."""
    image_CHW = decode_jpeg(torch.from_numpy(np.fromfile(file, np.uint8)), ImageReadMode.RGB)
    assert isinstance(image_CHW, torch.Tensor)  # a list for a list
    height, width = image_CHW.shape[1:]
    left, top, right, bottom = middle(width, height)
    return resized(image_CHW[:, top:bottom, left:right].permute(1, 2, 0).numpy(), size)


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest square, as left, top, right and bottom."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def show(rounds: list[dict[str, tuple[float, float]]]) -> None:
    print(
        f"medians of {len(rounds)} rounds, load {os.getloadavg()[0]:.1f}; ratios to {DECODER} with quartiles"
    )
    print(f"{'':13}{'images/s':>10}{'ratio':>9}{'':16}{'CPU ms/image':>15}{'ratio':>9}")
    for name in rounds[0]:
        speed, cpu_ms = (statistics.median(one[name][i] for one in rounds) for i in (0, 1))
        faster = quartiles([one[name][0] / one[DECODER][0] for one in rounds])
        leaner = quartiles([one[DECODER][1] / one[name][1] for one in rounds])
        print(f"{name:13}{speed:10.0f}     {faster}{cpu_ms:15.2f}     {leaner}")


def quartiles(ratios: list[float]) -> str:
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
