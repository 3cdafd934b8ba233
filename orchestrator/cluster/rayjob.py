"""The manifest of a sweep on KubeRay: a ConfigMap that brings it into the head pod, and the RayJob."""

import math
import re
import shlex
from importlib.metadata import version
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from orchestrator.cluster.base import BaseProfile, Line, Submission, Variable
from orchestrator.cluster.documents import write_yaml
from orchestrator.definition import SPACE
from orchestrator.space import Config, ConfigError
from orchestrator.space.config import Seconds

SWEEP_MOUNT = "/etc/hjepa"
"""Where the head pod has the sweep's files."""
SCRIPT = "run.sh"
HEAD = "ray-head"
MAX_CONFIG_MAP = 1_000_000
"""Bytes, a little less than Kubernetes takes."""
GRACE_S = 60
"""Seconds that a head pod has to end: the sweep stops within half of it."""
SUBMITTER = {"cpu": "500m", "memory": "1Gi"}
DRIVER_ONLY = {
    *("HJEPA_STORAGE", "PGPASSWORD", "HJEPA_TRACKING_URI"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
}
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


Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""Name of a namespace."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Name of an object in Kubernetes."""
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$")]
"""Bytes, as Kubernetes writes them: 64Gi."""


def _mount(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+", path) or ".." in path.split("/"):
        raise ValueError("must be a whole path of plain letters, such as /results")
    if any(f"{path}/".startswith(f"{taken}/") for taken in (SWEEP_MOUNT, "/dev/shm", "/tmp/ray")):  # noqa: S108
        raise ValueError("is taken: name another path")
    return path


class Volume(Config):
    """A claim on storage, as the pods see it."""

    claim: Name
    """Name of the PersistentVolumeClaim."""
    path: Annotated[str, AfterValidator(_mount)]
    """Where it is mounted, in every pod."""
    read_only: bool = False
    """Whether the pods may not write there."""


class SecretKey(Config):
    """A value in a Secret of the namespace."""

    secret: Name
    """The Secret's name."""
    key: str = Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")
    """Name of the value in it."""


class Toleration(Config):
    """A taint that the worker pods put up with, as that of spot nodes."""

    key: Line
    value: Line | None = None
    """null: whatever value the taint has."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """null: each of them."""

    def manifest(self) -> dict[str, str]:
        """As Kubernetes has it."""
        told = {"key": self.key, "operator": "Exists" if self.value is None else "Equal"}
        return told | {k: v for k, v in (("value", self.value), ("effect", self.effect)) if v is not None}


class RayJobConfig(BaseProfile):
    """What the pods of a sweep are, and how long the job lasts."""

    image: Line
    """Container image with hjepa-sweep and Ray in it."""
    ray_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")] | None = None
    """Ray's in that image; null: the one installed here."""
    namespace: Label = "default"
    service_account: Name | None = None
    """Account of the pods, as for pulling the image or reaching a bucket; null: the namespace's own."""
    results: Volume
    """Storage that keeps the sweep's folder. All pods have to write to it at once (ReadWriteMany), unless the
    sweep names `resources.checkpoints`."""
    data: tuple[Volume, ...] = ()
    """Further storage, such as that of the data sets."""
    cpus_per_pod: int = Field(ge=1)
    """Cores that a worker pod may take at most."""
    gpus_per_pod: int = Field(0, ge=0, le=64)
    """GPUs that a worker pod may take at most."""
    memory_per_pod: Quantity
    """Memory of a worker pod, its /dev/shm included."""
    min_pods: int = Field(0, ge=0, le=4096)
    """Worker pods that are kept while nothing runs on them. There are always as many as one trial takes."""
    max_pods: int = Field(1, ge=1, le=4096)
    """Worker pods that there may be; they come as trials want them."""
    idle_s: int = Field(120, ge=10)
    """Seconds after which an idle worker pod is taken away."""
    head_cpus: int = Field(2, ge=1)
    """Cores of the head pod, which runs the sweep and no trial."""
    head_memory: Quantity = "8Gi"
    shm: Quantity = "4Gi"
    """Size of each pod's /dev/shm, through which Ray and the data's loaders hand over what they have."""
    gpu_resource: str = Field("nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]*gpu$")
    """What the cluster calls a GPU; Ray takes for one what ends in `gpu`."""
    node_selector: dict[Line, Line] = Field(default_factory=dict)
    """Labels of the nodes that worker pods go to, such as `cloud.google.com/gke-spot: "true"`."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that worker pods put up with."""
    head_node_selector: dict[Line, Line] = Field(default_factory=dict)
    """Labels of the nodes that the head pod goes to: it should not be on a node that is taken back."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Variables of all pods, none of them secret."""
    secrets: dict[Variable, SecretKey] = Field(default_factory=dict)
    """Variables from Secrets, such as `HJEPA_STORAGE: {secret: hjepa, key: storage}`. Those of the database
    and of MLflow reach the head pod alone."""
    token: bool = True
    """Whether Ray asks for a token, which the operator makes."""
    retries: int = Field(3, ge=0, le=100)
    """How often a sweep that did not come to its end, such as by a lost head, goes on in a new cluster."""
    time: Annotated[Seconds, Field(ge=60, le=2**31 - 1)] | None = None
    """Limit in seconds or as 12h, the wait for pods included; the sweep is stopped in order then, and goes on
    when it is sent again. null: none."""
    ttl_s: int = Field(300, ge=0)
    """Seconds for which the pods are kept after the end, to look at."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.min_pods > self.max_pods:
            raise ValueError(f"min_pods {self.min_pods} is more than max_pods {self.max_pods}")
        paths = [volume.path for volume in (self.results, *self.data)]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is mounted twice; name another path")
        if both := sorted(self.environment.keys() & self.secrets.keys()):
            raise ValueError(f"environment and secrets both have {both[0]}; keep one")
        return self


class Pods(NamedTuple):
    """Worker pods of a sweep."""

    workers: int
    """Of trials, in each pod."""
    least: int
    most: int


def manifest(profile: RayJobConfig, submission: Submission, metadata: dict[str, Any], pods: Pods) -> str:
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


def _files(profile: RayJobConfig, submission: Submission) -> dict[str, str]:
    command = ["hjepa-sweep", "run", f"{SWEEP_MOUNT}/{SPACE}", "--results", profile.results.path]
    command += ["--address", "auto", *submission.options]
    files = {**submission.files(), SCRIPT: _RUN.replace("@COMMAND@", shlex.join(command))}
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_CONFIG_MAP:
        raise ConfigError(f"the sweep's files are {size:,} bytes; a ConfigMap holds {MAX_CONFIG_MAP:,}.")
    return files


def _submitter(profile: RayJobConfig) -> dict[str, Any]:
    """The pod that hands the job to Ray and prints what it prints."""
    container = {"name": "ray-job-submitter", "image": profile.image, "resources": _resources(SUBMITTER)}
    return {"spec": {"restartPolicy": "Never", **_account(profile), "containers": [container]}}


def _head(profile: RayJobConfig, sweep: str, config: str) -> dict[str, Any]:
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


def _worker(profile: RayJobConfig, submission: Submission, workers: int) -> dict[str, Any]:
    resources = submission.sweep.config.resources
    amounts = {"cpu": str(workers * resources.cpus_per_worker), "memory": profile.memory_per_pod}
    if resources.gpus:
        amounts[profile.gpu_resource] = str(math.ceil(workers * resources.gpus))
    secrets = {name: secret for name, secret in profile.secrets.items() if name not in DRIVER_ONLY}
    spec = _pod(profile, "ray-worker", amounts, secrets)
    if profile.node_selector:
        spec["nodeSelector"] = dict(profile.node_selector)
    if profile.tolerations:
        spec["tolerations"] = [toleration.manifest() for toleration in profile.tolerations]
    return {"spec": spec}


def _pod(
    profile: RayJobConfig, container: str, amounts: dict[str, str], secrets: dict[str, SecretKey]
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


def _account(profile: RayJobConfig) -> dict[str, str]:
    return {"serviceAccountName": profile.service_account} if profile.service_account else {}


def _resources(amounts: dict[str, str]) -> dict[str, Any]:
    """Asked for and allowed alike: Ray counts what is allowed."""
    return {"requests": amounts, "limits": amounts}
