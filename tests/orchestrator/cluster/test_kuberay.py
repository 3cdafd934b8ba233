"""Sweeps as RayJobs: what is applied, and what kubectl is asked for."""

import importlib.resources
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ray.autoscaler._private.kuberay import autoscaling_config

from orchestrator.cluster.base import Submission
from orchestrator.cluster.documents import write_yaml
from orchestrator.cluster.kuberay import KubeRayProfile
from orchestrator.cluster.profile import parse_profile
from orchestrator.space import ConfigError, load_sweep
from tests.orchestrator.cluster.standin import StandIn
from tests.workplace import SPACE, Workplace, records, wait_for

CHECKOUT = Path(__file__).parents[3]
PROFILE: dict[str, Any] = {
    "type": "kuberay",
    "image": "registry.example.org/hjepa:1",
    "results": {"claim": "results", "path": "/results"},
    "cpus_per_pod": 8,
    "gpus_per_pod": 4,
    "memory_per_pod": "32Gi",
    "max_pods": 3,
}
FULL = PROFILE | {
    "namespace": "research",
    "service_account": "trainer",
    "data": [{"claim": "datasets", "path": "/datasets", "read_only": True}],
    "node_selector": {"cloud.google.com/gke-spot": "true"},
    "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "spot", "value": "yes", "effect": "NoExecute"}],
    "head_node_selector": {"pool": "on-demand"},
    "environment": {"NCCL_DEBUG": "WARN"},
    "secrets": {
        "HJEPA_STORAGE": {"secret": "hjepa", "key": "storage"},
        "AWS_SECRET_ACCESS_KEY": {"secret": "s3", "key": "secret"},
    },
    "time": "12h",
    "min_pods": 1,
}


def submission(*options: str, **changes: Any) -> Submission:
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return Submission(load_sweep(CHECKOUT / "search_spaces/fpn.yaml", overrides=overrides), options)


def profile(**changes: Any) -> KubeRayProfile:
    found = parse_profile(PROFILE | changes, "here")
    assert isinstance(found, KubeRayProfile)
    return found


def preview(sent: Submission, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob, each of them valid."""
    text = profile(**changes).preview(sent, Path("results"))
    config, job = yaml.safe_load_all(text)
    require_valid(config, job)
    return config, job


def closed(schema: Any) -> Any:
    """A structural schema as a strict one: what has properties has no others."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


KUBERNETES = "1.33"


def rayjob_schema() -> jsonschema.Draft202012Validator:
    """The published CRD's; it says itself how it is read off that."""
    schema = closed(yaml.safe_load((Path(__file__).parent / "rayjob_v1.yaml").read_text(encoding="utf-8")))
    kubernetes = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema"
    text = (kubernetes / f"v{KUBERNETES}.0-local-strict/_definitions.json").read_text(encoding="utf-8")
    definitions = referencing.Resource.from_contents(json.loads(text))
    return jsonschema.Draft202012Validator(schema, registry=definitions @ referencing.Registry())


RAYJOB = rayjob_schema()


def require_valid(config: dict[str, Any], job: dict[str, Any]) -> None:
    """Strictly: a field that is not known is a mistake."""
    kubernetes_validate.validate(config, KUBERNETES, strict=True)
    RAYJOB.validate(job)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert len(job["metadata"]["name"]) <= 47
    spec = job["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    for template in (
        spec["rayClusterSpec"]["headGroupSpec"]["template"],
        group["template"],
        spec["submitterPodTemplate"],
    ):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": job["metadata"], **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        mounted = {mount["name"] for mount in template["spec"]["containers"][0].get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in template["spec"].get("volumes", [])}


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("spec", "backoffLimits", 3, "'backoffLimits' was unexpected"),
        ("spec", "backoffLimit", "3", "'3' is not of type 'integer'"),
        ("spec.rayClusterSpec", "enableMtls", True, "'enableMtls' was unexpected"),
        ("spec.rayClusterSpec.authOptions", "mode", "tokens", "'tokens' is not one of"),
        ("spec.rayClusterSpec.autoscalerOptions", "idleTimeout", 60, "'idleTimeout' was unexpected"),
        ("spec.rayClusterSpec.headGroupSpec", "template", None, "None is not of type 'object'"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec", "nodeSelectors", {}, "'nodeSelectors' was"),
        ("spec.rayClusterSpec.headGroupSpec.template.metadata", "generateName", "a", "'generateName' was"),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "maxReplica", 3, "'maxReplica' was unexpected"),
        (
            "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0",
            "cpu",
            3,
            "'cpu' was unexpected",
        ),
        ("spec.submitterPodTemplate.spec", "restart", "Never", "'restart' was unexpected"),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "resources", {"GPU": 4}, "4 is not of type 'string'"),
        ("spec.rayClusterSpec.upgradeStrategy", "type", "Replace", "'Replace' is not one of"),
        ("spec", "deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}, "not valid under any"),
        ("metadata", "label", {}, "'label' was unexpected"),
    ],
)
def test_a_mistake_anywhere_in_a_manifest_is_found(where: str, key: str, value: Any, message: str):
    """Without this, a schema that lets everything through would look the same."""
    _, job = preview(submission(), **FULL)
    part: Any = job
    for step in where.split("."):
        part = part[int(step)] if isinstance(part, list) else part.setdefault(step, {})
    RAYJOB.validate(job)
    part[key] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        RAYJOB.validate(job)


@pytest.mark.parametrize("field", ["groupName", "minReplicas", "maxReplicas", "template"])
def test_a_field_that_is_required_is_missed(field: str):
    _, job = preview(submission(), **FULL)
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0][field]
    with pytest.raises(jsonschema.ValidationError, match=f"'{field}' is a required property"):
        RAYJOB.validate(job)


def test_all_that_a_profile_can_say_is_in_the_manifest():
    config, job = preview(submission("--storage", "postgresql://db/sweeps"), **FULL)
    spec = job["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    worker = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert spec["backoffLimit"] == 3
    assert spec["activeDeadlineSeconds"] == 43_200
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["entrypoint"] == "bash /etc/hjepa/run.sh"
    assert "--results /results --address auto --storage postgresql://db/sweeps\n" in config["data"]["run.sh"]
    assert [pod["serviceAccountName"] for pod in (head, worker)] == ["trainer"] * 2
    assert head["nodeSelector"] == {"pool": "on-demand"}
    assert worker["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert worker["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute"},
    ]
    env = {one["name"]: one for one in head["containers"][0]["env"]}
    assert env["NCCL_DEBUG"]["value"] == "WARN"
    assert env["HJEPA_STORAGE"]["valueFrom"]["secretKeyRef"] == {"name": "hjepa", "key": "storage"}
    theirs = [one["name"] for one in worker["containers"][0]["env"]]
    assert "AWS_SECRET_ACCESS_KEY" in theirs
    assert "HJEPA_STORAGE" not in theirs, "trials have no business with the database"
    assert {"name": "claim-1", "mountPath": "/datasets", "readOnly": True} in worker["containers"][0][
        "volumeMounts"
    ]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}} in worker["volumes"]


@pytest.mark.parametrize(
    "name", ["HJEPA_STORAGE", "PGPASSWORD", "HJEPA_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"]
)
def test_what_lets_into_the_database_and_mlflow_reaches_the_head_alone(name: str):
    """Trials have no business with either."""
    _, job = preview(submission(), secrets={name: {"secret": "kept", "key": "it"}})
    spec = job["spec"]["rayClusterSpec"]
    pods = (spec["headGroupSpec"], spec["workerGroupSpecs"][0])
    head, worker = (group["template"]["spec"]["containers"][0]["env"] for group in pods)
    assert name in [one["name"] for one in head]
    assert name not in [one["name"] for one in worker]


@pytest.mark.parametrize(
    ("resources", "asked", "pods"),
    [
        ({"gpus_per_worker": 1, "cpus_per_worker": 2}, {"cpu": "8", "nvidia.com/gpu": "4"}, (1, 3)),
        ({"gpus_per_worker": 0.5}, {"cpu": "8", "nvidia.com/gpu": "4"}, (1, 3)),
        ({"gpus_per_worker": 0.25, "concurrency": 2}, {"cpu": "2", "nvidia.com/gpu": "1"}, (1, 1)),
        ({"cpus_per_worker": 3}, {"cpu": "6"}, (1, 3)),
        ({"workers": 8, "gpus_per_worker": 1, "concurrency": 1}, {"cpu": "4", "nvidia.com/gpu": "4"}, (2, 2)),
    ],
)
def test_the_pods_ask_for_what_the_sweeps_workers_need(
    resources: dict[str, Any], asked: dict[str, str], pods: tuple[int, int]
):
    """Ray's own autoscaler, which runs in the head pod, sees just that."""
    _, job = preview(submission(**{f"resources__{key}": value for key, value in resources.items()}))
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    amounts = group["template"]["spec"]["containers"][0]["resources"]
    assert amounts["requests"] == amounts["limits"] == {**asked, "memory": "32Gi"}
    made = {"metadata": {"name": "made", "namespace": "default"}, "spec": cluster}
    seen = autoscaling_config._derive_autoscaling_config_from_ray_cr(made)
    kinds = seen["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert kinds["trials"]["resources"]["CPU"] == int(asked["cpu"])
    assert kinds["trials"]["resources"].get("GPU") == (int(asked.get("nvidia.com/gpu", 0)) or None)
    assert (kinds["trials"]["min_workers"], kinds["trials"]["max_workers"]) == pods


def test_no_password_reaches_the_manifest(workplace: Workplace):
    (workplace.folder / "clusters").mkdir()
    workplace.write("clusters/here.yaml", PROFILE)
    uris = ("--tracking-uri", "https://me:s3cret@mlflow", "--storage", "postgresql://me:s3cret@db/sweeps")
    done = workplace.ask("submit", "tiny.yaml", "--to", "here", "--dry-run", *uris)
    assert done.returncode == 0, done.stderr
    assert "--tracking-uri https://me@mlflow --storage postgresql+psycopg://me@db/sweeps" in done.stdout
    assert "s3cret" not in done.stdout


def test_a_trial_that_no_pod_can_hold_is_refused():
    with pytest.raises(ConfigError, match=r"resources.cpus_per_worker: a trial asks for 9 cores"):
        preview(submission(resources__cpus_per_worker=9))
    with pytest.raises(ConfigError, match=r"resources.gpus_per_worker"):
        preview(submission(resources__gpus_per_worker=1), gpus_per_pod=0)


def test_what_no_config_map_can_hold_is_refused():
    with pytest.raises(ConfigError, match="a ConfigMap holds"):
        preview(submission(logging__description="x" * 1_100_000))


@hypothesis_settings(max_examples=25)
@given(
    name=st.from_regex(r"[a-z0-9A-Z][A-Za-z0-9._-]{0,63}", fullmatch=True),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
@example(name="A" * 64, text='it\'s\n"quoted" # $HOME `id` {{x}}\n---\n: on\n')
@example(name="0-.", text="1e5")
def test_odd_names_and_texts_leave_the_manifest_valid_and_the_sweep_as_it_is(name: str, text: str):
    sent = submission("--storage", text.replace("\0", ""), name=name, logging__description=text)
    config, job = preview(sent, environment={"ODD": text.replace("\0", "")})
    assert {file: config["data"][file] for file in sent.files()} == sent.files()
    assert job["metadata"]["annotations"]["hjepa-sweep/name"] == name
    assert job["metadata"] == config["metadata"]
    (odd,) = [
        one["value"]
        for one in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
        if one["name"] == "ODD"
    ]
    assert odd == text.replace("\0", "")


def test_two_names_that_look_alike_in_kubernetes_are_two_objects():
    names = {
        preview(submission(name=name))[1]["metadata"]["name"] for name in ("Fpn", "fpn", "fpn_", "f" * 64)
    }
    assert len(names) == 4
    assert preview(submission())[1]["metadata"]["name"] == submission().id, "what needs no change has none"


@pytest.mark.parametrize(
    "text", ["1e5", "0o17", "1_000", "y", "on", "No", "null", "~", "=", "<<", "0x1", "1:30", ""]
)
def test_text_that_some_reader_would_take_for_another_thing_stands_in_quotes(text: str):
    assert re.fullmatch(r"""---\nkey: (".*"|'.*')\n""", write_yaml({"key": text}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_pod": 3}, "max_pod: no such config key.\nNearest: max_pods"),
        ({"min_pods": 4}, "min_pods 4 is more than max_pods 3"),
        ({"cpus_per_pod": 0}, "cpus_per_pod: 0 is not allowed"),
        ({"memory_per_pod": "32 GB"}, "memory_per_pod"),
        ({"namespace": "Research"}, "namespace"),
        ({"results": {"claim": "r", "path": "results"}}, "must be a whole path"),
        ({"results": {"claim": "r", "path": "/etc/hjepa/x"}}, "is taken"),
        ({"data": [{"claim": "d", "path": "/results"}]}, "/results is mounted twice"),
        ({"data": [{"claim": "d", "mount": "/data"}]}, "data[0].mount: no such key"),
        ({"secrets": {"TOKEN": "abc"}}, "secrets"),
        (
            {"environment": {"A": "x"}, "secrets": {"A": {"secret": "s", "key": "k"}}},
            "environment and secrets both have A",
        ),
        ({"secrets": {"A=B": {"secret": "s", "key": "k"}}}, "must be the name of an environment variable"),
        ({"image": "a\nb"}, "image"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as error:
        profile(**changes)
    assert message in str(error.value)


@pytest.fixture
def kubectl(workplace: Workplace) -> StandIn:
    (workplace.folder / "clusters").mkdir()
    workplace.write("clusters/here.yaml", FULL | {"context": "lab"})
    return StandIn(workplace, "kubectl")


WHERE = ["--context", "lab", "--namespace", "research"]


def found(state: str, name: str = "tiny", cluster: str = "") -> dict[str, Any]:
    metadata = {"name": f"hjepa-{name}-1", "annotations": {"hjepa-sweep/name": name}}
    return {"metadata": metadata, "status": {"jobDeploymentStatus": state, "rayClusterName": cluster}}


def test_a_sweep_is_applied_and_once_only(workplace: Workplace, kubectl: StandIn):
    done = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 0, done.stderr
    config, job = yaml.safe_load_all(kubectl.given())
    require_valid(config, job)
    name = job["metadata"]["name"]
    assert kubectl.calls() == [
        [*WHERE, "get", "rayjob", name, "--ignore-not-found", "--output", "json"],
        [*WHERE, "apply", "--filename", "-"],
    ]
    assert f"tiny: RayJob {name} is sent" in done.stdout
    assert not (workplace.folder / "results").exists(), "all goes with the manifest"

    kubectl.answer("get rayjob ", json.dumps(found("Running")))
    again = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert f"sent already: RayJob {name} is running." in again.stdout
    assert [*WHERE, "apply", "--filename", "-"] not in kubectl.calls()[2:]

    kubectl.answer("get rayjob ", json.dumps(found("Failed")))
    assert workplace.ask("submit", "tiny.yaml", "--to", "here").returncode == 0
    assert [call[4] for call in kubectl.calls()[3:]] == ["get", "delete", "apply"]


def test_a_sweep_is_stopped_before_its_pods_are_taken_away(workplace: Workplace, kubectl: StandIn):
    jobs = [found("Running", cluster="ray-1"), found("Running", "other"), found("Complete") | {}]
    jobs[2]["metadata"]["name"] = "hjepa-tiny-0"
    kubectl.answer("get rayjobs", json.dumps({"items": jobs}))
    kubectl.answer("get pods", "pod/ray-1-head\n")
    done = workplace.ask("stop", "tiny", "--to", "here")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "tiny: RayJob hjepa-tiny-1 has stopped and is taken away.\ntiny: RayJob hjepa-tiny-0 is taken away.\n"
    )
    assert [call[4:7] for call in kubectl.calls()[1:]] == [
        ["patch", "rayjob", "hjepa-tiny-1"],
        ["get", "pods", "--selector=ray.io/cluster=ray-1,ray.io/node-type=head"],
        ["exec", "pod/ray-1-head", "--container=ray-head"],
        ["delete", "rayjob/hjepa-tiny-1", "configmap/hjepa-tiny-1"],
        ["delete", "rayjob/hjepa-tiny-0", "configmap/hjepa-tiny-0"],
    ]
    assert kubectl.calls()[3][-5:] == ["hjepa-sweep", "stop", "tiny", "--results", "/results"]


def test_pods_in_which_the_sweep_runs_on_are_not_taken_away(workplace: Workplace, kubectl: StandIn):
    kubectl.answer("get rayjobs", json.dumps({"items": [found("Running", cluster="ray-1")]}))
    kubectl.answer("get pods", "pod/ray-1-head\n")
    kubectl.answer("exec", "tiny has been asked to stop and still runs\n", "command terminated with 1\n", 1)
    done = workplace.ask("stop", "tiny", "--to", "here")
    assert done.returncode == 2
    assert "tiny has been asked to stop and still runs" in done.stderr
    assert "delete" not in [call[4] for call in kubectl.calls()]


def test_stop_says_so_where_there_is_none(workplace: Workplace, kubectl: StandIn):
    kubectl.answer("get rayjobs", json.dumps({"items": [found("Running", "other")]}))
    done = workplace.ask("stop", "tiny", "--to", "here")
    assert done.stdout == "tiny has no RayJob in the namespace research.\n", done.stderr


def test_what_kubectl_refuses_is_said_in_its_words(workplace: Workplace, kubectl: StandIn):
    kubectl.answer("get rayjob", error='error: the server doesn\'t have a resource type "rayjob"\n', status=1)
    done = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 2
    assert 'hjepa-sweep: kubectl: error: the server doesn\'t have a resource type "rayjob"' in done.stderr


def test_where_there_is_no_kubectl_it_is_said_in_words(workplace: Workplace):
    (workplace.folder / "clusters").mkdir()
    workplace.write("clusters/here.yaml", PROFILE)
    workplace.env["PATH"] = str(workplace.folder)
    done = workplace.ask("submit", "tiny.yaml", "--to", "here")
    assert done.returncode == 2
    assert "kubectl: no such program: install it" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "results").exists()


@pytest.mark.slow
def test_a_stopped_job_is_gone_on_with_by_another_try(workplace: Workplace, kubectl: StandIn):
    """The head pod's script, on this machine in place of the pod, and `stop` from outside."""
    results = workplace.folder / "there"
    workplace.write("clusters/here.yaml", PROFILE | {"results": {"claim": "results", "path": str(results)}})
    serial = {
        "search": {"algorithm": "random", "num_trials": 1},
        "scheduler": {"type": "fifo", "max_epochs": 40},
    }
    workplace.write("tiny.yaml", SPACE | serial | {"resources": {"concurrency": 1}})
    assert workplace.sweep("submit", "tiny.yaml", "--to", "here").returncode == 0
    config, _ = yaml.safe_load_all(kubectl.given())
    mounted = workplace.folder / "hjepa"
    mounted.mkdir()
    for name, text in config["data"].items():
        (mounted / name).write_text(text.replace("/etc/hjepa", str(mounted)).replace("--address auto", ""))
    command = workplace.folder / "bin/hjepa-sweep"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator.cli "$@"\n')
    command.chmod(0o755)
    workplace.env["PYTHONPATH"] = str(CHECKOUT)

    process = workplace.start(["bash", str(mounted / "run.sh")], workplace.folder / "log")
    wait_for(results / "tiny/trials/0000/metrics.jsonl", '"epoch": 3', process)
    kubectl.answer("get rayjobs", json.dumps({"items": [found("Running", cluster="ray-1")]}))
    kubectl.answer("get pods", "pod/ray-1-head\n")
    kubectl.answer("exec", runs=True)
    done = workplace.sweep("stop", "tiny", "--to", "here")
    assert "has stopped and is taken away" in done.stdout, done.stderr
    assert process.wait(60) == 130, "a failure, which KubeRay tries again"
    again = subprocess.run(
        ["bash", str(mounted / "run.sh")], cwd=workplace.folder, env=workplace.env, check=False
    )
    assert again.returncode == 0
    (workplace.folder / "results").symlink_to(results)
    assert {record.outcome for record in records(workplace)} == {"completed"}


def test_doctor_asks_the_cluster_for_what_the_profile_names(workplace: Workplace):
    kubectl = StandIn(workplace, "kubectl")
    (workplace.folder / "clusters").mkdir()
    workplace.write("clusters/here.yaml", FULL)
    kubectl.answer("auth can-i", "yes\n")
    kubectl.answer("get secret s3", error='secrets "s3" not found', status=1)
    done = workplace.ask("doctor", "tiny.yaml", "--to", "here")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "ok   kubernetes: may RayJobs be made there: yes"
    assert 'FAIL secret: kubectl: secrets "s3" not found' in lines
    assert "     fix: make it in the namespace research, or name another" in lines
    assert lines[-1] == "7 looked at, 1 to mend"
    asked = [" ".join(words) for words in kubectl.calls()]
    assert any("get persistentvolumeclaim datasets" in line for line in asked)
    assert any("apply --dry-run=server" in line for line in asked)
    assert not any("create" in line.split("auth")[0] for line in asked)
