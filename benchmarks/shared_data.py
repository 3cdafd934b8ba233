"""Memory that a decoded data set takes in several processes beside one.

Each process loads the set as a trial does (hjepa.data.load_data) and reads all of it in batches in a random
order, twice. While they wait, /proc/PID/smaps (Linux only) tells of each its share of the pages of the cache
file, where a page that eight map counts an eighth in each, and how much more memory of its own it has than
before it loaded: with the last batch in hand (`held`), as in a step, and without (`at rest`).
"""

import argparse
import os
import tempfile
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.photos import write_photos
from hjepa.data import DataConfig, load_data
from hjepa.data.loaded import load_one, load_part
from hjepa.memory import keep_freed

BATCH, SIDE = 64, 256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", options.images)
        config = DataConfig(
            dataset="imagefolder",
            data_path=str(folder / "photos"),
            stored_size=SIDE,
            cache_dir=str(folder / "cache"),
        )
        load_data(config).fill()
        load_one.cache_clear()
        load_part.cache_clear()
        (file,) = (folder / "cache").iterdir()
        print(f"{options.images} images, {file.stat().st_size / 1e6:.0f} MB; load {os.getloadavg()[0]:.1f}")
        print(f"{'processes':>9}{'set, MB':>13}{'at rest, MB':>13}{'held, MB':>13}")
        one, many = (of_processes(count, config) for count in (1, options.processes))
    print(f"{'ratio':>9}" + "".join(f"{b / a:13.2f}" for a, b in zip(one, many, strict=True)))


def of_processes(count: int, config: DataConfig) -> list[float]:
    """MB of all of them: the pages of the set, with their own memory at rest, and with a batch in hand."""
    context = get_context("spawn")
    pairs = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=read, args=(theirs, config)) for _, theirs in pairs]
    for process in processes:
        process.start()
    pipes = [ours for ours, _ in pairs]
    before = sum(pipe.recv() for pipe in pipes)
    found = []
    for _ in range(2):
        for pipe in pipes:
            pipe.recv()  # all are as far
        found.append([memory(process.pid or 0) for process in processes])
        for pipe in pipes:
            pipe.send("go on")
    for process in processes:
        process.join()
    held, at_rest = (sum(one.own for one in all_) - before for all_ in found)
    mapped = sum(one.mapped for one in found[1])
    megabytes = [part / 1e6 for part in (mapped, mapped + at_rest, mapped + held)]
    print(f"{count:9}" + "".join(f"{size:13.1f}" for size in megabytes), flush=True)
    return megabytes


def read(pipe: Connection, config: DataConfig) -> None:
    """What a process does: load the set, read all of it twice, and wait with a batch and without."""
    keep_freed()  # as before a run
    pipe.send(memory(os.getpid()).own)
    data, random, images = load_data(config), np.random.default_rng(os.getpid()), None
    for _ in range(2):
        for split in (data.train, data.val):
            order = random.permutation(len(split))
            for batch in np.split(order, range(BATCH, len(order), BATCH)):
                images = split.images(batch)
    pipe.send("held")
    pipe.recv()
    del images
    keep_freed()  # gives back what is free
    pipe.send("at rest")
    pipe.recv()


class Memory(NamedTuple):
    """Bytes of a process."""

    mapped: int
    """Its share of the pages of cache files that it maps."""
    own: int
    """Pages that belong to no file."""


def memory(pid: int) -> Memory:
    """What the system says of a process."""
    mapped = own = 0
    of_cache = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            of_cache = line.endswith(".npy")
        elif name == "Pss" and of_cache:
            mapped += int(rest.split()[0]) * 1024
        elif name == "Anonymous":
            own += int(rest.split()[0]) * 1024
    return Memory(mapped, own)


if __name__ == "__main__":
    main()
