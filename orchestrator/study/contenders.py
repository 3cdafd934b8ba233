"""Which trials lead while a sweep runs, told without going through all of them."""

import heapq

from orchestrator.study.record import TrialRecord, place_of


class Contenders:
    """A heap of the trials that are ranked, as `orchestrator.study.record.rank` has them."""

    def __init__(self, metric: str, mode: str):
        self._metric, self._mode = metric, mode
        self._heap: list[tuple[int, float, int]] = []
        """Their places, negated, and their numbers. Who has gone on since is passed over when it comes up."""
        self._records: dict[int, TrialRecord] = {}

    def enter(self, record: TrialRecord) -> None:
        """Take in how a trial stands now, if it is ranked."""
        entry = self._entry(record)
        if entry is not None:
            self._records[record.number] = record
            heapq.heappush(self._heap, entry)

    def first(self, count: int) -> list[TrialRecord]:
        """The first `count` of the ranking."""
        found: list[tuple[int, float, int]] = []
        while self._heap and len(found) < count:
            entry = heapq.heappop(self._heap)
            # A trial that waited and then was stopped stands twice at the same place.
            if entry == self._entry(self._records[entry[2]]) and entry not in found[-1:]:
                found.append(entry)
        for entry in found:
            heapq.heappush(self._heap, entry)
        return [self._records[entry[2]] for entry in found]

    def _entry(self, record: TrialRecord) -> tuple[int, float, int] | None:
        place = place_of(record, self._metric, self._mode)
        return None if place is None else (-place[0], -place[1], record.number)
