"""How many trials fit, and what is refused because it never can."""

import pytest

from orchestrator.engine.capacity import places
from orchestrator.space import ConfigError, ResourcesConfig


def test_as_many_trials_run_as_there_are_cores_for_their_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert places(ResourcesConfig(workers=2, cpus_per_worker=3)) == 2
    assert places(ResourcesConfig(workers=2, cpus_per_worker=3, concurrency=1)) == 1
    assert places(ResourcesConfig(cpus_per_worker=3)) == 5
    with pytest.raises(ConfigError, match=r"asks for 6 workers x 3 = 18 cores, this machine has 16\."):
        places(ResourcesConfig(workers=6, cpus_per_worker=3))


def test_gpus_are_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of 0.6 GPUs each do not fit on one, though 1.2 of 2 are there for them."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert places(ResourcesConfig(gpus_per_worker=0.25)) == 8
    assert places(ResourcesConfig(gpus_per_worker=0.6)) == 2
    assert places(ResourcesConfig(gpus_per_worker=0.6, workers=2)) == 1
    with pytest.raises(ConfigError, match=r"asks for 4 workers x 0\.6 = 2\.4 GPUs, this machine has 2, and"):
        places(ResourcesConfig(gpus_per_worker=0.6, workers=4))


def test_a_worker_lies_on_one_node_and_a_trials_workers_may_lie_on_several():
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}, {"memory": 1e9}]
    assert places(ResourcesConfig(cpus_per_worker=2), nodes) == 3
    assert places(ResourcesConfig(workers=3, cpus_per_worker=2), nodes) == 1
    assert places(ResourcesConfig(gpus_per_worker=0.5), nodes) == 2
    with pytest.raises(ConfigError, match=r"asks for 5 cores, the nodes have 4, 3, 0, and a worker's"):
        places(ResourcesConfig(cpus_per_worker=5), nodes)
    with pytest.raises(ConfigError, match=r"asks for 2 workers x 1 = 2 GPUs, the nodes have 1, 0, 0"):
        places(ResourcesConfig(workers=2, gpus_per_worker=1), nodes)
