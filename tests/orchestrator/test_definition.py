"""Files that are written whole, and the folders that hold sweeps."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from orchestrator.definition import DEFINITION, copy_whole, sweep_folders, write_whole


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


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    source, folder = tmp_path / "epoch_00003.pt", tmp_path / "winner"
    source.touch()
    folder.mkdir()
    for write in (lambda: write_whole(folder, "text"), lambda: copy_whole(source, folder)):
        with pytest.raises(IsADirectoryError) as caught:
            write()
        assert caught.value.filename == str(folder)
    with pytest.raises(FileNotFoundError) as lacking:
        copy_whole(tmp_path / "epoch_00002.pt", folder)
    assert str(lacking.value.filename) == str(tmp_path / "epoch_00002.pt")


def test_what_is_no_plain_file_is_written_and_not_replaced(tmp_path: Path) -> None:
    source, pipe, link, target = (tmp_path / name for name in ("source", "pipe", "link", "target"))
    source.write_text("copied")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through a pipe")
    assert os.read(reader, 100) == b"through a pipe"
    os.close(reader)
    link.symlink_to(target)
    for write, text in (
        (lambda: write_whole(link, "written"), "written"),
        (lambda: copy_whole(source, link), "copied"),
    ):
        write()
        assert target.read_text() == text
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()


def test_a_copy_that_is_broken_off_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = tmp_path / "epoch_00003.pt", tmp_path / "winner.pt"
    source.write_text("whole")
    path.write_text("before")

    def full(_: Path, target: Path) -> None:
        target.write_text("wh")
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="no space"):
        copy_whole(source, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch_00003.pt", "winner.pt"]
    assert path.read_text() == "before"
    monkeypatch.undo()
    copy_whole(source, path)
    assert path.read_text() == "whole"


def test_the_half_made_folder_of_an_interrupted_fork_is_no_sweep(tmp_path: Path) -> None:
    for name in ("old", ".new.fork"):
        (tmp_path / name).mkdir()
        (tmp_path / name / DEFINITION).touch()
    assert sweep_folders(tmp_path) == [tmp_path / "old"]
