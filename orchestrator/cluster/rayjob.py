"""The manifest of a sweep on KubeRay: a ConfigMap that brings it into the head pod, and the RayJob."""

import math
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.cluster.base import Submission
from orchestrator.cluster.documents import write_yaml
from orchestrator.definition import SPACE
from orchestrator.space import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.kuberay import KubeRayProfile, SecretKey

SWEEP_MOUNT = "/etc/hjepa"
"""Where the head pod has the sweep's files."""
SCRIPT = "run.sh"
HEAD = "ray-head"
MAX_CONFIG_MAP = 1_000_000
"""Bytes, a little less than Kubernetes takes."""
GRACE_S = 60
"""Seconds that a head pod has to end: the sweep stops within half of it."""
SUBMITTER = {"cpu": "500m", "memory": "1Gi"}
DRIVER_ONLY = {"HJEPA_STORAGE", "HJEPA_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
"""Variables that trials have no business with."""

# KubeRay takes an entrypoint apart into words, so what is more than a command is a file.
_RUN = """\
#!/bin/bash
# Begun again, as in another try, it goes on.
@COMMAND@
status=$?
# 3: done, but some trials failed. Another try would find nothing to do.
exit $((status == 3 ? 0 : status))
"""


class Pods(NamedTuple):
    """Worker pods of a sweep."""

    workers: int
    """Of trials, in each pod."""
    least: int
    most: int


def manifest(profile: "KubeRayProfile", submission: Submission, metadata: dict[str, Any], pods: Pods) -> str:
    """Both objects as YAML; `metadata` is theirs. ConfigError where a ConfigMap cannot hold the sweep."""
    sweep = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": _files(profile, submission),
    }
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": f"bash {SWEEP_MOUNT}/{SCRIPT}",
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(profile),
            "backoffLimit": profile.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": profile.ttl_s,
            **({"activeDeadlineSeconds": math.ceil(profile.time)} if profile.time else {}),
            "rayClusterSpec": {
                "rayVersion": profile.ray_version or version("ray"),
                **({"authOptions": {"mode": "token"}} if profile.token else {}),
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": profile.idle_s},
                "headGroupSpec": {
                    # No trial on the head: its pod should live as long as the sweep.
                    "rayStartParams": {"num-cpus": "0"},
                    "template": _head(profile, submission.name, metadata["name"]),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "trials",
                        "replicas": pods.least,
                        "minReplicas": pods.least,
                        "maxReplicas": pods.most,
                        "rayStartParams": {},
                        "template": _worker(profile, submission, pods.workers),
                    }
                ],
            },
        },
    }
    return write_yaml(sweep, job)


def _files(profile: "KubeRayProfile", submission: Submission) -> dict[str, str]:
    command = ["hjepa-sweep", "run", f"{SWEEP_MOUNT}/{SPACE}", "--results", profile.results.path]
    command += ["--address", "auto", *submission.options]
    files = {**submission.files(), SCRIPT: _RUN.replace("@COMMAND@", shlex.join(command))}
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_CONFIG_MAP:
        raise ConfigError(f"the sweep's files are {size:,} bytes; a ConfigMap holds {MAX_CONFIG_MAP:,}.")
    return files


def _submitter(profile: "KubeRayProfile") -> dict[str, Any]:
    """The pod that hands the job to Ray and prints what it prints."""
    container = {"name": "ray-job-submitter", "image": profile.image, "resources": _resources(SUBMITTER)}
    return {"spec": {"restartPolicy": "Never", **_account(profile), "containers": [container]}}


def _head(profile: "KubeRayProfile", sweep: str, config: str) -> dict[str, Any]:
    amounts = {"cpu": str(profile.head_cpus), "memory": profile.head_memory}
    spec = _pod(profile, HEAD, amounts, profile.secrets)
    spec["terminationGracePeriodSeconds"] = GRACE_S
    if profile.head_node_selector:
        spec["nodeSelector"] = dict(profile.head_node_selector)
    spec["volumes"].append({"name": "sweep", "configMap": {"name": config}})
    (container,) = spec["containers"]
    container["volumeMounts"].append({"name": "sweep", "mountPath": SWEEP_MOUNT, "readOnly": True})
    ports = (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001))
    container["ports"] = [{"name": name, "containerPort": port} for name, port in ports]
    # Ray tells a job that is deleted to stop, and by default kills it three seconds later.
    container["env"].append({"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "30"})
    stop = ["hjepa-sweep", "stop", sweep, "--results", profile.results.path]
    container["lifecycle"] = {"preStop": {"exec": {"command": stop}}}
    return {"spec": spec}


def _worker(profile: "KubeRayProfile", submission: Submission, workers: int) -> dict[str, Any]:
    resources = submission.sweep.config.resources
    amounts = {"cpu": str(workers * resources.cpus_per_worker), "memory": profile.memory_per_pod}
    if resources.gpus_per_worker:
        amounts[profile.gpu_resource] = str(math.ceil(workers * resources.gpus_per_worker))
    secrets = {name: secret for name, secret in profile.secrets.items() if name not in DRIVER_ONLY}
    spec = _pod(profile, "ray-worker", amounts, secrets)
    if profile.node_selector:
        spec["nodeSelector"] = dict(profile.node_selector)
    if profile.tolerations:
        spec["tolerations"] = [toleration.manifest() for toleration in profile.tolerations]
    return {"spec": spec}


def _pod(
    profile: "KubeRayProfile", container: str, amounts: dict[str, str], secrets: "dict[str, SecretKey]"
) -> dict[str, Any]:
    claims = list(enumerate((profile.results, *profile.data)))
    env = {"RAY_USAGE_STATS_ENABLED": "0", **profile.environment}
    return {
        # One that ended is replaced by a new pod: begun again in place, it would be a lost Ray node by name.
        "restartPolicy": "Never",
        **_account(profile),
        "containers": [
            {
                "name": container,
                "image": profile.image,
                "env": [
                    *({"name": name, "value": value} for name, value in env.items()),
                    *(
                        {"name": name, "valueFrom": {"secretKeyRef": {"name": kept.secret, "key": kept.key}}}
                        for name, kept in secrets.items()
                    ),
                ],
                "resources": _resources(amounts),
                "volumeMounts": [
                    *(
                        {"name": f"claim-{number}", "mountPath": volume.path, "readOnly": volume.read_only}
                        for number, volume in claims
                    ),
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
                ],
            }
        ],
        "volumes": [
            *(
                {
                    "name": f"claim-{number}",
                    "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only},
                }
                for number, volume in claims
            ),
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shm}},
        ],
    }


def _account(profile: "KubeRayProfile") -> dict[str, str]:
    return {"serviceAccountName": profile.service_account} if profile.service_account else {}


def _resources(amounts: dict[str, str]) -> dict[str, Any]:
    """Asked for and allowed alike: Ray counts what is allowed."""
    return {"requests": amounts, "limits": amounts}
