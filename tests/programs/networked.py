"""A real Ray cluster whose nodes have networks of their own: a head and workers in network namespaces.

They meet at a bridge, from which this process reaches the head as a laptop reaches a cluster. A node can be
killed, and cut off from the network for a while.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.workplace import OUTSIDE

PORT, DASHBOARD = 6379, 8265
_ON_ITS_DISK = 'mount --bind "$0" "$1" && shift && exec "$@"'  # seen within the namespace only
START_S = 90


def missing() -> str | None:
    """Why there can be no such cluster here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no program `ip` (Debian: iproute2)"
    name = f"hj{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces are not allowed here"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


class Node:
    """A machine of the cluster: a namespace, an address, a disk of its own, and Ray's processes.

    The disk is `folder`, and at the path `disk` for what runs there, which is the same on all.
    """

    def __init__(self, name: str, address: str, bridge: str, folder: Path, disk: Path):
        self.name, self.address = name, address
        self.folder, self._disk = folder, disk
        self._cable = f"{name}-c"
        folder.mkdir()
        _ip("netns", "add", name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", self._cable, "master", bridge, "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", name, "link", "set", link, "up")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, token: Path) -> None:
        """Start Ray there."""
        python = Path(sys.executable).parent
        env = OUTSIDE | {
            "HOME": str(self._disk),
            "PATH": f"{python}:{os.environ['PATH']}",
            "HJEPA_STATE_DIR": str(self._disk / "s"),
            "RAY_TMPDIR": str(self._disk),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HJEPA_REPORT": "off",
        }
        ray = [str(python / "ray"), "start", "--block", "--disable-usage-stats", *options]
        ray.append(f"--node-ip-address={self.address}")
        with (self.folder / "ray.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "sh", "-c", _ON_ITS_DISK, self.folder, self._disk, *ray],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End all that runs there at once, as a machine that loses power."""
        for pid in _ip("netns", "pids", self.name).split():
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                continue
        if self._process is not None:
            self._process.wait()

    def cut_off(self, seconds: float) -> None:
        """Pull its network cable, and put it back."""
        _ip("link", "set", self._cable, "down")
        time.sleep(seconds)
        _ip("link", "set", self._cable, "up")

    def remove(self) -> None:
        """Take it away."""
        self.kill()
        _ip("netns", "delete", self.name)


class Networked:
    """The cluster."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._mark = secrets.token_hex(2)
        self._bridge = f"hj{self._mark}"
        self._net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32))
        self._disk = folder / "d"
        self._disk.mkdir()
        self.nodes: list[Node] = []
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self._net}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    @property
    def dashboard(self) -> str:
        """Where the head's dashboard is."""
        return f"http://{self.nodes[0].address}:{DASHBOARD}"

    def add(self, cpus: int) -> Node:
        """Add a node and start Ray there; the first is the head."""
        number = len(self.nodes)
        node = Node(
            f"{self._bridge}n{number}",
            f"{self._net}.{number + 2}",
            self._bridge,
            self.folder / str(number),
            self._disk,
        )
        self.nodes.append(node)
        if number == 0:
            where = ["--head", f"--port={PORT}", f"--dashboard-host={node.address}"]
        else:
            where = [f"--address={self.nodes[0].address}:{PORT}"]
        node.start(*where, f"--num-cpus={cpus}", token=self.token)
        if number == 0:
            self._wait()
        return node

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while status_of(f"{self.dashboard}/api/version") is None:
            assert time.monotonic() < deadline, (self.nodes[0].folder / "ray.log").read_text()
            time.sleep(0.5)

    def close(self) -> None:
        """Take everything away."""
        for node in reversed(self.nodes):
            node.remove()
        _ip("link", "delete", self._bridge)


def status_of(url: str) -> int | None:
    """HTTP status of a page asked for without a token; None where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as page:
            return page.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@contextmanager
def networked_cluster() -> Iterator[Networked]:
    """A cluster without nodes as yet."""
    folder = Path(tempfile.mkdtemp(prefix="hj"))
    try:
        cluster = Networked(folder)
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
