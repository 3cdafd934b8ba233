"""Clusters of `ray up`: their YAML by Ray's own rules, and the scripts that run a sweep there."""

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cluster.base import Submission
from orchestrator.cluster.profile import parse_profile
from orchestrator.cluster.ray_up import RayUpProfile, cluster_name
from orchestrator.space import ConfigError, load_sweep
from tests.orchestrator.cluster.standin import StandIn
from tests.programs.nodes import Nodes
from tests.workplace import SPACE, Workplace, records, wait_for

CHECKOUT = Path(__file__).parents[3]
PROVIDERS: dict[str, dict[str, Any]] = {
    "aws": {"type": "aws", "region": "us-west-2", "worker_machine": "g5.2xlarge"},
    "gcp": {
        "type": "gcp",
        "project": "lab",
        "region": "us-central1",
        "zone": "us-central1-a",
        "image": "projects/lab/global/images/hjepa",
        "worker_machine": "g2-standard-8",
    },
    "local": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
}


def submission(**changes: Any) -> Submission:
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return Submission(load_sweep(CHECKOUT / "search_spaces/fpn.yaml", overrides=overrides))


def profile(kind: str, **changes: Any) -> RayUpProfile:
    provider = PROVIDERS[kind] | changes.pop("provider", {})
    base = {"type": "ray-up", "provider": provider, "cpus_per_node": 8, "shared": True}
    found = parse_profile(base | changes, "here")
    assert isinstance(found, RayUpProfile)
    return found


def preview(kind: str, sent: Submission | None = None, **changes: Any) -> dict[str, Any]:
    """The cluster, as Ray reads it from the file: valid, and with Ray's defaults."""
    text = profile(kind, **changes).preview(sent or submission(), Path("results"))
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


@pytest.mark.parametrize("kind", PROVIDERS)
def test_the_yaml_is_valid_to_ray(kind: str):
    config = preview(kind, idle_s=90, ssh_user="me", setup=["pip install hjepa-sweep"])
    assert config["provider"]["type"] == kind
    assert config["idle_timeout_minutes"] == 1.5
    assert config["auth"]["ssh_user"] == "me"
    assert config["worker_setup_commands"] == ["pip install hjepa-sweep"]
    assert not any("0.0.0.0" in command for command in config["head_start_ray_commands"])


def test_workers_are_spot_and_the_head_is_not():
    kinds = preview("aws", provider={"max_price": 0.6})["available_node_types"]
    assert kinds["workers"]["node_config"]["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"MaxPrice": "0.6"},
    }
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    kinds = preview("gcp", gpus_per_node=1)["available_node_types"]
    assert kinds["workers"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert "scheduling" not in kinds["head"]["node_config"]
    for kind in ("aws", "gcp"):
        worker = preview(kind, spot=False)["available_node_types"]["workers"]["node_config"]
        assert "SPOT" not in str(worker).upper()


def test_trials_run_on_workers_alone_and_as_many_are_kept_as_one_takes():
    sent = submission(resources__workers=4, resources__cpus_per_worker=4, resources__gpus_per_worker=1)
    kinds = preview("aws", sent, gpus_per_node=1, max_workers=6)["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["workers"]["resources"] == {"CPU": 8, "GPU": 1}
    assert (kinds["workers"]["min_workers"], kinds["workers"]["max_workers"]) == (4, 6)
    assert "--num-cpus=0" in preview("aws")["head_start_ray_commands"][1]


def test_of_ones_own_machines_all_are_used_the_head_too():
    config = preview("local", gpus_per_node=2)
    (machine,) = config["available_node_types"].values()
    assert (machine["min_workers"], machine["max_workers"]) == (2, 2)
    assert "--num-cpus=8 --num-gpus=2" in config["head_start_ray_commands"][1]
    preview("local", submission(resources__workers=8, resources__cpus_per_worker=3), cpus_per_node=9)
    with pytest.raises(ConfigError, match="the nodes have 8, 8, 8"):
        preview("local", submission(resources__workers=4, resources__cpus_per_worker=8))


def test_further_keys_of_the_cloud_go_to_its_machines():
    role = {"IamInstanceProfile": {"Arn": "arn:aws:iam::1:instance-profile/hjepa"}}
    kinds = preview("aws", head_node=role, worker_node=role | {"InstanceType": "p5.48xlarge"})[
        "available_node_types"
    ]
    assert kinds["head"]["node_config"]["IamInstanceProfile"] == role["IamInstanceProfile"]
    assert kinds["workers"]["node_config"]["InstanceType"] == "p5.48xlarge"


def test_accelerators_are_added_to_workers_of_gcp():
    kinds = preview("gcp", gpus_per_node=2, spot=False, provider={"accelerator": "nvidia-tesla-t4"})[
        "available_node_types"
    ]
    added = [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 2}]
    assert kinds["workers"]["node_config"]["guestAccelerators"] == added
    assert kinds["workers"]["node_config"]["scheduling"] == {"onHostMaintenance": "TERMINATE"}
    assert "guestAccelerators" not in kinds["head"]["node_config"]


def test_machines_that_share_no_disk_need_a_store_for_checkpoints():
    with pytest.raises(ConfigError, match=r"resources.checkpoints: the machines share no disk"):
        preview("aws", shared=False)
    preview("aws", submission(resources__checkpoints="s3://bucket/folder"), shared=False)
    preview("local", shared=False, provider={"worker_ips": []})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("aws", {"provider": {"type": "azure"}}, "provider.type: 'azure' is not allowed"),
        ("aws", {"provider": {"regoin": "x"}}, "provider.regoin: no such config key"),
        ("aws", {"provider": {"max_price": 0}}, "provider.max_price: 0 is not allowed"),
        ("aws", {"min_workers": 3}, "min_workers 3 is more than max_workers 1"),
        ("local", {"worker_node": {"InstanceType": "x"}}, "head_node and worker_node are a cloud's"),
        ("aws", {"setup": ["a\nb"]}, "setup"),
        ("aws", {"secret_files": {"A B": "~/x"}}, "must be the name of an environment variable"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(kind: str, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        profile(kind, **changes)
    assert message in str(error.value)


def test_what_ray_itself_refuses_is_one_message(monkeypatch: pytest.MonkeyPatch):
    made = profile("aws")
    settings = made._config("tiny", 0, {})
    monkeypatch.setattr(RayUpProfile, "_config", lambda *given: settings | {"idle_timeout_minutes": -1})
    with pytest.raises(
        ConfigError, match=r"^ray up refuses idle_timeout_minutes: -1 is less than the minimum"
    ):
        made.preview(submission(), Path("results"))


@pytest.mark.parametrize("name", ["Fpn_v2.0-", "A" * 64, "a"])
def test_a_cluster_has_a_name_that_clouds_take(name: str):
    config = preview("gcp", submission(name=name))
    assert config["cluster_name"] == cluster_name(name)
    assert config["cluster_name"].replace("-", "").isalnum()
    assert config["cluster_name"].islower()
    assert len(config["cluster_name"]) <= 40
    assert cluster_name(name) != cluster_name(name.swapcase())


@pytest.fixture
def here(workplace: Workplace) -> Workplace:
    (workplace.folder / "clusters").mkdir()
    local = {"type": "local", "head_ip": "10.0.0.1"}
    workplace.write("clusters/here.yaml", {"type": "ray-up", "provider": local, "cpus_per_node": 2})
    return workplace


def test_submit_writes_the_cluster_and_starts_nothing(here: Workplace):
    ray = StandIn(here, "ray")
    done = here.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 0, done.stderr
    (folder,) = (here.folder / "results/.submitted").iterdir()
    validate_config(prepare_config(yaml.safe_load((folder / "cluster.yaml").read_text())))
    assert {file.name for file in folder.iterdir()} == {
        *("cluster.yaml", "sweep.yaml", "base.yaml", "run.sh", "stop.sh", "token")
    }
    token = folder / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() not in (folder / "cluster.yaml").read_text() + done.stdout
    commands = [line.split("    ")[0] for line in done.stdout.splitlines() if line.startswith("ray ")]
    assert [shlex.split(line)[1] for line in commands] == ["up", "exec", "attach", "down"]
    assert all(str(folder / "cluster.yaml") in shlex.split(line) for line in commands)
    assert ray.calls() == []

    before = here.files()
    assert here.ask("submit", "tiny.yaml", "--to", "here").returncode == 0
    assert here.files() == before, "sent twice, it is the same cluster"

    os.truncate(token, 0)  # as by a process that died before it wrote it
    assert here.ask("submit", "tiny.yaml", "--to", "here").returncode == 0
    assert len(token.read_text()) == 64


def test_dry_run_prints_the_cluster_and_writes_nothing(here: Workplace):
    before = here.files()
    done = here.ask("submit", "tiny.yaml", "--to", "here", "--dry-run")
    assert done.returncode == 0, done.stderr
    validate_config(prepare_config(yaml.safe_load(done.stdout)))
    assert here.files() == before


def test_stop_asks_the_head(here: Workplace):
    ray = StandIn(here, "ray")
    done = here.ask("stop", "tiny", "--to", "here")
    assert done.returncode == 0, done.stderr
    ((verb, file, command),) = ray.calls()
    assert verb == "exec"
    assert command == f"bash ~/.hjepa/{cluster_name('tiny')}/stop.sh"
    assert not Path(file).exists(), "it was for that call alone"
    ray.answer("exec", error="ssh: connect to host 10.0.0.1 port 22: No route to host\n", status=1)
    done = here.ask("stop", "tiny", "--to", "here")
    assert done.returncode == 2
    assert "No route to host" in done.stderr


def test_where_there_is_no_ray_it_is_said_in_words(here: Workplace):
    here.env["PATH"] = str(here.folder)
    done = here.ask("stop", "tiny", "--to", "here")
    assert done.returncode == 2
    assert "ray: no such program: install hjepa-sweep[sweep]." in done.stderr


def test_the_scripts_are_valid_whatever_the_names(here: Workplace):
    here.write(
        "clusters/here.yaml",
        {
            "type": "ray-up",
            "provider": {"type": "local", "head_ip": "10.0.0.1"},
            "cpus_per_node": 2,
            "activate": "source ~/my\\ env/bin/activate",
            "results": "~/re sults",
            "secret_files": {"HJEPA_STORAGE": "~/my file"},
        },
    )
    done = here.ask(
        "submit", "tiny.yaml", "--to", "here", "--set", "name=T.1_", "--storage", "sqlite:////a 'b"
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (here.folder / "results/.submitted").iterdir()
    for name in ("run.sh", "stop.sh"):
        text = (folder / name).read_text()
        assert os.system(f"bash -n {shlex.quote(str(folder / name))}") == 0
        assert 'HJEPA_STORAGE="$(cat "$HOME"/\'my file\')" && export HJEPA_STORAGE || exit' in text
        assert "--results \"$HOME\"/'re sults'" in text


def test_a_secret_that_cannot_be_read_ends_the_script_before_the_sweep(here: Workplace):
    """Without HJEPA_STORAGE it would be kept in a journal."""
    profile = {"type": "ray-up", "provider": {"type": "local", "head_ip": "10.0.0.1"}, "cpus_per_node": 2}
    here.write("clusters/here.yaml", profile | {"secret_files": {"HJEPA_STORAGE": "~/my file"}})
    assert here.ask("submit", "tiny.yaml", "--to", "here").returncode == 0
    (script,) = here.folder.glob("results/.submitted/*/stop.sh")
    command = here.folder / "bin/hjepa-sweep"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\necho "began with $HJEPA_STORAGE"\n')
    command.chmod(0o755)
    env = here.env | {"HOME": str(here.folder), "PATH": f"{command.parent}:{here.env['PATH']}"}
    run = partial(subprocess.run, ["bash", str(script)], env=env, text=True, capture_output=True, check=False)
    refused = run()
    assert refused.returncode == 1
    assert "began" not in refused.stdout
    assert "my file': No such file" in refused.stderr
    (here.folder / "my file").write_text("sqlite:////a b\n")
    assert run().stdout == "began with sqlite:////a b\n"


@pytest.mark.slow
def test_the_scripts_run_a_sweep_on_a_real_cluster_stop_it_and_go_on(here: Workplace, cluster: Nodes):
    """As `ray exec` would run them on the head, once `ray up` has put them there."""
    serial = {
        "search": {"algorithm": "random", "num_trials": 1},
        "scheduler": {"type": "fifo", "max_epochs": 40},
    }
    here.write("tiny.yaml", SPACE | serial | {"resources": {"concurrency": 1}})
    assert here.sweep("submit", "tiny.yaml", "--to", "here").returncode == 0
    (sent,) = (here.folder / "results/.submitted").iterdir()
    folder = here.folder / ".hjepa" / cluster_name("tiny")
    folder.parent.mkdir()
    # That cluster has no token, and `auto` would be any Ray of this machine.
    folder.symlink_to(sent)
    for name in ("run.sh", "stop.sh"):
        text = (sent / name).read_text().replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")
        (sent / name).write_text(text.replace("auto", cluster.address))
    command = here.folder / "bin/hjepa-sweep"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator.cli "$@"\n')
    command.chmod(0o755)
    here.env |= {
        "HOME": str(here.folder),
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{here.env['PATH']}",
    }
    cluster.add(2)
    process = here.start(["bash", str(folder / "run.sh")], here.folder / "log")
    wait_for(here.folder / "results/tiny/trials/0000/metrics.jsonl", '"epoch": 3', process)
    stop = subprocess.run(["bash", str(folder / "stop.sh")], env=here.env, cwd=here.folder, check=False)
    assert stop.returncode == 0
    assert process.wait(60) == 130
    again = subprocess.run(["bash", str(folder / "run.sh")], env=here.env, cwd=here.folder, check=False)
    assert again.returncode == 0
    assert {record.outcome for record in records(here)} == {"completed"}


def test_doctor_looks_at_ray_and_at_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    checks = {one.check: one for one in profile("aws").look(submission(), tmp_path)}
    assert all(one.ok for one in checks.values())
    assert "Ray takes it" in checks["yaml"].said
    refused = {one.check: one for one in profile("aws", shared=False).look(submission(), tmp_path)}
    assert not refused["yaml"].ok
    assert "resources.checkpoints" in refused["yaml"].said
    assert list(tmp_path.iterdir()) == []
