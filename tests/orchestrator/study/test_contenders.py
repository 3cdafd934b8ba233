"""Who leads, told from a heap: as ranking all trials tells it."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.study.contenders import Contenders
from orchestrator.study.record import Role, TrialRecord, rank

METRIC = "val/knn_top1"
TRIALS = 6
STEPS = ("report", "park", "promote", "hold", "go on", "end", "fail")


def happens(record: TrialRecord, step: str, value: float) -> None:
    """Let something happen to a trial."""
    if step == "report":
        record.reports[max(record.reports, default=0) + 1] = {METRIC: value}
    elif step == "park":
        record.parked = max(record.reports, default=None)
    elif step == "promote":
        record.parked = None
    elif step in ("hold", "go on"):
        record.held = step == "hold"
    else:
        record.outcome = "completed" if step == "end" else "failed"
        record.parked, record.held = None, False


@given(
    st.sampled_from(["max", "min"]),
    st.lists(st.tuples(st.integers(0, TRIALS - 1), st.sampled_from(STEPS), st.integers(0, 3)), max_size=60),
    st.integers(1, TRIALS),
)
def test_whatever_has_happened_the_first_are_those_of_the_ranking(
    mode: str, events: list[tuple[int, str, int]], count: int
) -> None:
    roles: list[Role] = ["base", "search", "search", "search", "search", "confirm"]
    records = [TrialRecord(number, role, {}) for number, role in enumerate(roles)]
    contenders = Contenders(METRIC, mode)
    for number, step, value in events:
        if records[number].outcome is not None:
            continue
        happens(records[number], step, float(value))
        contenders.enter(records[number])
        ranked = rank(records, METRIC, mode)
        assert contenders.first(count) == ranked[:count]
        assert contenders.first(1) == ranked[:1]
