"""Sweeps over the core. Only `space` and `engine.trial` know what is swept over.

    space       what may be tried: the file's keys, its distributions and conditions
    search      what is tried next, and what goes on
    engine      where trials run
    study       the durable record of a sweep
    storage     trials' files: folders, stores at a URL
    tracking    MLflow's record
    process     a sweep's processes and the machine under them
    planning    what a sweep will take, before it runs
    watching    how it stands
    analysis    what it has found: effects, intervals, fresh seeds
    reporting   its findings on a page and a terminal
    cluster     the same sweep elsewhere
    doctor      what is wrong with a machine
    cli         the commands

`sweep` is a sweep from its beginning to its end, `running` what a running one does, `docs` a
page of its keys."""

import os
import sys

_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"

# Ray reads these when it is first imported, by whichever module.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # One trial is proposed ahead of a free place: later proposals know more.
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    # The study is the record; Tune's own snapshots would only cost time.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A process in the middle of an epoch does not hear SIGTERM; its files are whole at any moment.
    "RAY_kill_worker_timeout_milliseconds": "500",
}
# Of a Ray of the sweep's own; an existing cluster has its own ways.
_LOCAL = {
    # Makes loopback the node's address on Linux as it is elsewhere; `_node_ip_address` alone is ignored.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # A trial's workers talk over loopback; by default gloo takes what the host's name stands for.
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
}
ADDRESS = "RAY_ADDRESS"
"""Ray's name for the address of an existing cluster, in the environment."""


def cluster_address() -> str | None:
    """Address of the cluster that sweeps are to run on; None: each on a Ray of its own on this machine."""
    address = os.environ.get(ADDRESS)
    return None if address in (None, "", "local") else address


def _set(settings: dict[str, str]) -> dict[str, str]:
    """Set what the environment does not say otherwise; what has been set."""
    missing = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(missing)
    return missing


_set(_SETTINGS)
_set_for_local = {} if cluster_address() else _set(_LOCAL)


def use_cluster(address: str) -> None:
    """Let sweeps of this process run on an existing cluster. Before anything imports Ray."""
    assert "ray" not in sys.modules, "Ray has read its settings"
    os.environ[ADDRESS] = address
    if cluster_address():
        forget_local()


def forget_local() -> None:
    """Let this process have nothing of what is for a Ray of a sweep's own. Before anything imports Ray."""
    for name in _set_for_local:
        os.environ.pop(name, None)
    _set_for_local.clear()
