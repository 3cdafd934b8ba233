"""A journal skimmed for how its trials stand: each with its newest report, the older ones unread.

Most lines are looked at only as far as it takes to know that a later one makes up for them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.process.collector import uncollected
from orchestrator.study.record import TrialRecord
from orchestrator.study.replay import (
    ATTRIBUTE,
    BUFFER_BYTES,
    INTERMEDIATE,
    OPERATION,
    PARAMETER,
    readable,
    replay,
)

_TRIAL, _EPOCH = b',"trial_id":', b',"user_attr":{"epoch:'
_KEY_BYTES = 12 + len(_EPOCH)
"""Enough for a trial's number and what stands behind it in the line of a report."""


@uncollected()
def skim(folder: Path, metric: str) -> tuple[list[TrialRecord], dict[str, Any]]:
    """The trials of a journal, each with its newest report, and the newest that holds `metric`; and the
    study's own attributes.

    What a trial was created with, as one that takes another up, it has whole; of checkpoints it has those
    that these reports name. Takes no lock and writes nothing. Raises ConfigError where there is no journal or
    a line of it is none of Optuna's.
    """
    named = f'"{metric}":'.encode()
    with readable(folder) as path:
        with path.open("rb", BUFFER_BYTES) as lines:
            newest, others = _newest(lines)
        without = {trial for trial, line in newest.items() if named not in line}
        valued: dict[bytes, bytes] = {}
        if without:
            with path.open("rb", BUFFER_BYTES) as lines:
                valued, _ = _newest(line for line in lines if named in line)
        reports = [valued[trial] for trial in without & valued.keys()]
        return replay([*others, *reports, *newest.values()])


def _newest(lines: Iterable[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The line of each trial's newest report, by the digits of its number; and the lines that are no reports.

    What the sampler alone needs is left out.
    """
    newest: dict[bytes, bytes] = {}
    others: list[bytes] = []
    start, before = 0, b"\0"
    for line in lines:
        operation = line[OPERATION]
        if operation in (INTERMEDIATE, PARAMETER) or not line.endswith(b"\n"):
            continue  # most lines; the last one may still be being written
        if operation == ATTRIBUTE:
            if not line.startswith(before):  # of one process all lines begin alike
                start = line.index(_TRIAL) + len(_TRIAL)
                before = line[:start]
            trial, reports, _ = line[start : start + _KEY_BYTES].partition(_EPOCH)
            if reports:
                newest[trial] = line
                continue
        others.append(line)
    return newest, others
