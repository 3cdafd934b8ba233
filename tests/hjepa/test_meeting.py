"""Processes that wait for each other: however long one takes, until one dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from hjepa.distributed import meet_at
from tests.hjepa.ranks import environment

# Both ranks of a pair are of one process, forked once torch is loaded, which takes seconds.
WAITS = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from hjepa.distributed import LostRankError, Team

folder, ends = Path(sys.argv[1]), sys.argv[2]
rank = 0 if os.fork() else 1
dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
if rank == 1:
    sys.stdout = open(os.devnull, "w")
    while not (folder / ("met" if ends == "dies" else "go")).exists():
        time.sleep(0.01)
    if ends == "dies":
        os._exit(0)
else:
    # What another call than meet() would wait.
    dist.group.WORLD._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=1))
    (folder / "met").touch()
    print("waits", flush=True)
try:
    Team(rank, 2, grouped=True).meet()
    print("met", flush=True)
except LostRankError as error:
    print(error, flush=True)
os._exit(0)
"""


@contextmanager
def two(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Two ranks that wait for each other; the process of the first one."""
    first = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield first
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


def test_a_rank_whose_images_take_long_is_waited_for(tmp_path: Path):
    with two(WAITS, str(tmp_path), "comes") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "waits\n"
        time.sleep(2)
        assert first.poll() is None
        (tmp_path / "go").touch()
        assert first.stdout.read() == "met\n"


def test_a_rank_that_dies_while_it_loads_is_not_waited_for(tmp_path: Path):
    with two(WAITS, str(tmp_path), "dies") as first:
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


# As under nccl; the second rank loads images until it is let go on.
BEATS = """
import os, sys, time
from pathlib import Path
import torch.distributed as dist
import hjepa.distributed
from hjepa.distributed import beating, meet_at

folder, hjepa.distributed.SILENT_S = Path(sys.argv[1]), float(sys.argv[2])
hjepa.distributed._BEAT_S = hjepa.distributed._LOOK_S = 0.02
other = os.fork()
store = dist.FileStore(str(folder / "store"), 2)
with beating(store, 0 if other else 1):
    while other == 0 and not (folder / "go").exists():
        time.sleep(0.01)
    while store.add("hjepa/beat/1", 0) < 3:
        time.sleep(0.01)
    if other:
        print(other, flush=True)
    try:
        meet_at(store, 2)
        end = "met"
    except RuntimeError as error:
        end = str(error)
    if other:
        print(end, flush=True)
"""


def test_a_rank_that_dies_while_others_wait_at_a_store_is_missed(tmp_path: Path):
    with two(BEATS, str(tmp_path), "2") as first:
        assert first.stdout is not None
        os.kill(int(first.stdout.readline()), signal.SIGKILL)
        assert first.stdout.read() == "process 1 has given no sign of life for 2 s\n"


def test_a_rank_that_lives_is_waited_for_at_a_store(tmp_path: Path):
    with two(BEATS, str(tmp_path), "60") as first:
        assert first.stdout is not None
        first.stdout.readline()
        assert first.poll() is None
        (tmp_path / "go").touch()
        assert first.stdout.read() == "met\n"
