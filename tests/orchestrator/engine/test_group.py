"""Files of groups of workers: those of dead ones go, whoever looks; those of living ones stay."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.engine.group import claim, free_orphans

GROUPS, AT_ONCE = 300, 8


def test_what_dead_groups_left_is_freed_by_many_at_a_time(tmp_path: Path) -> None:
    """Their actors died before their workers had places."""
    for number in range(GROUPS):
        (tmp_path / f"group-{number}.lock").touch()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for freed in [pool.submit(free_orphans, tmp_path) for _ in range(AT_ONCE)]:
            freed.result()
    assert not list(tmp_path.glob("group-*"))


def test_a_group_that_begins_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    """While others look for dead ones all the time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looks = [pool.submit(free_orphans, tmp_path) for _ in range(GROUPS)]
        for number in range(GROUPS):
            path = tmp_path / f"group-{number}.lock"
            with claim(path):
                free_orphans(tmp_path)
                assert path.exists()
        for look in looks:
            look.result()
    free_orphans(tmp_path)
    assert not list(tmp_path.glob("group-*"))
