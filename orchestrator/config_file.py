"""A trial's config as a file that runs it again."""

import shlex

from orchestrator.space import Sweep, to_yaml
from orchestrator.study.record import TrialRecord
from orchestrator.tracking.chronicle import run_config

CHOSEN = "# The best figure of a search is too good on average: it was chosen for being the best.\n"


def config_yaml(sweep: Sweep, record: TrialRecord, file: str, chosen: bool = False) -> str:
    """The config of a trial below its figure; `file` is where it will stand, `chosen`: it is the best."""
    last = record.last(sweep.config.objective.metric)
    reached = f": {sweep.config.objective.metric} {last[1]:.6f} after epoch {last[0]}" if last else ""
    head = (
        f"# Trial {record.id} of sweep {sweep.config.name}{reached}.\n"
        f"{CHOSEN if chosen else ''}"
        f"# {shlex.join(['hjepa-train', file])} runs it again.\n"
    )
    run = run_config(sweep, record)
    # The same numbers in one process as with the sweep's workers, up to rounding.
    return head + to_yaml(run.model_copy(update={"distributed": sweep.base.distributed}))
