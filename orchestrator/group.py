"""A trial under Ray Train: a TorchTrainer's workers, which stay together from one trial to the next.

Tune sees an actor that computes nothing. It starts the group, tells it what to do, and passes on what
the first worker reports. Orders and reports go over a desk, an actor of their own: Train's own reports
arrive every half second at best, and a worker must not begin an epoch before ASHA has let it.
"""

import asyncio
import os
import threading
import uuid
from typing import Any, Literal

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.space import ResourcesConfig
from orchestrator.trial import Outcome, Task, TrialWork

LOOK_S = 0.5
"""Seconds between two looks at whether the group is alive, ours and Train's."""
END_S = 4.0
"""Seconds that a group has to end by itself."""

Order = dict[str, Any] | Literal["epoch", "end"]
"""A trial to take on, as a Tune config; one more epoch of it; or to go home."""


class Desk:
    """Where orders wait for each worker, and the first one's reports for Tune."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.reports: list[dict[str, Any]] = []
        self.entered: set[int] = set()
        self.news = asyncio.Condition()

    async def enter(self, rank: int) -> bool:
        """Whether a worker of this rank comes for the first time: orders are given once."""
        new = rank not in self.entered
        self.entered.add(rank)
        return new

    async def give(self, *orders: Order) -> None:
        """Leave orders for all workers."""
        async with self.news:
            self.orders.extend(orders)
            self.news.notify_all()

    async def order(self, number: int) -> Order:
        """The order of this number, from 0, once it is there."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.orders) > number)
            return self.orders[number]

    async def report(self, result: dict[str, Any]) -> None:
        """Leave a report."""
        async with self.news:
            self.reports.append(result)
            self.news.notify_all()

    async def heard(self, timeout_s: float) -> dict[str, Any] | None:
        """The oldest report, once there is one; None where none comes in time."""
        async with self.news:
            try:
                await asyncio.wait_for(self.news.wait_for(lambda: bool(self.reports)), timeout_s)
            except TimeoutError:
                return None
            return self.reports.pop(0)


def serve(config: dict[str, Any]) -> None:
    """What each worker does: take orders until it may go home."""
    desk, rank, number = config["desk"], ray.train.get_context().get_world_rank(), 0
    if not ray.get(desk.enter.remote(rank)):
        raise RuntimeError(f"worker {rank} was started again, and its trial is not told twice")
    work: TrialWork | None = None
    while (order := ray.get(desk.order.remote(number))) != "end":
        number += 1
        if isinstance(order, dict):
            if work is not None:
                work.close()
            work = TrialWork(Task.of(order))
            continue
        assert work is not None
        while True:
            outcome = work.step()
            if rank == 0:
                ray.get(desk.report.remote(outcome.result()))
            if outcome.paused is None:
                break


class Group:
    """Workers of one TorchTrainer, from their start to their end."""

    def __init__(self, config: ResourcesConfig, storage: str):
        # Train looks after its workers this often; it reads this where the trainer is made.
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(LOOK_S)
        self.desk = ray.remote(num_cpus=0)(Desk).remote()
        self.error: Exception | None = None
        per_worker = {"CPU": float(config.cpus_per_worker)}
        if config.gpus_per_worker:
            per_worker["GPU"] = config.gpus_per_worker
        self._trainer = TorchTrainer(
            serve,
            train_loop_config={"desk": self.desk},
            torch_config=TorchConfig(backend=config.backend),
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers,
                use_gpu=bool(config.gpus_per_worker),
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                # Never a name that was there before: Train would go on with that run.
                name=f"group-{uuid.uuid4().hex}",
                storage_path=storage,
                # Whoever is lost is started again by the sweep, which counts it.
                failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            self.error = error

    def give(self, *orders: Order) -> None:
        """Tell all workers what to do next."""
        ray.get(self.desk.give.remote(*orders))

    def hear(self) -> dict[str, Any]:
        """The first worker's next report. RuntimeError where the group ended instead."""
        while True:
            over = not self._thread.is_alive()
            result = ray.get(self.desk.heard.remote(0.0 if over else LOOK_S))
            if result is not None:
                return result
            if over:
                raise RuntimeError(f"the trial's workers ended: {self.error}")

    def end(self) -> None:
        """Send the workers home, and wait a while until their places are free."""
        self.give("end")
        self._thread.join(END_S)
        ray.kill(self.desk)


class GroupActor(tune.Trainable):
    """Runs one trial after another in a group of workers."""

    def setup(self, config: dict[str, Any], resources: ResourcesConfig, storage: str) -> None:
        """Take on a trial; the group begins with its first epoch."""
        self.resources, self.storage = resources, storage
        self.group: Group | None = None
        self.task = config
        self.told = self.busy = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the last trial and take on the next; always possible."""
        if self.busy:  # it waits for space, and would report to the next trial
            self.cleanup()
        self.task, self.told = new_config, False
        return True

    def step(self) -> dict[str, Any]:
        """One epoch and its checkpoint."""
        if self.group is None:
            self.group = Group(self.resources, self.storage)
        if not self.busy:
            self.group.give(*(() if self.told else (self.task,)), "epoch")
            self.told = self.busy = True
        result = self.group.hear()
        self.busy = Outcome.of(result).paused is not None
        return result

    def cleanup(self) -> None:
        """Stop the trial and let the workers go."""
        if self.group is not None:
            self.group.end()
        self.group, self.told, self.busy = None, False, False
