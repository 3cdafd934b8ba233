"""A sweep on one machine is nobody else's business: who can reach it, and what it leaves written."""

import ast
import ipaddress
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import orchestrator
from orchestrator.space import ConfigError, load_sweep
from tests.workplace import SPACE, Workplace, sweep_to_kill, wait_for

SECRET = "canary-7f3a91c2"

# A local Ray with an actor on it, what its processes listen on, and what it says to one without its token.
LISTENERS = """
import json, os, subprocess, sys
from pathlib import Path
import psutil
from orchestrator.engine.engine import local_ray
from orchestrator.space import ResourcesConfig
import ray

with local_ray(ResourcesConfig()) as scratch:
    @ray.remote
    class Worker:
        def pid(self):
            return os.getpid()

    ray.get(Worker.remote().pid.remote())
    me = psutil.Process()
    sockets = [
        (process.name(), socket.laddr.ip)
        for process in (me, *me.children(recursive=True))
        for socket in process.net_connections(kind="tcp")
        if socket.status == psutil.CONN_LISTEN
    ]
    folder = scratch.parent
    token = folder / "token"
    address = ray.get_runtime_context().gcs_address
    other = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    other |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    refused = subprocess.run(
        [sys.executable, "-c", "import ray, sys; ray._raylet.GcsClient(address=sys.argv[1])", address],
        env=other, capture_output=True, text=True,
    )
    print(json.dumps({
        "refused": [refused.returncode, "AuthenticationError" in refused.stderr],
        "sockets": sockets,
        "token": token.stat().st_mode,
        "mode": os.environ["RAY_AUTH_MODE"],
        "state": folder.parent.stat().st_mode,
        "usage": os.environ["RAY_USAGE_STATS_ENABLED"],
    }))
"""


@pytest.fixture(scope="module")
def local(shared_workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        cwd=shared_workplace.folder,
        env=shared_workplace.env | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"home": sorted(path.name for path in home.iterdir())}


def test_a_local_sweep_listens_on_loopback_only(local: dict[str, Any]):
    assert len(local["sockets"]) > 5
    for process, address in local["sockets"]:
        plain = ipaddress.ip_address(address.removeprefix("::ffff:"))
        assert plain.is_loopback, f"{process} listens on {address}"


def test_its_ray_asks_for_a_token_that_only_its_user_can_read(local: dict[str, Any]):
    assert local["mode"] == "token"
    assert stat.S_IMODE(local["token"]) == 0o600
    assert stat.S_IMODE(local["state"]) == 0o700


def test_it_tells_nobody_and_leaves_the_home_folder_alone(local: dict[str, Any]):
    assert local["usage"] == "0"
    assert ".ray" not in local["home"]


def test_a_wrong_token_is_refused(local: dict[str, Any]):
    assert local["refused"] == [1, True]


@pytest.mark.slow
def test_a_secret_of_a_tracking_url_stands_in_no_file_nor_on_a_command_line(workplace: Workplace):
    """Of a sweep that is killed too, whose Ray leaves its logs behind."""
    workplace.env |= {"AWS_SECRET_ACCESS_KEY": SECRET}
    workplace.write("tiny.yaml", SPACE | {"scheduler": {"type": "fifo", "max_epochs": 30}})
    uri = f"http://me:{SECRET}@127.0.0.1:9"
    said = workplace.folder / "said"
    with sweep_to_kill(workplace, "tiny.yaml", "--tracking-uri", uri, output=said) as process:
        wait_for(workplace.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 2', process)
        driver = psutil.Process(process.pid)
        below = driver.children(recursive=True)
        (raylet,) = [other for other in below if "raylet" in other.name()]
        given = raylet.environ()  # and so a trial's
        lines = [" ".join(other.cmdline()) for other in (driver, *below)]
    assert "--tracking-uri http://me@127.0.0.1:9" in lines[0]
    assert [line for line in lines if SECRET in line] == []
    holders = [name for name, value in given.items() if SECRET in value]
    assert holders == ["AWS_SECRET_ACCESS_KEY"]  # the user's own
    assert workplace.holding(SECRET) == []


def test_nothing_is_put_where_all_users_put_theirs_but_the_word_that_tries_a_store() -> None:
    """In TMPDIR, where what makes temporary files is not told another folder."""
    makers = {"TemporaryDirectory", "TemporaryFile", "NamedTemporaryFile", "mkdtemp", "mkstemp", "gettempdir"}
    found = {
        file.name
        for file in Path(orchestrator.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", getattr(call.func, "id", "")) in makers
        and not any(keyword.arg == "dir" for keyword in call.keywords)
    }
    assert found == {"store.py"}


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", "x" * 65, "a b", "-rf"])
def test_a_name_that_could_leave_the_results_folder_is_refused(workplace: Workplace, name: str):
    with pytest.raises(ConfigError, match="name"):
        load_sweep(workplace.folder / "tiny.yaml", overrides={"name": name})
