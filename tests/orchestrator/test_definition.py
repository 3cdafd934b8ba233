"""Files that are written whole."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator.definition import SPACE, as_begun, require_same_sweep, write_whole
from orchestrator.space import ConfigError, load_sweep
from tests.recorded import begun, space


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


@pytest.mark.parametrize("now", [{}, {"algorithm": "auto"}])
def test_a_sweep_goes_on_with_the_algorithm_that_it_began_with(tmp_path: Path, now: dict[str, str]) -> None:
    """TPE was the default once, so a file that names none may have begun with it."""
    before = space(tmp_path, search={"algorithm": "tpe", "num_trials": 4})
    folder, _ = begun(tmp_path / "results", before)
    asked = space(tmp_path, search={"num_trials": 9, **now})
    assert asked.config.search.algorithm == "gp"
    assert as_begun(tmp_path / "results/elsewhere", asked) is asked
    again = as_begun(folder, asked)
    require_same_sweep(folder, again)
    assert (again.config.search.algorithm, again.num_trials) == ("tpe", 9)
    assert load_sweep(folder / SPACE).config.search.algorithm == "tpe"


@pytest.mark.parametrize(("before", "now"), [("tpe", "gp"), ("random", "auto")])
def test_another_algorithm_makes_it_another_sweep(tmp_path: Path, before: str, now: str) -> None:
    first = space(tmp_path, search={"algorithm": before, "num_trials": 4})
    folder, _ = begun(tmp_path / "results", first)
    other = as_begun(folder, space(tmp_path, search={"algorithm": now, "num_trials": 4}))
    with pytest.raises(ConfigError, match=f'search.algorithm: "{before}" there, "gp" here'):
        require_same_sweep(folder, other)
