"""Encoded images, JPEG or PNG, to the squares that are stored; what cannot be decoded is counted.

Shape letters: B images of a chunk, C channels, S x S stored size in pixels.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from threading import Barrier

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from simplejpeg import decode_jpeg, decode_jpeg_header

from hjepa.data.cache import records
from hjepa.schema import ConfigError
from hjepa.temporary import remove_abandoned, whole_file
from hjepa.threads import use_threads

PROGRESS_S = 10.0
"""Seconds between two lines about a long decoding."""
_CHUNK_IMAGES = 512
_JPEG = b"\xff\xd8\xff"
_PLAIN_COLOURS = ("YCbCr", "Gray")
_MOST_PIXELS = 2**26
"""Of a plain JPEG; Pillow has a say in what may be a decompression bomb."""
_SHOWN = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """An image as it lies on disk."""

    name: str
    """Where it lies, for messages."""
    content: str | bytes
    """A file's path, or what one would hold."""
    label: int = -1
    problem: str | None = None
    """Why there is no content."""


class Skipped:
    """The images of a part of a data set that could not be decoded, each with the reason.

    `max_bad` as data.max_bad; `what` names the part in messages.
    """

    def __init__(self, max_bad: int, what: str):
        self.max_bad = max_bad
        self.what = what
        self.problems: dict[str, str] = {}
        self._cache: Path | None = None

    def __len__(self) -> int:
        return len(self.problems)

    def add(self, name: str, problem: str) -> None:
        """Count an image once, and tell of it. ConfigError where it is one too many."""
        if name in self.problems:
            return
        self.problems[name] = problem
        self.allow(self.max_bad)
        log.warning("skipped %s", _printable(f"{name}: {problem}"))

    def allow(self, max_bad: int) -> None:
        """From now on as many. ConfigError where there are more already."""
        self.max_bad = max_bad
        if len(self) <= max_bad:
            return
        shown = [_printable(f"{name}: {problem}") for name, problem in list(self.problems.items())[-_SHOWN:]]
        more = f"\n  and {len(self) - _SHOWN} more" if len(self) > _SHOWN else ""
        kept = f"\nAfter a repair in place remove {self._cache} too; it is made again." if self._cache else ""
        raise ConfigError(
            f"data.max_bad: {max_bad} is not enough, {len(self)} or more images of {self.what} cannot be "
            "decoded:\n  " + "\n  ".join(shown) + f"{more}\n"
            f"Repair or remove them, or set data.max_bad to as many as may be skipped.{kept}"
        )

    def save(self, file: Path) -> None:
        """Write them, one per line; no file where there are none."""
        if not self.problems:
            file.unlink(missing_ok=True)
            return
        # As JSON: a file's name may hold line breaks, tabs, and bytes that are no text.
        told = "".join(f"{json.dumps(pair)}\n" for pair in self.problems.items())
        remove_abandoned(file.parent, f".{file.name}.*.tmp")
        # On disk before the images are: a cache that does not tell its bad ones would pass them off as black.
        with whole_file(file) as stream:
            stream.write(told.encode())

    def load(self, file: Path) -> None:
        """Take in what `save` wrote beside a cache file. ConfigError where they are too many."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            # Earlier versions wrote a name, a tab and the problem.
            name, problem = json.loads(line) if line.startswith("[") else line.partition("\t")[::2]
            self.problems.setdefault(name, problem)
        self._cache = file.with_suffix("").with_suffix(".npy")
        self.allow(self.max_bad)


def _printable(text: str) -> str:
    """`text` with escapes in place of what no terminal shows: a file's name may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def decoded(
    images: Iterable[Encoded], count: int, size: int, num_workers: int, skipped: Skipped
) -> Iterator[np.ndarray]:
    """Records of all `images`, of which there are `count`, a chunk at a time and in their order.

    Threads decode them. Those that cannot be decoded are left out and added to `skipped`; ConfigError
    where they are too many, or all.
    """
    done, kept = 0, 0
    start_s = told_s = time.monotonic()
    for chunk, outcomes in _decoded_chunks(iter(images), size, num_workers):
        squares, labels = [], []
        for image, found in zip(chunk, outcomes, strict=True):
            if isinstance(found, str):
                skipped.add(image.name, found)
            else:
                squares.append(found)
                labels.append(image.label)
        if squares:
            yield records(np.stack(squares), np.array(labels))
        done, kept, now_s = done + len(chunk), kept + len(squares), time.monotonic()
        if now_s - told_s >= PROGRESS_S:
            told_s, rate = now_s, done / (now_s - start_s)
            log.warning("decoded %d of %d %s images, %.0f a second", done, count, skipped.what, rate)
    if kept == 0:
        raise ConfigError(f"data.data_path: none of the {done} {skipped.what} images can be decoded.")
    if len(skipped):
        log.warning("skipped %d of %d %s images in all", len(skipped), done, skipped.what)


def _decoded_chunks(
    images: Iterator[Encoded], size: int, num_workers: int
) -> Iterator[tuple[list[Encoded], Iterator[np.ndarray | str]]]:
    """Some images at a time with what `square_or_problem` gives for each."""
    coming: deque[tuple[list[Encoded], Iterator[np.ndarray | str]]] = deque()
    with decoding_threads(num_workers) as pool:
        while chunk := list(islice(images, _CHUNK_IMAGES)):
            coming.append((chunk, pool.map(square_or_problem, chunk, [size] * len(chunk))))
            # The next chunk is begun before this one is asked for: no thread waits for the last of it.
            if len(coming) > 1:
                yield coming.popleft()
        yield from coming


@contextmanager
def decoding_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """As many threads, each of which resizes alone."""
    before, started = torch.get_num_threads(), Barrier(count)
    # With more of torch's threads each would wait for them busily.
    with ThreadPoolExecutor(count, "decode", use_threads, (1,)) as pool:
        list(pool.map(lambda _: started.wait(), range(count)))
        torch.set_num_threads(before)
        yield pool


def square_or_problem(image: Encoded, size: int) -> np.ndarray | str:
    """The image as `decode_square` gives it, or why that is not possible."""
    if image.problem is not None:
        return image.problem
    try:
        return decode_square(image.content, size)
    except Exception as error:  # noqa: BLE001 (a damaged image can raise any exception)
        return " ".join(str(error).split()) or type(error).__name__


def decode_square(image: str | Path | bytes, size: int) -> np.ndarray:
    """The largest square in the middle of an image, resized, as (3, S, S) uint8.

    `image` is a file's path or what it holds. Raises OSError, or whatever else Pillow does, where the file is
    damaged.
    """
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    pixels_HWC = _plain_jpeg(content, 2 * size)
    if pixels_HWC is None:
        try:
            with Image.open(BytesIO(content)) as opened:
                pixels_HWC = np.array(_rgb(opened, 2 * size))
        except UnidentifiedImageError:
            raise UnidentifiedImageError("it is no image of a known kind") from None
    return resized(pixels_HWC[middle_square(*pixels_HWC.shape[:2])], size)


def _plain_jpeg(content: bytes, least: int) -> np.ndarray | None:
    """RGB pixels of an undamaged JPEG in colour or grey, the same as `_rgb` gives in two thirds of the time;
    None for any other image."""
    if not content.startswith(_JPEG):
        return None
    try:
        *shape, colours, _ = decode_jpeg_header(content)
        height, width = map(int, shape)
        if colours not in _PLAIN_COLOURS or height * width > _MOST_PIXELS:
            return None
        part = next(part for part in (8, 4, 2, 1) if part == 1 or min(height, width) // part >= least)
        return decode_jpeg(content, min_height=-(-height // part), min_width=-(-width // part))
    except ValueError:
        return None  # damaged; whether that matters, Pillow says


def middle_square(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest square in the middle of an image."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _rgb(image: Image.Image, least: int) -> Image.Image:
    """An opened image's pixels. Large JPEGs are decoded at 1/2, 1/4 or 1/8, which leaves `least` each way."""
    if image.mode.startswith(("I", "F")):
        # Pillow cuts such values off at 255.
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}) are not supported")
    image.draft(None, (least, least))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert("RGB")


def resized(square_SSC: np.ndarray, size: int) -> np.ndarray:
    """uint8 pixels, bilinearly resized with antialiasing to (3, size, size).

    torch does it in whole numbers, as Pillow does and with the same result on every processor, in a third of
    the time.
    """
    images_1CSS = torch.from_numpy(square_SSC).permute(2, 0, 1)[None]
    return F.interpolate(images_1CSS, (size, size), mode="bilinear", antialias=True)[0].numpy()
