"""What a sweep says of its keys and its best configs, how sure, and from how many trials.

`docs/statistics.md` has the method, what it assumes and how often its intervals were seen to hold.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from orchestrator.analysis.confirm import confirmation
from orchestrator.analysis.design import design_of
from orchestrator.analysis.effects import effects
from orchestrator.analysis.findings import Findings
from orchestrator.analysis.importances import importances
from orchestrator.analysis.interactions import interactions
from orchestrator.analysis.stopping import stopping
from orchestrator.analysis.table import Table, table_of
from orchestrator.search.halving import audited
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord, drawn_as, standing


def analyse(sweep: Sweep, records: Sequence[TrialRecord], with_importances: bool = True) -> Findings:
    """All that `records` say of a sweep, whether it is over or not. The same records, the same findings.

    Importances take some seconds: `with_importances` says whether they are wanted.
    """
    table = table_of(sweep, records)
    design = design_of(sweep, table.records)
    return Findings(
        metric=sweep.config.objective.metric,
        mode=cast(Literal["max", "min"], sweep.objective_mode),
        max_epochs=sweep.max_epochs,
        outcomes=dict(Counter(str(record.outcome or "running") for record in standing(records))),
        confirmation=confirmation(sweep, records),
        effects=effects(table, design),
        interactions=interactions(table, design),
        importances=importances(table, design) if with_importances else None,
        stopping=stopping(table, _audited(table, {record.number: record for record in records})),
    )


def _audited(table: Table, everyone: Mapping[int, TrialRecord]) -> list[bool]:
    """Which trials were let live whatever their rank."""
    seed, share = table.sweep.config.search.seed, table.sweep.config.scheduler.audit
    return [r.role == "search" and audited(seed, share, drawn_as(r, everyone)) for r in table.records]
