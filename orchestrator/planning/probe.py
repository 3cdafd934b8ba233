"""Real steps and an evaluation of a config, by as many processes at once as trials will run side by side."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from typing import Any, Self

from orchestrator.engine.trial import Pace
from orchestrator.planning.measuring import Measuring
from orchestrator.process.state import OwnFolder
from orchestrator.space import ResourcesConfig, RunConfig


@dataclass(frozen=True)
class Probe(Pace):
    """What `hjepa.pace` measured: means over the processes, of memory the most."""

    @classmethod
    def of(cls, answers: Sequence[dict[str, Any]]) -> Self:
        """From the processes' answers."""
        most = {name: max(answer[name] for answer in answers) for name in answers[0] if "bytes" in name}
        means = {name: mean(answer[name] for answer in answers) for name in answers[0] if name not in most}
        return cls(**means, **most)

    def epoch_s(self, eval_frequency: int) -> float:
        """An epoch with its checkpoint, on average."""
        return self.steps * self.step_s + self.evaluation_s / eval_frequency + self.save_s


def probe(run: RunConfig, resources: ResourcesConfig, at_once: int, baselines: bool = False) -> Probe:
    """Measure `run` in `at_once` processes at the same time. ConfigError where one cannot."""
    with ExitStack() as stack:
        scratch = stack.enter_context(OwnFolder("s"))
        given = {"run": run.model_dump(mode="json"), "baselines": baselines, "folder": str(scratch)}
        asked = json.dumps(given)
        started = [
            stack.enter_context(Measuring("hjepa.pace", asked, _gpu(resources, number)))
            for number in range(at_once)
        ]
        for process in started:
            process.await_ready()
        for process in started:
            process.say("go")
        return Probe.of([process.answer() for process in started])


def _gpu(resources: ResourcesConfig, number: int) -> int | None:
    """Which GPU the process of that number takes; None as Ray has it for a trial without one."""
    return number // int(1 / resources.gpus) if resources.gpus else None
