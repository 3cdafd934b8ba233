"""Real steps and an evaluation of a config, by as many processes at once as trials will run side by side."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from typing import Any, Self

from orchestrator.space import ConfigError, ResourcesConfig, RunConfig
from orchestrator.trial import Pace


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
    asked = json.dumps({"run": run.model_dump(mode="json"), "baselines": baselines}) + "\n"
    with ExitStack() as stack:
        started = [stack.enter_context(_process(resources, number)) for number in range(at_once)]
        stack.callback(_end, started)
        for process in started:
            _say(process, asked)
        for process in started:
            line = _heard(process)
            if line != "ready":
                raise ConfigError(f"nothing could be measured: {_reason(process, line)}")
        for process in started:
            _say(process, "go\n")
        return Probe.of([_answer(process) for process in started])


def _process(resources: ResourcesConfig, number: int) -> "subprocess.Popen[str]":
    environment = dict(os.environ)
    if resources.gpus_per_worker:
        environment["CUDA_VISIBLE_DEVICES"] = str(int(number * resources.gpus_per_worker))
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # as Ray has it for a trial without a GPU
    return subprocess.Popen(
        [sys.executable, "-m", "hjepa.pace"],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _say(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has died, and what it says instead of an answer tells why


def _heard(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    line = _heard(process)
    try:
        return json.loads(line)
    except ValueError:
        raise ConfigError(f"nothing could be measured: {_reason(process, line)}") from None


def _reason(process: "subprocess.Popen[str]", line: str) -> str:
    """What a process said that did not measure, or how it ended."""
    if line:
        return str(json.loads(line)["error"])
    assert process.stderr is not None
    last = process.stderr.read().strip().splitlines()[-1:]
    return last[0] if last else f"its process ended with status {process.wait()}"


def _end(processes: "Sequence[subprocess.Popen[str]]") -> None:
    for process in processes:
        process.kill()
