"""Whether a client gets through to a Ray cluster, tried in a process of its own.

Ray names a wrong token only in what its own library prints, and goes on trying for a while.
"""

import os
import re
import subprocess
import sys
import threading
from queue import Empty, Queue
from time import monotonic

from orchestrator.doctor.finding import Finding
from orchestrator.engine.engine import require_listener
from orchestrator.process.imports import own_imports
from orchestrator.space import ConfigError

WAIT_S = 60.0
"""Seconds that a connection may take."""

_TRY = """
import sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40)
except Exception as error:
    print("REFUSED", type(error).__name__, " ".join(str(error).split()), flush=True)
else:
    print("THROUGH", ray.__version__, flush=True)
"""
_TOKEN = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the token that the cluster was "
    "started with"
)


def connection(address: str) -> Finding:
    """Whether Ray's versions and authentication agree with those of the cluster at `address`."""
    try:
        require_listener(address)
    except ConfigError as error:
        said, _, fix = str(error).partition("\n")
        return Finding("ray", False, said.rstrip("."), fix)
    process = subprocess.Popen(
        [sys.executable, "-c", _TRY, address],
        env=os.environ | own_imports(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: Queue[str | None] = Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        return _judged(address, lines)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def _read(process: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _judged(address: str, lines: "Queue[str | None]") -> Finding:
    deadline, last = monotonic() + WAIT_S, ""
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            return _unreachable(address, f"no answer within {WAIT_S:.0f} s")
        if line is None:
            return _unreachable(address, last or "the client ended without a word")
        last = " ".join(line.split())
        if line.startswith("THROUGH"):
            version = line.split()[1]
            return Finding("ray", True, f"{address} lets this client in; Ray {version} on both sides")
        found = _known(address, last)
        if found is not None:
            return found
        if line.startswith("REFUSED"):
            return _unreachable(address, last.removeprefix("REFUSED "))


def _known(address: str, said: str) -> Finding | None:
    """What a line of Ray's means, where that is known."""
    if "InvalidAuthToken" in said or "AuthenticationError" in said:
        none = "no authentication token was found" in said
        why = "this client has no token" if none else "the cluster refuses this client's token, or lack of it"
        return Finding("ray", False, f"{address}: {why}", _TOKEN)
    if "Version mismatch" in said:
        versions = re.search(r"Ray: ([\d.]+).*Python: ([\d.]+).*Ray: ([\d.]+).*Python: ([\d.]+)", said)
        if versions is None:
            return Finding("ray", False, said, "install the cluster's versions of Ray and Python here")
        ray, python, ours, our_python = versions.groups()
        text = f"{address} runs Ray {ray} on Python {python}, this client Ray {ours} on Python {our_python}"
        return Finding("ray", False, text, f"use Python {python} here, and pip install 'ray=={ray}'")
    return None


def _unreachable(address: str, why: str) -> Finding:
    return Finding(
        "ray",
        False,
        f"{address}: no Ray cluster can be reached there: {why[:300]}",
        "on its first node `ray start --head` says the address; the machine that drives a sweep has to be a "
        "node of the cluster itself",
    )
