"""Threads that each take images of their own: the numbers of one thread, the same every time."""

from collections.abc import Callable
from threading import Barrier, current_thread
from typing import Any

import pytest
import torch

from hjepa import RunConfig, lanes
from hjepa.lanes import Lanes
from hjepa.run import build_run
from tests.hjepa.cases import CASES, SHARED, assert_close, case
from tests.hjepa.ranks import witnessed

Tiny = Callable[..., RunConfig]

CUT = {**CASES, "of unlike sizes": {"data.batch_size": 239}}


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keys of a run with three lanes however small it is."""
    monkeypatch.setattr(lanes, "LEAST_VALUES", 1)
    return {"threads": 3}


@pytest.fixture
def in_lanes(tiny: Tiny, three: dict[str, Any]) -> Lanes:
    return build_run(tiny(three)).lanes


@pytest.mark.parametrize("name", CUT)
def test_lanes_give_the_numbers_of_one(tiny: Tiny, three: dict[str, Any], name: str):
    alone = witnessed(case(tiny(SHARED | CUT[name])))
    cut = witnessed(case(tiny(SHARED | CUT[name] | three)))
    assert_close(cut, alone, atol=5e-5 if name == "adamw" else 5e-6)


def test_in_bfloat16_lanes_differ_by_its_rounding(tiny: Tiny, three: dict[str, Any]):
    settings = SHARED | {"training.use_amp": True}
    alone, cut = (witnessed(case(tiny(settings | changed))) for changed in ({}, three))
    for ours, theirs in zip(cut["reports"], alone["reports"], strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=2**-8)
    for name, value in alone["weights"].items():
        torch.testing.assert_close(cut["weights"][name], value, rtol=2**-8, atol=1e-3)


def test_a_run_in_lanes_gives_the_same_to_the_bit_every_time(tiny: Tiny, three: dict[str, Any]):
    first, second = (witnessed(case(tiny(SHARED | three))) for _ in range(2))
    assert first["reports"] == second["reports"]
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())


def test_each_lane_has_its_share_of_the_threads_and_works_beside_the_others(in_lanes: Lanes):
    together = Barrier(3, timeout=60)

    def work(part: int) -> tuple[int, int, str]:
        together.wait()
        return part, torch.get_num_threads(), current_thread().name

    torch.set_num_threads(6)
    for _ in range(2):
        found = in_lanes.map(work, [0, 1, 2])
        assert [(part, threads) for part, threads, _ in found] == [(0, 2), (1, 2), (2, 2)]
        assert len({name for _, _, name in found}) == 3
        assert torch.get_num_threads() == 6


def test_an_error_of_a_lane_is_raised_once_all_have_ended(in_lanes: Lanes):
    ended = []

    def work(part: int) -> None:
        try:
            if part < 2:
                raise ValueError(f"part {part}")
        finally:
            ended.append(part)

    for parts in ([0, 1, 2], [2, 1, 0], [2, 3, 1]):
        ended.clear()
        with pytest.raises(ValueError, match="part 1" if parts[0] == 2 else "part 0"):
            in_lanes.map(work, parts)
        assert sorted(ended) == sorted(parts)
        assert torch.get_num_threads() == 3


THREADS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 3, 7: 3, 8: 4, 9: 3, 16: 4}


def test_lanes_are_as_many_as_leave_few_threads_without_work(in_lanes: Lanes):
    for threads, count in THREADS.items():
        torch.set_num_threads(threads)
        assert in_lanes.count(100) == count
    assert in_lanes.count(2) == 2
    assert in_lanes.count(1) == 1


def test_few_values_are_not_cut(tiny: Tiny):
    small = build_run(tiny({"threads": 2})).lanes  # 16 patches of width 16
    assert [small.count(images) for images in (128, 511, 512)] == [1, 1, 2]


@pytest.mark.parametrize("key", ["model.drop_path_rate", "model.predictor.dropout"])
def test_what_drops_at_random_learns_in_one_lane(tiny: Tiny, three: dict[str, Any], key: str):
    drops = build_run(tiny({**three, key: 0.1})).lanes
    assert drops.count(240) == 1


def test_off_the_cpu_there_is_one_lane(tiny: Tiny, three: dict[str, Any]):
    run = build_run(tiny(three))
    assert Lanes(run.model, 16, torch.device("cuda")).count(240) == 1
