"""Processes that wait for each other: however long one takes, until one dies."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch.distributed as dist

from hjepa.distributed import meet_at
from tests.hjepa.ranks import environment

WAITS = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from hjepa.distributed import LostRankError, Team

folder, rank, ends = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
if rank == 1:
    if ends == "dies":
        os._exit(0)
    while not (folder / "go").exists():
        time.sleep(0.01)
else:
    # What another call than meet() would wait.
    dist.group.WORLD._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=1))
    print("waits", flush=True)
try:
    Team(rank, 2, grouped=True).meet()
    print("met", flush=True)
except LostRankError as error:
    print(error, flush=True)
os._exit(0)
"""


@contextmanager
def two_waiting(folder: Path, ends: str) -> Iterator[subprocess.Popen[str]]:
    """The first of two ranks that wait for each other."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WAITS, str(folder), str(rank), ends],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield ranks[0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_a_rank_whose_images_take_long_is_waited_for(tmp_path: Path):
    with two_waiting(tmp_path, "comes") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "waits\n"
        time.sleep(2)
        assert first.poll() is None
        (tmp_path / "go").touch()
        assert first.stdout.read() == "met\n"


def test_a_rank_that_dies_while_it_loads_is_not_waited_for(tmp_path: Path):
    with two_waiting(tmp_path, "dies") as first:
        assert first.stdout is not None
        assert "the other processes are lost: " in first.stdout.read()


def test_all_meet_at_a_store_time_after_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hjepa.distributed._LOOK_S", 0.001)
    store, passed = dist.HashStore(), []

    def come(rank: int) -> None:
        for round_ in range(3):
            if rank == 0:
                passed.append(round_)
            meet_at(store, 3)
            assert len(passed) >= round_ + 1
            meet_at(store, 3)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(come, range(3)))
    assert store.add("hjepa/met", 0) == 18


BEATS = """
import sys, time
import torch.distributed as dist
import hjepa.distributed
from hjepa.distributed import beating, meet_at

hjepa.distributed._BEAT_S = hjepa.distributed._LOOK_S = 0.02
hjepa.distributed.SILENT_S = float(sys.argv[3])
rank = int(sys.argv[2])
store = dist.FileStore(sys.argv[1], 2)
with beating(store, rank):
    while store.add("hjepa/beat/1", 0) < 3:
        time.sleep(0.01)
    print("beats", flush=True)
    if rank == 1:
        sys.stdin.readline()
    try:
        meet_at(store, 2)
        print("met", flush=True)
    except RuntimeError as error:
        print(error, flush=True)
"""


@contextmanager
def two_beating(folder: Path, silent_s: float) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks as under nccl, of which the second loads images until it gets a line."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", BEATS, str(folder / "store"), str(rank), str(silent_s)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "beats\n"
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_a_rank_that_dies_while_others_wait_at_a_store_is_missed(tmp_path: Path):
    with two_beating(tmp_path, 2) as (first, second):
        second.kill()
        assert first.stdout is not None
        assert first.stdout.read() == "process 1 has given no sign of life for 2 s\n"


def test_a_rank_that_lives_is_waited_for_at_a_store(tmp_path: Path):
    with two_beating(tmp_path, 60) as (first, second):
        assert first.poll() is None
        second.communicate("go on\n")
        assert first.stdout is not None
        assert first.stdout.read() == "met\n"
