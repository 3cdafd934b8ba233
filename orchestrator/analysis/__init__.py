"""What a sweep says of its keys and its best configs, how sure, and from how many trials.

`docs/statistics.md` has the method, what it assumes and how often its intervals were seen to hold.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, cast

from orchestrator.analysis.confirm import confirmation
from orchestrator.analysis.findings import Effects, Findings
from orchestrator.space import Sweep
from orchestrator.study import TrialRecord


def analyse(sweep: Sweep, records: Sequence[TrialRecord]) -> Findings:
    """All that `records` say of a sweep, whether it is over or not. The same records, the same findings."""
    return Findings(
        metric=sweep.config.objective.metric,
        mode=cast(Literal["max", "min"], sweep.objective_mode),
        max_epochs=sweep.max_epochs,
        outcomes=dict(Counter(str(record.outcome or "running") for record in records)),
        confirmation=confirmation(sweep, records),
        effects=Effects(sweep.max_epochs, sweep.max_epochs, 0, {}, (), "not computed yet"),
        interactions=(),
        importances=None,
        stopping=None,
    )
