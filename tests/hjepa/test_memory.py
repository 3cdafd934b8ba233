"""What a step frees stays with the process, what a run leaves does not, and pages are as large as can be."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hjepa import memory
from hjepa.memory import TUNABLES, _glibc, huge_pages

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


# A process that wants huge pages: its number, what it was asked with, and how much of 64 MB is in such pages.
ANEW = """
import os, sys
from pathlib import Path
from hjepa.memory import take_huge_pages
print(os.getpid(), len(sys.argv), flush=True)
if "lost" in sys.argv:
    os.environ.pop("GLIBC_TUNABLES", None)
take_huge_pages()
kept = [bytearray(1000) for _ in range(64_000)]
rollup = Path("/proc/self/smaps_rollup").read_text()
print(os.getpid(), sys.argv[1:], next(line.split()[1] for line in rollup.splitlines() if "AnonHuge" in line))
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that gives huge pages of 2 MiB to who asks for them, beside a glibc that can ask."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{2 * 2**20}\n")
    monkeypatch.setattr(memory, "KERNEL", tmp_path)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv(TUNABLES, raising=False)
    return tmp_path


@pytest.mark.usefixtures("kernel")
def test_huge_pages_are_asked_for_beside_what_else_glibc_is_told(monkeypatch: pytest.MonkeyPatch):
    assert huge_pages() == {TUNABLES: "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv(TUNABLES, "glibc.malloc.arena_max=2")
    assert huge_pages() == {TUNABLES: "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    "given", ["glibc.malloc.hugetlb=0", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=2"]
)
@pytest.mark.usefixtures("kernel")
def test_who_has_said_whether_they_are_wanted_is_heard(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TUNABLES, given)
    assert huge_pages() == {}


@pytest.mark.parametrize("enabled", ["[always] madvise never", "always madvise [never]", None])
def test_where_the_kernel_gives_them_to_all_or_to_nobody_they_are_not_asked_for(
    enabled: str | None, kernel: Path
):
    (kernel / "enabled").unlink()
    if enabled:
        (kernel / "enabled").write_text(enabled)
    assert huge_pages() == {}


def test_pages_of_half_a_gigabyte_are_not_asked_for(kernel: Path):
    (kernel / "hpage_pmd_size").write_text(f"{512 * 2**20}")
    assert huge_pages() == {}


@pytest.mark.parametrize("libc", [("glibc", "2.34"), ("", "")])
@pytest.mark.usefixtures("kernel")
def test_a_libc_that_knows_nothing_of_them_is_not_asked(
    libc: tuple[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    assert huge_pages() == {}


@pytest.mark.skipif(not huge_pages(), reason="this machine has none, or gives them to all")
def test_a_process_begins_anew_with_them_as_itself():
    command = [sys.executable, "-c", ANEW, "--set", "a=b c"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, again, told = done.stdout.splitlines()
    assert first == again
    pid, rest = told.split(maxsplit=1)
    assert pid == first.split()[0]
    arguments, huge = rest.rsplit(maxsplit=1)
    assert arguments == "['--set', 'a=b c']"
    assert int(huge) > 32 * 2**10
    torch_first = [sys.executable, "-c", "import torch\n" + ANEW, "x"]
    done = subprocess.run(torch_first, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    # As glibc has it for a Python with capabilities of its own: it does not begin anew for ever.
    lost = [sys.executable, "-c", ANEW, "lost"]
    done = subprocess.run(lost, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == 3
