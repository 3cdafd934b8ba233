"""Files and folders that get their name when they are whole."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hjepa.temporary import temporary, whole_file


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_who_may_read_what_is_written_is_the_umasks_to_say(tmp_path: Path, umask: int):
    with whole_file(tmp_path / "checkpoint.pt") as file:
        file.write(b"weights")
    with temporary(tmp_path / "images", folder=True) as made:
        made.rename(tmp_path / "images")
    assert (tmp_path / "checkpoint.pt").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "images").stat().st_mode & 0o777 == 0o777 & ~umask


def test_what_is_not_written_to_its_end_leaves_nothing(tmp_path: Path):
    def write() -> None:
        with whole_file(tmp_path / "checkpoint.pt") as file:
            file.write(b"half of them")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list(tmp_path.iterdir()) == []
