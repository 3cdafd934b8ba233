"""Processes that share a run: each takes its rows of every batch, and all do the same step.

Every rank draws the same random numbers for the whole batch, computes on its rows, and sums its
gradients with the others' before the optimizer's step, so weights stay equal without being sent.
Shape letters: B images of a step, P of them a rank's own, S samples, D features.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from hjepa.schema import NO_EFFECT, Config, ConfigError

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up. torchrun ends the rest of a run much sooner."""
PATIENCE = timedelta(hours=24)
"""How long it waits for them to load their images, which one node may have to decode and another not."""
_TOLD_S = 10.0
"""Seconds of that before a line says so."""
_LOOK_S = 0.2
_BEAT_S = 15.0
SILENT_S = 300.0
"""Seconds without a sign of life after which a process that others wait for counts as ended. Signs come from
a thread of their own, whatever the process is at."""
_MET, _BEAT = "hjepa/met", "hjepa/beat"
BUCKET_VALUES = 2**23
"""Gradients that are sent at a time, 32 MiB of float32."""

log = logging.getLogger(__name__)

T = TypeVar("T")
ValuesT = TypeVar("ValuesT", np.ndarray, Tensor)


class LostRankError(RuntimeError):
    """The other processes cannot be reached any more; the text says what torch says."""


class DistributedConfig(Config):
    """Processes that share a run, started by torchrun. They give the numbers of one process up to
    rounding; with dropout or stochastic depth, which each draws for itself, up to chance."""

    enabled: bool | None = Field(default=None, json_schema_extra=NO_EFFECT)
    """Share every optimizer step between the processes; null: where torchrun started several. False under
    a torchrun of several is refused."""
    backend: Literal["auto", "gloo", "nccl"] = Field(default="auto", json_schema_extra=NO_EFFECT)
    """How they talk; auto takes nccl on CUDA, else gloo. nccl needs a GPU for each process."""
    world_size: int | None = Field(default=None, ge=1, json_schema_extra=NO_EFFECT)
    """Processes that torchrun must have started; null takes as many as it did. data.batch_size is what
    they share, so it must be a multiple."""

    @property
    def shares(self) -> bool:
        """Whether this process shares its run."""
        return started() > 1 if self.enabled is None else self.enabled

    def inert(self) -> dict[str, str]:
        if self.enabled is not False:
            return {}
        return dict.fromkeys(("backend", "world_size"), "distributed.enabled is false")


def require_divisible(batch_size: int, world_size: int, in_pairs: bool = False) -> None:
    """ValueError where `world_size` processes cannot share a batch evenly, its pairs of images whole."""
    if in_pairs and world_size > 1 and batch_size % (2 * world_size):
        raise ValueError(
            f"data.batch_size {batch_size} is shared by distributed.world_size {world_size} processes, and "
            f"mixup and CutMix mix pairs of images; it must be a multiple of {2 * world_size}"
        )
    if batch_size % world_size:
        raise ValueError(
            f"data.batch_size {batch_size} is shared by distributed.world_size {world_size} processes; "
            "it must be a multiple of that"
        )


@dataclass(frozen=True)
class Share:
    """A rank's rows of a batch that is drawn for as a whole."""

    batch: int
    """Images of the whole."""
    rows: slice | np.ndarray
    """Which of them; all, as a slice, where one process does everything."""

    def take(self, values_B: ValuesT) -> ValuesT:
        """The rank's rows of an array or CPU tensor."""
        return values_B[self.rows]

    def of_each(self, count: int) -> "Share":
        """The rank's rows of a batch that holds `count` rows for each image, one image after another."""
        if isinstance(self.rows, slice):
            return Share(self.batch * count, self.rows)
        return Share(self.batch * count, (self.rows[:, None] * count + np.arange(count)).ravel())


@dataclass(frozen=True)
class Team:
    """The processes of a run as one of them sees them; alone by default."""

    rank: int = 0
    size: int = 1
    grouped: bool = False
    """Whether there is a process group to talk through."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, batch: int, micro_batch: int) -> Share:
        """This rank's rows of `batch` images that are learnt from `micro_batch` at a time."""
        if self.size == 1:
            return Share(batch, slice(None))
        rows = np.arange(batch).reshape(-1, self.size, micro_batch // self.size)
        return Share(batch, rows[:, self.rank].ravel())

    def meet(self) -> None:
        """Wait until all ranks have come here, PATIENCE at the most: any other call waits TIMEOUT only.

        LostRankError where one has ended: gloo sees that at once, nccl after SILENT_S in a group of
        `process_group`. Of somebody else's group that one has to see it.
        """
        if not self.grouped:
            return
        told = threading.Timer(_TOLD_S, log.warning, ("waits for the other processes to load their images",))
        try:
            told.start()
            with _reaching_others():
                if dist.get_backend() == "gloo":
                    dist.monitored_barrier(timeout=PATIENCE)
                else:
                    meet_at(dist.distributed_c10d._get_default_store(), self.size)
        finally:
            told.cancel()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, the same on all, without gradient."""
        if self.grouped:
            values = values.detach().clone()
            with _reaching_others():
                dist.all_reduce(values)
        return values

    def gather(self, rows_S: Tensor) -> Tensor:
        """The rows of all ranks, which have as many each, in the order of ranks.

        For a term that every rank computes of all rows: each rank's gradient reaches its own rows only,
        `size` times, so that terms divided by `size` add up to the whole term and its gradient.
        """
        return _Gather.apply(rows_S, self) if self.grouped else rows_S  # pyright: ignore[reportReturnType]

    def agree(self, value: T) -> T:
        """Rank 0's value, on all ranks; plain data."""
        if not self.grouped:
            return value
        values = [value]
        with _reaching_others():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def lead(self, work: Callable[[], T]) -> T:
        """What rank 0's `work` gives, or its ConfigError or OSError, on all ranks; no other runs it."""
        if not self.grouped:
            return work()
        outcome: T | ConfigError | OSError | None = None
        if self.leads:
            try:
                outcome = work()
            except (ConfigError, OSError) as error:
                outcome = error
        outcome = self.agree(outcome)
        if isinstance(outcome, ConfigError | OSError):
            raise outcome
        return outcome  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    # torch.distributed.nn's all_gather sends gradients too; here all ranks would send the same ones.
    @staticmethod
    def forward(ctx: Any, rows_S: Tensor, team: Team) -> Tensor:
        ctx.team = team
        found = [torch.empty_like(rows_S, memory_format=torch.contiguous_format) for _ in range(team.size)]
        with _reaching_others():
            dist.all_gather(found, rows_S.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].chunk(ctx.team.size)[ctx.team.rank] * ctx.team.size, None


def meet_at(store: Any, size: int) -> None:
    """Wait until `size` processes have come to a store as often as this one.

    RuntimeError after PATIENCE, and SILENT_S after one of them has stopped `beating`.
    """
    awaited = -(-store.add(_MET, 1) // size) * size
    until_s = time.monotonic() + PATIENCE.total_seconds()
    signs = _Signs(store, size)
    while store.add(_MET, 0) < awaited:
        if time.monotonic() > until_s:
            raise RuntimeError(f"waited {PATIENCE} for them")
        signs.look()
        time.sleep(_LOOK_S)


class _Signs:
    """When each of `size` processes was last seen to be `beating`; one that never did is not missed."""

    def __init__(self, store: Any, size: int):
        self._store, self._size, self._looked_s = store, size, -math.inf
        self._beats: dict[int, tuple[int, float]] = {}

    def look(self) -> None:
        """RuntimeError where one has been silent for SILENT_S."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _BEAT_S:
            return
        self._looked_s = now_s
        for rank in range(self._size):
            beats = self._store.add(f"{_BEAT}/{rank}", 0)
            if beats != self._beats.get(rank, (0, now_s))[0]:
                self._beats[rank] = beats, now_s
            elif beats and now_s - self._beats[rank][1] > SILENT_S:
                raise RuntimeError(f"process {rank} has given no sign of life for {SILENT_S:.0f} s")


@contextmanager
def beating(store: Any, rank: int) -> Iterator[None]:
    """Within, count up in a store, for those who wait for this process at it to see that it lives."""
    over = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the process that had the store has ended, as main threads see too
            store.add(f"{_BEAT}/{rank}", 1)
            while not over.wait(_BEAT_S):
                store.add(f"{_BEAT}/{rank}", 1)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def _reaching_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no narrower one for a connection that broke
        raise LostRankError(f"the other processes are lost: {str(error).splitlines()[0]}") from error


# Not DistributedDataParallel: it averages gradients where whole-step totals need sums, sends constant
# buffers in every forward pass, and wants to know which parameters a step leaves out: its search misses
# what is computed outside of forward(), and its static graph fails with accumulation (torch 2.15).
class GradientSum:
    """Sums gradients over ranks in buckets, while the backward pass still computes the next ones.

    Use: `begin()` before the last backward pass of a step, `finish()` after it. Autograd takes the
    same order on every rank, for all compute the same graph.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self._parameters = [p for p in parameters if p.requires_grad]
        self._under_way = False
        self._reset()
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._ready)

    def begin(self) -> None:
        """From now on send what is ready."""
        self._reset()
        self._under_way = True

    def finish(self) -> None:
        """Send the rest and wait: every gradient is then the sum over ranks."""
        self._under_way = False
        for parameter in self._parameters:  # of earlier passes only, if any
            if parameter.grad is not None and parameter not in self._sent:
                self._add(parameter)
        self._send()
        for work, flat, gradients in self._flights:
            with _reaching_others():
                work.wait()
            parts = flat.split([g.numel() for g in gradients])
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
            )
        self._reset()

    def _reset(self) -> None:
        self._sent: set[Tensor] = set()
        self._bucket: list[Tensor] = []
        self._values = 0
        self._flights: list[tuple[Any, Tensor, list[Tensor]]] = []

    def _ready(self, parameter: Tensor) -> None:
        if self._under_way:
            self._add(parameter)

    @torch.no_grad()
    def _add(self, parameter: Tensor) -> None:
        assert parameter not in self._sent, "a gradient came in twice"
        assert parameter.grad is not None
        self._sent.add(parameter)
        self._bucket.append(parameter.grad)
        self._values += parameter.numel()
        if self._values >= BUCKET_VALUES:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        if self._bucket:
            flat = torch.cat([g.flatten() for g in self._bucket])
            with _reaching_others():
                self._flights.append((dist.all_reduce(flat, async_op=True), flat, self._bucket))
            self._bucket, self._values = [], 0


def started() -> int:
    """Processes that were started together: those of the group, or as torchrun says, else one."""
    if dist.is_initialized():
        return dist.get_world_size()
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return 1
    try:
        return int(os.environ["WORLD_SIZE"])
    except ValueError:
        size = os.environ["WORLD_SIZE"]
        raise ConfigError(f"distributed: WORLD_SIZE is {size!r} in the environment, no number.") from None


def require_started(config: DistributedConfig) -> None:
    """ConfigError where the processes that were started are not those that the config asks for."""
    count, wanted = started(), config.world_size
    if count > 1 and config.enabled is False:
        raise ConfigError(
            f"distributed.enabled is false, but {count} processes were started, each of which would train "
            "the same run.\nAdd --set distributed.enabled=true, or start one process."
        )
    if config.enabled is False or wanted is None or wanted == count:
        return
    if count == 1:
        raise ConfigError(
            f"distributed.world_size is {wanted}, but one process was started. Start them by\n"
            f"  torchrun --nproc-per-node {wanted} -m hjepa train CONFIG\n"
            "or add --set distributed.enabled=false."
        )
    raise ConfigError(
        f"distributed.world_size is {wanted}, but {count} processes were started.\n"
        f"Add --set distributed.world_size={count}, or start {wanted}."
    )


def own_device(config: DistributedConfig, device: torch.device) -> torch.device:
    """This process's own device of the kind `device`. ConfigError where there is none to have."""
    if not config.shares:
        return device
    if device.type == "mps":
        raise ConfigError("distributed.enabled: processes cannot share an MPS device; add --set device=cpu.")
    if device.type == "cpu":
        if config.backend == "nccl":
            raise ConfigError(
                "distributed.backend: nccl needs CUDA, and the device is cpu; "
                "add --set distributed.backend=auto."
            )
        return device
    local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= count and config.backend != "gloo":
        raise ConfigError(
            f"distributed: process {local} of this machine has no GPU of its own, for there are {count}.\n"
            f"Start {count}, or add --set distributed.backend=gloo to let processes share a GPU."
        )
    return torch.device("cuda", local % count)


@contextmanager
def process_group(config: DistributedConfig, device: torch.device) -> Iterator[None]:
    """Within, the processes that were started can talk, if the config says that they shall.

    A group that somebody else has set up is used and left as it is. ConfigError as `require_started`
    and `own_device` say.
    """
    require_started(config)
    if config.shares:
        device = own_device(config, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    if not config.shares or dist.is_initialized():
        yield
        return
    backend = config.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    settings: dict[str, Any] = {"timeout": TIMEOUT}
    if backend == "nccl":
        settings["device_id"] = device
    if started() == 1:  # with or without torchrun
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        settings |= {"store": store, "rank": 0, "world_size": 1}
    else:
        _require_address()
    dist.init_process_group(backend, **settings)
    store = dist.distributed_c10d._get_default_store()
    try:
        with beating(store, dist.get_rank()) if backend == "nccl" else nullcontext():
            yield
    finally:
        dist.destroy_process_group()


def _require_address() -> None:
    """ConfigError where torch would not know who this process is and where it meets the others."""
    given = {name: os.environ.get(name) for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")}
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ConfigError(
            f"distributed: the environment has WORLD_SIZE {started()} and lacks {', '.join(missing)}.\n"
            "Start the processes by torchrun, which sets all of them, or unset RANK and WORLD_SIZE."
        )
    wrong = [f"{name}={given[name]}" for name in ("RANK", "MASTER_PORT") if not str(given[name]).isdecimal()]
    if wrong or int(str(given["RANK"])) >= started():
        told = wrong[0] if wrong else f"RANK={given['RANK']} of WORLD_SIZE={started()}"
        raise ConfigError(f"distributed: {told} in the environment is not possible.")


def team_of(config: DistributedConfig) -> Team:
    """The team of this process. ConfigError as `require_started` says."""
    require_started(config)
    if config.shares and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size(), grouped=True)
    if started() > 1:
        raise RuntimeError("a run of several processes is built within process_group()")
    return Team()
