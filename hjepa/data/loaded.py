"""Data sets that have been found, opened: kept decoded or streamed, alone or together.

Shape letters: M stored images, N images of a split, C channels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from hjepa.data.cache import NO_LABEL, mapped
from hjepa.data.decode import Skipped
from hjepa.data.filling import Filling
from hjepa.data.items import Items, Joined, Stored
from hjepa.data.mixture import Mixture, Share
from hjepa.data.ondemand import OnDemand
from hjepa.data.source import Source, Streamable
from hjepa.data.split import Held, Split, stratified_split
from hjepa.data.stream import Streamed
from hjepa.schema import ConfigError

STATISTICS_IMAGES = 1024
"""Of a set that can be decoded one by one, the images that mean and standard deviation are of: all others may
be decoded after the first step."""
# All of CIFAR's training pixels, and enough of a larger set's.
_STATISTICS_BYTES = 1 << 29
# Of the pixels read at a time.
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Place:
    """Where the images of a part of a data set come from."""

    name: str
    source: Source
    part: str
    """`train` or `test`."""
    cache: Path
    """Their decoded images, where they are kept."""
    num_workers: int
    """Processes that decode them when they are drawn; 0 where they are kept decoded."""
    threads: int
    """Threads that decode them into `cache` when they are first drawn; 0 where that is done before."""
    # What follows changes no image: two places that differ in it alone share what was loaded.
    reason: str = field(compare=False)
    """Why kept or not, in words."""
    max_bad: int = field(compare=False)


@dataclass(frozen=True, eq=False)
class Data:
    """The training set, split into images to learn from and images to evaluate on; for the test set, see
    `load_test`."""

    train: Split
    """Images to learn from; some may have no class."""
    bank: Split
    """Those of them that have one, to classify by; `train` itself where all have. Of several data sets,
    those of the one that is evaluated on."""
    val: Split
    mean_C: np.ndarray
    """float32, of `train`'s pixels scaled to [0, 1], as often as they are drawn; of evenly spaced images
    where there are many."""
    std_C: np.ndarray
    """float32, of the same."""
    num_classes: int
    """Of `bank` and `val`; other data sets' classes in `train` are counted on from there."""
    mixture: Mixture
    """What an epoch draws of `train`."""
    places: tuple[Place, ...]
    """Of each data set's training images."""
    skipped: tuple[Skipped, ...]
    """Training images that could not be decoded; of streamed ones, those seen so far."""
    held: dict[str, Held]
    """What was held out of each data set, by its name."""

    @property
    def bad(self) -> int:
        """How many."""
        return sum(map(len, self.skipped))

    def fill(self) -> None:
        """Decode now what would be kept decoded when it is first drawn."""
        if isinstance(self.train.stored_MCHW, Filling):
            self.train.stored_MCHW.fill()


@dataclass(frozen=True, eq=False)
class Part:
    """All images of a part of a data set."""

    stored_MCHW: np.ndarray | OnDemand
    items: Items
    """The same, image by image."""
    skipped: Skipped
    """What was or will be skipped of them."""


@lru_cache(maxsize=16)
def load_part(place: Place) -> Part:
    """The images at `place`, decoded first where they are to be kept, are not yet, and no threads will."""
    skipped = Skipped(place.max_bad, place.part)
    if place.num_workers or place.threads:
        assert isinstance(place.source, Streamable), place.source
        items = place.source.items(place.part)
        if place.threads:
            return Part(Filling(items, place.cache, place.threads, skipped), items, skipped)
        return Part(Streamed(items, place.num_workers, skipped), items, skipped)
    told = place.cache.with_suffix(".bad.txt")

    def build() -> Iterator[np.ndarray]:
        yield from place.source.decode(place.part, skipped)
        skipped.save(told)

    stored_M = mapped(place.cache, build)
    skipped.load(told)
    return Part(stored_M["image"], Stored(str(place.cache), stored_M), skipped)


@lru_cache(maxsize=16)
def load_one(place: Place, val_fraction: float, split_seed: int) -> Data:
    """The data set whose training images are at `place`."""
    part = load_part(place)
    listed, stored_L = _listed(place, part)
    labelled = np.flatnonzero(listed.labels_M != NO_LABEL)
    labels_N = listed.labels_M[labelled]
    # Of all that are listed, bad ones too: else it would depend on when and where they are decoded.
    kept, held = stratified_split(labels_N, val_fraction, split_seed)
    told = {place.name: Held.of(labels_N, held, listed.called())}
    kept, held = (stored_L[labelled[chosen]] for chosen in (kept, held))
    labels_M = part.items.labels_M
    bank, val = (
        Split(part.stored_MCHW, chosen, labels_M[chosen]) for chosen in (kept[kept >= 0], held[held >= 0])
    )
    learnt = np.delete(np.arange(len(labels_M)), val.indices_N)
    all_labelled = len(labelled) == len(listed)
    train = bank if all_labelled else Split(part.stored_MCHW, learnt, labels_M[learnt])
    most = STATISTICS_IMAGES if isinstance(place.source, Streamable) else len(train)
    mean_C, std_C = _pixel_statistics(train, most)
    alone = Mixture((Share(place.name, 0, len(train), 1.0),), every_image_once=True)
    classes = place.source.num_classes
    return Data(train, bank, val, mean_C, std_C, classes, alone, (place,), (part.skipped,), told)


def _listed(place: Place, part: Part) -> tuple[Items, np.ndarray]:
    """All images of a part, bad ones too, and the position of each among those of `part`; -1: left out."""
    if isinstance(part.stored_MCHW, OnDemand) or not isinstance(place.source, Streamable):
        return part.items, np.arange(len(part.items))
    listed, bad = place.source.items(place.part), part.skipped.problems
    good_L = np.array([not bad or listed.name(index) not in bad for index in range(len(listed))])
    if good_L.sum() != len(part.items):
        raise ConfigError(
            f"data.cache_dir: {place.cache} holds {len(part.items)} of {len(listed)} images, and "
            f"{place.cache.with_suffix('.bad.txt').name} beside it does not tell which.\n"
            "Remove both: they are made again."
        )
    return listed, np.where(good_L, np.cumsum(good_L) - 1, -1)


@lru_cache(maxsize=8)
def load_several(
    places: tuple[Place, ...],
    val_fraction: float,
    split_seed: int,
    weights: tuple[float, ...] | None,
    evaluate_on: str,
) -> Data:
    """Data sets as one, whose draws are by `weights`, or by None every image once."""
    sets = [load_one(place, val_fraction, split_seed) for place in places]
    parts = [load_part(place) for place in places]
    chosen = [place.name for place in places].index(evaluate_on)
    items = Joined([part.items for part in parts], _first_classes(sets, chosen))
    # Streamed sets are read, and what is bad of them counted, together.
    kept = [part.skipped for part, place in zip(parts, places, strict=True) if not place.num_workers]
    skipped = Skipped(places[0].max_bad, "train")
    for part in parts:
        skipped.problems |= part.skipped.problems if part.skipped not in kept else {}
    stored = Streamed(items, max(place.num_workers for place in places), skipped)

    indices = [one.train.indices_N + start for one, start in zip(sets, items.starts, strict=False)]
    train_N = np.concatenate(indices)
    bank, val = (
        Split(stored, split.indices_N + items.starts[chosen], split.labels_N)
        for split in (sets[chosen].bank, sets[chosen].val)
    )
    mixture = _mixture([place.name for place in places], [len(one.train) for one in sets], weights)
    return Data(
        Split(stored, train_N, items.labels_M[train_N]),
        bank,
        val,
        *_mixed_statistics(sets, mixture),
        sets[chosen].num_classes,
        mixture,
        places,
        (*kept, skipped),
        {name: held for one in sets for name, held in one.held.items()},
    )


def enlarged(part: Part, place: Place, side: int) -> Part:
    """The same images at `side`, as those of several data sets are."""
    items = Joined([part.items], [0], side)
    return Part(Streamed(items, place.num_workers, part.skipped), items, part.skipped)


def _first_classes(sets: list[Data], chosen: int) -> list[int]:
    """Labels of the first class of each: of the `chosen` one 0, so that its bank keeps its labels."""
    order = [chosen, *(position for position in range(len(sets)) if position != chosen)]
    starts = np.cumsum([0, *(sets[position].num_classes for position in order)])
    return [int(starts[order.index(position)]) for position in range(len(sets))]


def _mixture(names: list[str], images: list[int], weights: tuple[float, ...] | None) -> Mixture:
    parts = images if weights is None else weights
    firsts = np.cumsum([0, *images])
    shares = [
        Share(name, int(first), count, part / sum(parts))
        for name, first, count, part in zip(names, firsts, images, parts, strict=False)
    ]
    return Mixture(tuple(shares), every_image_once=weights is None)


def _mixed_statistics(sets: list[Data], mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel over the images as often as they are drawn."""
    share_S1 = np.array([share.share for share in mixture.shares])[:, None]
    mean_SC = np.stack([one.mean_C for one in sets]).astype(np.float64)
    variance_SC = np.stack([one.std_C for one in sets]).astype(np.float64) ** 2
    mean_C = (share_S1 * mean_SC).sum(0)
    variance_C = (share_S1 * (variance_SC + (mean_SC - mean_C) ** 2)).sum(0)
    return mean_C.astype(np.float32), np.sqrt(variance_C).astype(np.float32)


def _pixel_statistics(split: Split, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel of pixels in [0, 1], (3,) float32 each, of `most` images at the
    most."""
    image_bytes = math.prod(split.stored_MCHW.shape[1:])
    most = min(most, max(_STATISTICS_BYTES // image_bytes, 1))
    sampled = np.arange(0, len(split), math.ceil(len(split) / most))
    sum_C, squares_C = np.zeros(3), np.zeros(3)
    chunk = max(_CHUNK_BYTES // image_bytes, 1)
    batches = np.split(sampled, range(chunk, len(sampled), chunk))
    with split.ahead(batches):
        for batch in batches:
            for image_CHW in split.images(batch):
                sums = _sums(image_CHW)
                sum_C, squares_C = sum_C + sums[0], squares_C + sums[1]
    pixels = len(sampled) * image_bytes // 3
    mean_C = sum_C / pixels / 255
    variance_C = ((squares_C - sum_C**2 / pixels) / pixels / 255**2).clip(min=0)
    # One grey level at least: a constant channel would divide by zero.
    return mean_C.astype(np.float32), np.sqrt(variance_C).clip(min=1 / 255).astype(np.float32)


def _sums(image_CHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values and of their squares, (3,) float64 each, exactly."""
    # A row's squares sum to less than 2^24, up to which float32 holds every whole number.
    fits = image_CHW.shape[-1] * 255**2 <= 2**24
    image_CHW = image_CHW.astype(np.float32 if fits else np.float64)
    squares_CH = np.einsum("chw,chw->ch", image_CHW, image_CHW)
    return image_CHW.sum(2).sum(1, dtype=np.float64), squares_CH.sum(1, dtype=np.float64)
