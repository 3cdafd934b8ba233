"""All that is looked at, in the order in which one thing needs another."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from orchestrator.doctor.connection import connection
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.machine import machine
from orchestrator.doctor.node import Question
from orchestrator.doctor.nodes import nodes, placement
from orchestrator.doctor.packing import packing
from orchestrator.doctor.stores import checkpoints, marked, study, tracking
from orchestrator.engine.engine import connected, local_ray
from orchestrator.space import ConfigError, ResourcesConfig, Sweep
from orchestrator.study.place import Place


def diagnose(
    address: str | None,
    results: Path,
    tracking_uri: str,
    sweep: Sweep | None = None,
    place: Place | None = None,
) -> Iterator[Finding]:
    """Whether `sweep`, or any, could run on the Ray cluster at `address`; None: on a Ray of its own here.

    Findings come as they are made, which takes seconds to minutes. Nothing stays written. For a cluster,
    `orchestrator.use_cluster(address)` has to be called before anything imports Ray.
    """
    config = ResourcesConfig() if sweep is None else sweep.config.resources
    yield from machine()
    if sweep is not None and config.pack is not None:
        yield packing(sweep, address)
    with marked(results) as (marker, finding):
        yield finding
        yield tracking(tracking_uri)
        if place is not None:
            yield study(place)
        if config.checkpoints is not None:
            yield checkpoints(config.checkpoints)
        if address is not None:
            through = connection(address)
            yield through
            if not through.ok:
                return
        question = Question(
            marker=str(marker or results),
            working_dir=str(Path.cwd()),
            run=None if sweep is None else sweep.base.model_dump_json(),
            checkpoints=config.checkpoints,
        )
        with ExitStack() as stack:
            try:
                stack.enter_context(local_ray(config) if address is None else connected(address))
            except ConfigError as error:
                what = "placement" if str(error).startswith("resources.") else "ray"
                fix = "ask for less in `resources`" if what == "placement" else "see docs/troubleshooting.md"
                yield Finding(what, False, str(error).rstrip("."), fix)
                return
            yield from nodes(config, question)
            yield placement(config)
