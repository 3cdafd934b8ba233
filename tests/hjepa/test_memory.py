"""What a step frees stays with the process, and what a run leaves does not."""

import os
import subprocess
import sys

import pytest

from hjepa.memory import _glibc

# Page faults of ten steps that each free what they took, and the megabytes that the next run gives back.
SCRIPT = """
import resource, sys
import psutil, torch
from hjepa.memory import keep_freed
torch.set_num_threads(1)
if "keep" in sys.argv:
    keep_freed()
def work():
    for _ in range(10):
        kept = [torch.ones(6_000_000) for _ in range(12)]
        kept.clear()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
held = psutil.Process().memory_info().rss
keep_freed()
print((held - psutil.Process().memory_info().rss) // 2**20)
"""


@pytest.mark.skipif(_glibc() is None, reason="only glibc is told")
def test_freed_memory_is_kept_from_step_to_step_and_given_back_before_the_next_run():
    found = {}
    # glibc's own threshold at the start, which would else follow what is freed.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
    for way in ("plain", "keep"):
        command = [sys.executable, "-c", SCRIPT, way]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found[way] = [int(line) for line in done.stdout.split()]
    (faults, _), (faults_kept, given_back) = found["plain"], found["keep"]
    assert faults_kept < 100 < faults
    assert given_back > 30
