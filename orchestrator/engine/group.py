"""A trial under Ray Train: a TorchTrainer's workers, which stay together from one trial to the next.

Tune sees an actor that computes nothing. It starts the group, tells it what to do, and passes on what
the first worker reports. Orders and reports go over a desk, an actor of their own: Train's own reports
arrive every half second at best, and a worker must not begin an epoch before ASHA has let it.
"""

import fcntl
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.train
import torch.distributed as dist
from ray import tune
from ray.exceptions import RayError
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from orchestrator.definition import write_whole
from orchestrator.engine.desk import Desk, Order
from orchestrator.engine.trial import TIMEOUT, LostRankError, Outcome, Task, TrialWork
from orchestrator.process.lock import exclusive
from orchestrator.space import ResourcesConfig

LOOK_S = 0.5
"""Seconds between two looks at whether the group is alive, ours and Train's."""
START_S = 21_600.0
"""Seconds that a group waits for its places; `resources.trial_timeout` may end it earlier."""
END_S = 4.0
"""Seconds that a group has to end by itself."""
FREEING = "orphans"
"""File whose lock is held by whoever frees the places of dead groups, or makes the lock of a new one."""


class _NoPort(Backend):
    """Leaves the process group to `serve`: Ray's would meet at a port on all interfaces."""

    share_cuda_visible_devices = True


class _GroupConfig(TorchConfig):
    @property
    def backend_cls(self) -> Any:
        return _NoPort


def serve(config: dict[str, Any]) -> None:
    """What each worker does: take orders until it may go home."""
    desk, context = config["desk"], ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    if not ray.get(desk.enter.remote(rank)):
        raise RuntimeError(f"worker {rank} was started again, and its trial is not told twice")
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    if rank == 0:
        own = get_current_placement_group()
        assert own is not None
        write_whole(Path(config["place"]), own.id.hex())
    if size == 1:
        _take_orders(desk, leads=True)
        return
    store = dist.FileStore(config["store"], size)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(config["backend"], store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        _take_orders(desk, leads=rank == 0)
    finally:
        dist.destroy_process_group()


def _take_orders(desk: Any, leads: bool) -> None:
    work: TrialWork | None = None
    number = 0
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
            if leads:
                ray.get(desk.report.remote(outcome.result()))
            if outcome.paused is None:
                break


class Group:
    """Workers of one TorchTrainer, from their start to their end."""

    def __init__(self, config: ResourcesConfig, storage: str):
        # Train looks after its workers this often; it reads this where the trainer is made.
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(LOOK_S)
        # A trial that has begun before its workers' places are free waits for them.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(START_S)
        self.desk: Any = ray.remote(num_cpus=0)(Desk).remote()
        self.error: Exception | None = None
        per_worker = {"CPU": float(config.cpus_per_worker)}
        if config.gpus:
            per_worker["GPU"] = config.gpus
        name, folder = f"group-{uuid.uuid4().hex}", Path(storage)
        folder.mkdir(parents=True, exist_ok=True)
        free_orphans(folder)
        self._files = [folder / f"{name}.{kind}" for kind in ("lock", "place", "store")]
        lock, place, store = self._files
        self._lock = claim(lock)
        told = {"desk": self.desk, "backend": config.backend, "place": str(place), "store": str(store)}
        self._trainer = TorchTrainer(
            serve,
            train_loop_config=told,
            torch_config=_GroupConfig(backend=config.backend),
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers,
                use_gpu=bool(config.gpus),
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                # Never a name that was there before: Train would go on with that run.
                name=name,
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
        except (ray.train.TrainingFailedError, RayError) as error:
            self.error = error

    def give(self, *orders: Order) -> None:
        """Tell all workers what to do next."""
        ray.get(self.desk.give.remote(*orders))

    def hear(self) -> dict[str, Any]:
        """The first worker's next report. RuntimeError where the group ended instead."""
        while True:
            over = not self._thread.is_alive()
            result: Any = ray.get(self.desk.heard.remote(0.0 if over else LOOK_S))
            if result is not None:
                return result
            if over:
                raise RuntimeError(_reason(self.error))

    def end(self) -> None:
        """Send the workers home, and wait a while until their places are free."""
        self.give("end")
        self._thread.join(END_S)
        ray.kill(self.desk)
        if not self._thread.is_alive():  # else whoever comes next frees their places
            for file in self._files:
                file.unlink(missing_ok=True)
        self._lock.close()


def claim(lock: Path) -> TextIO:
    """The lock file of a group that begins, held until it is closed."""
    # Nobody may find the file before it is held: it would be taken for a dead group's.
    with exclusive(lock.parent / FREEING):
        file = lock.open("w", encoding="ascii")
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def free_orphans(folder: Path) -> None:
    """Free the places of groups whose actor was killed: Ray keeps them, and nothing else would begin.

    Train's own cleaner asks the dashboard, and gets no answer without one or beside another Ray.
    """
    with exclusive(folder / FREEING):
        # A worker may outlive its actor, and write down its places when the lock's file is gone.
        left = {path.with_suffix(".lock") for kind in ("lock", "place") for path in folder.glob(f"*.{kind}")}
        for path in left:
            with path.open("a", encoding="ascii") as lock:
                _free_orphan(path, lock)


def _free_orphan(path: Path, lock: TextIO) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # its actor lives
    place = path.with_suffix(".place")
    with suppress(FileNotFoundError):  # it may be ending by itself
        identity = ray.PlacementGroupID(bytes.fromhex(place.read_text(encoding="ascii")))
        remove_placement_group(PlacementGroup(identity))
        place.unlink()
    path.unlink(missing_ok=True)


def _reason(error: Exception | None) -> str:
    """Why a group ended: what befell a worker itself, rather than that others missed it."""
    failures = error.worker_failures if isinstance(error, ray.train.WorkerGroupError) else {}
    told = {rank: str(failure).strip() for rank, failure in failures.items()}
    own = {rank: text for rank, text in told.items() if LostRankError.__name__ not in text} or told
    for rank, text in own.items():
        end = "died" if "health check failed" in text else f"said {text.splitlines()[-1]}"
        return f"{text}\nworker {rank} of the trial {end}"
    return f"the trial's workers ended: {error}"


class GroupActor(tune.Trainable):
    """Runs one trial after another in a group of workers."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, config: dict[str, Any], resources: ResourcesConfig, storage: str
    ) -> None:
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
