"""Folders of JPEGs like photographs, made from noise: nothing is downloaded."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 375, 500
_ALIKE = 100
"""Files of one picture, shifted and mirrored: to make a picture takes longer than to save it."""
_QUALITY = 75


def write_photos(folder: Path, count: int, classes: int = 10) -> int:
    """Files of 500 x 375 pixels and some 45 kB in class folders of `folder`/train; their bytes in all."""
    for label in range(classes):
        (folder / "train" / f"{label:03}").mkdir(parents=True)
    seeds = [range(first, min(first + _ALIKE, count)) for first in range(0, count, _ALIKE)]
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        jobs = [pool.submit(_write_some, folder / "train", numbers, classes) for numbers in seeds]
        return sum(job.result() for job in jobs)


def photo(random: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8, periodic: noise whose amplitude falls with frequency, mostly grey.

    The exponent 1.3, where photographs have about 1, makes for JPEGs of their size: noise has none of their
    flat parts."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = np.maximum(frequency, 1 / width) ** -1.3
    planes = []
    for _ in range(4):
        phases = random.normal(size=amplitude.shape) + 1j * random.normal(size=amplitude.shape)
        plane = np.fft.irfft2(amplitude * phases, s=(height, width))
        planes.append(plane / plane.std())
    colours = [110 + 50 * planes[0] + 15 * plane for plane in planes[1:]]
    return np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)


def _write_some(folder: Path, numbers: range, classes: int) -> int:
    """These files, of one picture; their bytes."""
    random, written = np.random.default_rng(numbers[0]), 0
    picture = photo(random)
    for number in numbers:
        shift = tuple(int(step) for step in random.integers(0, (HEIGHT, WIDTH)))
        moved = np.roll(picture, shift, axis=(0, 1))[:, :: -1 if number % 2 else 1]
        file = folder / f"{number % classes:03}" / f"{number:06}.jpg"
        Image.fromarray(np.ascontiguousarray(moved)).save(file, quality=_QUALITY)
        written += file.stat().st_size
    return written
