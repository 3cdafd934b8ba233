"""From a data config to splits: training images, evaluation images and, apart, the test set."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from hjepa.data import cifar, digits, imagefolder, parquet, stl10
from hjepa.data.cache import default_cache_dir
from hjepa.data.config import DataConfig
from hjepa.data.loaded import (
    STATISTICS_IMAGES,
    Data,
    Place,
    enlarged,
    load_one,
    load_part,
    load_several,
)
from hjepa.data.source import Source, Streamable, unreadable
from hjepa.data.split import Split
from hjepa.schema import ConfigError

# A new data set is a Source, a name here and one in DataConfig.
_FINDERS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits.find,
    "cifar10": cifar.find,
    "cifar100": cifar.find,
    "stl10": stl10.find,
    "imagefolder": imagefolder.find,
    "imagenet": imagefolder.find,
    "imagenet100": imagefolder.find,
    "parquet": parquet.find,
}
_CACHE_VERSION = 3


def check_data(config: DataConfig) -> None:
    """Raises ConfigError unless the files of the data sets are where `config` says and no set would learn
    from what another holds out. Writes nothing."""
    for (name, one), (other, second) in combinations(_sources(config).items(), 2):
        if shared := _shared(one, second):
            raise ConfigError(
                f"data.datasets: {name} and {other} both take {shared}, but not the same images in all: "
                "each would learn from what the other holds out for evaluation.\n"
                "Give both the same class_list, or folders that share no images."
            )


def check_apart(config: DataConfig, probe: DataConfig) -> None:
    """Raises ConfigError where `config` would learn from what the linear probe's data set holds out."""
    for name, one in _sources(config).items():
        for other, second in _sources(probe).items():
            if shared := _shared(one, second):
                raise ConfigError(
                    f"evaluation.linear_probe.dataset: {other} and the run's {name} both take {shared}, but "
                    "not the same images in all: the run would learn from what the probe is judged by.\n"
                    "Leave the probe's dataset and data_path out to probe on the run's own images, or name a "
                    "folder that shares none with them."
                )


def load_data(config: DataConfig) -> Data:
    """Training and evaluation images, at their stored resolution.

    Images that fit data.cache_budget_gb are decoded into the cache by the first call, those of a large
    folder of images when they are first drawn, and mapped from then on; the others are decoded at each
    draw. Later calls of one process return the same object. Raises ConfigError where files are missing or
    damaged.
    """
    places, split = _places(config, "train"), (config.val_fraction, config.split_seed)
    sets = []
    for place in places:
        with _named(config, place.name):
            sets.append(load_one(place, *split))
    data = sets[0]
    if config.use_multi_dataset:
        data = load_several(places, *split, _weights(config), config.evaluated)
    for skipped in data.skipped:
        skipped.allow(config.max_bad)
    return data


def load_test(config: DataConfig) -> Split:
    """The test set, for numbers that nothing was chosen by; of several data sets, that of the one that is
    evaluated on. Raises as `load_data`."""
    name = config.evaluated
    (place,) = _places(config, "test", only=name)
    with _named(config, name):
        part = load_part(place)
        part.skipped.allow(config.max_bad)
    if config.use_multi_dataset:
        part = enlarged(part, place, load_data(config).train.stored_MCHW.shape[-1])
    return Split(part.stored_MCHW, np.arange(len(part.items)), part.items.labels_M)


def _sources(config: DataConfig) -> dict[str, Source]:
    found = {}
    for name, one in config.sets().items():
        with _named(config, name):
            found[name] = _FINDERS[one.dataset](one)
    return found


def _shared(one: Source, other: Source) -> Path | None:
    """A file or folder of training images that both take, where they do not hold out the same."""
    first, second = ([file.resolve() for file in source.split_files()] for source in (one, other))
    return None if first == second else min(set(first) & set(second), default=None)


def _weights(config: DataConfig) -> tuple[float, ...] | None:
    """Each data set's weight among the draws; None where every image is drawn once."""
    if config.sampling_strategy == "concat" or len(config.datasets) == 1:
        return None
    weighted = config.sampling_strategy == "weighted"
    return tuple(one.weight if weighted else 1.0 for one in config.datasets)


@contextmanager
def _named(config: DataConfig, name: str) -> Iterator[None]:
    """Errors within say by its own keys which of several data sets they are about."""
    if not config.use_multi_dataset:
        yield
        return
    position = list(config.sets()).index(name)
    key = f"data.datasets[{position}]"
    try:
        yield
    except ConfigError as error:
        text = str(error).replace("data.class_list", f"{key}.class_list")
        if config.datasets[position].path is not None:
            text = text.replace("data.data_path", f"{key}.path")
        text = text.replace("data.dataset ", f"{key}.dataset ")
        raise ConfigError(f"{text}\n(the data set {name})") from None


def _places(config: DataConfig, part: str, only: str | None = None) -> tuple[Place, ...]:
    """Each data set's place; those listed first fit the budget first."""
    left_gb, found = config.cache_budget_gb, []
    for name, one in config.sets().items():
        if only in (None, name):
            with _named(config, name):
                place, gb = _place(name, one, part, left_gb, not config.use_multi_dataset)
            left_gb -= 0 if place.num_workers else gb
            found.append(place)
    return tuple(found)


def _place(name: str, config: DataConfig, part: str, left_gb: float, alone: bool) -> tuple[Place, float]:
    """Where a data set, the only one where it is `alone`, comes from, and the GB that it takes decoded."""
    source = _FINDERS[config.dataset](config)
    try:
        cache, threads = _cache_file(config, source, part), 0
        if alone and isinstance(source, Streamable) and source.in_any_order and part == "train":
            one_by_one = _cache_file(config, source, part, "with bad images")
            # With fewer images, mean and standard deviation need all of them before the first step.
            if one_by_one.is_file() or len(source.items(part)) > STATISTICS_IMAGES:
                cache, threads = one_by_one, config.workers
        gb = (cache.stat().st_size if cache.is_file() else source.decoded_bytes(part)) / 1e9
    except OSError as error:
        raise unreadable(Path(error.filename), error) from None
    when = ", decoded when first drawn" if threads and not cache.is_file() else ""
    reason = f"{gb:.3g} GB decoded, kept in {cache}{when}"
    kept = Place(name, source, part, cache, 0, threads, reason, config.max_bad)
    if not isinstance(source, Streamable) or gb <= left_gb:
        return kept, gb
    reason = (
        f"{gb:.3g} GB decoded, more than is left of data.cache_budget_gb {config.cache_budget_gb:g}: "
        f"decoded when drawn, by {config.workers} worker process{'' if config.workers == 1 else 'es'}"
    )
    return replace(kept, num_workers=config.workers, threads=0, reason=reason), gb


def _cache_file(config: DataConfig, source: Source, part: str, *layout: str) -> Path:
    """The cache file that stands for a part of `source` as its files are now."""
    try:
        states = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.files(part)]
    except OSError as error:
        raise unreadable(Path(error.filename), error) from None
    digest = hashlib.sha256(repr((_CACHE_VERSION, *layout, source, states)).encode()).hexdigest()[:16]
    folder = Path(os.path.expanduser(config.cache_dir)) if config.cache_dir else default_cache_dir()
    return folder.resolve() / f"{config.dataset}-{part}-{digest}.npy"
