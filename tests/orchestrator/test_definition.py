"""Files that are written whole, and the folders that hold sweeps."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator.definition import DEFINITION, sweep_folders, write_whole


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_who_may_read_a_file_is_the_umasks_to_say(tmp_path: Path, umask: int, mode: int) -> None:
    """Also where it replaces one that more could read."""
    path = tmp_path / "best.yaml"
    write_whole(path, "before")
    path.chmod(0o666)
    was = os.umask(umask)
    try:
        write_whole(path, "after")
    finally:
        os.umask(was)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "after"


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \udc80")
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"]
    assert path.read_text() == "before"


def test_the_half_made_folder_of_an_interrupted_fork_is_no_sweep(tmp_path: Path) -> None:
    for name in ("old", ".new.fork"):
        (tmp_path / name).mkdir()
        (tmp_path / name / DEFINITION).touch()
    assert sweep_folders(tmp_path) == [tmp_path / "old"]
