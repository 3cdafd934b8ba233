"""What a sweep that is over leaves behind: the best config and its model, the report, the last records."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from orchestrator.analysis.front import front
from orchestrator.budget import Purse
from orchestrator.config_file import config_yaml
from orchestrator.definition import BASE, PLAN, REPORT, SPACE, write_whole
from orchestrator.process.environment import ENVIRONMENT
from orchestrator.process.state import OwnFolder
from orchestrator.process.stopping import Stop
from orchestrator.reporting.terminal import SweepResult
from orchestrator.space import ConfigError, Sweep
from orchestrator.storage.checkpoints import checkpoints_of
from orchestrator.storage.depot import Depot
from orchestrator.storage.disk import Patience, explain
from orchestrator.study.record import TrialRecord, standing
from orchestrator.study.study import Study
from orchestrator.tracking.chronicle import Chronicle
from orchestrator.tracking.tracking import Tracker

BEST, MODEL = "best.yaml", "model"
"""The best trial's config, and the folder of its features as a function."""
SETTING = (SPACE, BASE, ENVIRONMENT, PLAN)
"""Files that say what was run, and on what."""
DELIVERY_S = 60.0
"""Seconds that the end of a sweep waits for MLflow; what is late stays in the spool."""


class Ending:
    """Writes what was found, and closes the records."""

    def __init__(
        self,
        folder: Path,
        sweep: Sweep,
        study: Study,
        tracker: Tracker,
        chronicle: Chronicle,
        patience: Patience,
        depot: Depot | None,
        say: Callable[[str], None],
    ):
        """`depot` is where trials keep their checkpoints, None: in their folders; `say` tells the user."""
        self.folder, self.sweep, self.study, self.tracker = folder, sweep, study, tracker
        self.chronicle, self.patience, self.depot, self.say = chronicle, patience, depot, say

    def write(self) -> None:
        """Write the best config and the report, for MLflow too, and last of all that this is done.

        What could not be done is said, and left for the next start.
        """
        best, base, whole = self.study.best(), self.study.base(), True
        if best is not None:
            path = self.folder / BEST
            text = config_yaml(self.sweep, best, str(path), chosen=True)
            self.patience(lambda: write_whole(path, text))
            self.tracker.log_artifact(path)
            whole = self._keep_model(best)
        for name in SETTING:
            if (self.folder / name).exists():
                self.tracker.log_artifact(self.folder / name)
        self._draw()
        if self.depot is not None:
            whole = self._hand_over(self.depot) and whole
        summary = {}
        for name, record in (("best", best), ("base", base)):
            last = record.last(self.study.metric) if record else None
            if last is not None:
                summary[f"{name}/{self.study.metric}"] = last[1]
        self.tracker.end_sweep("FINISHED", {"best_trial": best.id if best else ""}, summary)
        if whole:
            self.study.answer()

    def abandon(self, stop: Stop) -> None:
        """Stop in the middle: MLflow's open runs are closed, the study keeps its trials open."""
        for record in self.study.unfinished():
            self.tracker.end_trial(record.id, "KILLED", {"outcome": "interrupted"})
        self.tracker.end_sweep("KILLED", {}, {})
        self.tracker.leave(stop.time_left(), lambda: stop.twice)

    def _keep_model(self, best: TrialRecord) -> bool:
        """Keep the best trial's features as a function; whether that was done. What was found does not depend
        on it."""
        try:
            with OwnFolder("s") as scratch:
                kept = self.patience(lambda: self._last_checkpoint(best, scratch))
                if kept is not None:
                    self.patience(lambda: self.chronicle.found(best, kept, self.folder / MODEL))
        except (ConfigError, OSError) as error:
            why = explain(error) if isinstance(error, OSError) else str(error).rstrip(".")
            self.say(f"the best trial's features are not kept as a model: {why}; {self._again}")
            return False
        return True

    def _last_checkpoint(self, record: TrialRecord, scratch: Path) -> Path | None:
        """A trial's newest checkpoint as a local file, where need be fetched into `scratch`."""
        if self.depot is None or record.checkpoint is None:
            return next(iter(checkpoints_of(self.folder, self.study, record)), None)
        self.depot.folder(record).fetch(record.checkpoint, scratch / record.checkpoint)
        return scratch / record.checkpoint

    def _hand_over(self, depot: Depot) -> bool:
        """Put the answer where the checkpoints are; whether that was done."""
        answer = [self.folder / name for name in (BEST, *SETTING, MODEL, REPORT)]
        try:
            depot.take_in(self.folder, answer, self.patience)
        except OSError as error:
            self.say(f"the results could not be copied to {depot.store}: {explain(error)}; {self._again}")
            return False
        depot.tidy()
        if depot.untidy:
            ids = ", ".join(record.id for record in depot.untidy.values())
            self.say(f"{depot.store} may hold checkpoints that are no longer needed, of trials {ids}")
        return True

    @property
    def _again(self) -> str:
        return f"{self._command('resume')} tries again"

    def _command(self, command: str) -> str:
        """What does something with this sweep."""
        return shlex.join(
            ["hjepa-sweep", command, self.sweep.config.name, "--results", str(self.folder.parent)]
        )

    def _draw(self) -> None:
        """Write the report, for MLflow too. What was found does not depend on its being drawn."""
        if os.environ.get("HJEPA_REPORT") == "off":
            return
        self.say("writing the report")
        try:
            from orchestrator.reporting.write import draw_end

            trials, ended = list(self.study.trials.values()), ended_by(self.sweep, self.study)
            folder = draw_end(self.folder, self.sweep, trials, ended)
        except Exception as error:  # noqa: BLE001 - drawing runs over much code of others
            again = f"{self._command('report')} draws it"
            self.say(f"the report could not be drawn ({type(error).__name__}: {error}); {again}")
        else:
            self.tracker.log_artifact(folder, folder.name)


def result_of(folder: Path, sweep: Sweep, study: Study, late: int) -> SweepResult:
    """How the sweep stands; `late` records have not reached MLflow."""
    budgets, metrics = ended_by(sweep, study), sweep.config.objective.metrics
    beaten_by_none = front(standing(study.trials.values()), metrics) if len(metrics) > 1 else []
    return SweepResult(
        folder, list(study.trials.values()), study.best(), study.base(), late, budgets, beaten_by_none
    )


def ended_by(sweep: Sweep, study: Study) -> list[str]:
    """What ended the search before its last trial, and how its budgets stand, in words."""
    return [*([] if study.exhausted is None else [study.exhausted]), *Purse(sweep, study).words()]
