"""KubeRay: a sweep as a RayJob, for which the operator makes a Ray cluster and takes it away again."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from orchestrator.capacity import places, workers_on
from orchestrator.cluster.base import BaseProfile, Line, Submission, Variable
from orchestrator.cluster.program import call
from orchestrator.cluster.rayjob import HEAD, SWEEP_MOUNT, Pods, manifest
from orchestrator.definition import DEFINITION
from orchestrator.space import Config, ResourcesConfig
from orchestrator.space.config import Seconds

NAME_BYTES = 47
"""What KubeRay allows for a RayJob's name: its pods' names are made of it."""
MANAGER = "hjepa-sweep"
SWEEP = "hjepa-sweep/name"
"""Annotation that holds the sweep's name as it is, which no label could."""
OVER = {"Complete", "Failed", "ValidationFailed"}
"""States of a RayJob that does nothing more."""
STOP_S = 90.0
"""Seconds that a sweep has to stop; it takes 30 at most."""

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


class KubeRayProfile(BaseProfile):
    """A Kubernetes cluster with the KubeRay operator, 1.5.1 or newer, by a context of kubectl's."""

    type: Literal["kuberay"]
    image: Line
    """Container image with hjepa-sweep and Ray in it."""
    ray_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")] | None = None
    """Ray's in that image; null: the one installed here."""
    context: Line | None = None
    """kubectl's context; null: the one in use."""
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
    def _each_thing_once(self) -> Self:
        paths = [volume.path for volume in (self.results, *self.data)]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is mounted twice; name another path")
        if both := sorted(self.environment.keys() & self.secrets.keys()):
            raise ValueError(f"environment and secrets both have {both[0]}; keep one")
        return self

    def preview(self, submission: Submission, results: Path) -> str:
        """The manifest: a ConfigMap with the sweep, and the RayJob. ConfigError where no trial can fit."""
        resources = submission.sweep.config.resources
        node = {"CPU": float(self.cpus_per_pod), "GPU": float(self.gpus_per_pod)}
        places(resources, [node] * self.max_pods)
        metadata = {
            "name": object_name(submission),
            "namespace": self.namespace,
            "labels": {"app.kubernetes.io/name": MANAGER, "app.kubernetes.io/managed-by": MANAGER},
            "annotations": {SWEEP: submission.name},
        }
        pods = _pods(resources, workers_on(resources, node), self.min_pods, self.max_pods)
        return manifest(self, submission, metadata, pods)

    def submit(self, submission: Submission, results: Path) -> str:
        """Apply the manifest, and say so. ConfigError where kubectl or the cluster refuses.

        A RayJob that is over makes room: the new one goes on with the same results.
        """
        manifest, job = self.preview(submission, results), object_name(submission)
        found = self._kubectl("get", "rayjob", job, "--ignore-not-found", "--output", "json")
        if found.strip():
            state = _state(json.loads(found))
            if state not in OVER:
                return f"{submission.name}: sent already: RayJob {job} is {state.lower()}."
            self._kubectl("delete", "rayjob", job, "--ignore-not-found", timeout_s=STOP_S)
        self._kubectl("apply", "--filename", "-", input=manifest)
        where = " ".join(self._where())
        return (
            f"{submission.name}: RayJob {job} is sent to the namespace {self.namespace}.\n"
            f"kubectl{where and ' '}{where} get rayjob {job} tells how it stands,\n"
            f"kubectl{where and ' '}{where} logs --follow job/{job} what it prints."
        )

    def stop(self, name: str) -> str:
        """Stop the RayJobs of the sweep `name` in order, take them away, and say so.

        KubeRay alone would not wait for the sweep: it gives a job that is deleted a few seconds, and a
        suspended one none. ConfigError where the sweep still runs, or kubectl refuses.
        """
        listed = self._kubectl(
            "get", "rayjobs", f"--selector=app.kubernetes.io/managed-by={MANAGER}", "-o=json"
        )
        ours = [
            job
            for job in json.loads(listed)["items"]
            if job["metadata"].get("annotations", {}).get(SWEEP) == name
        ]
        if not ours:
            return f"{name} has no RayJob in the namespace {self.namespace}."
        return "\n".join(self._stop(name, job) for job in ours)

    def _stop(self, name: str, found: dict[str, Any]) -> str:
        job, state = found["metadata"]["name"], _state(found)
        if state not in OVER:
            # The sweep's end by a signal is a failure to KubeRay, which would try again.
            self._kubectl("patch", "rayjob", job, "--type=merge", '--patch={"spec":{"backoffLimit":0}}')
            if head := self._head(found):
                stop = ("hjepa-sweep", "stop", name, "--results", self.results.path)
                begun = f'[ ! -e "$5/$3/{DEFINITION}" ] || exec "$@"'
                inside = (f"--container={HEAD}", "--", "sh", "-c", begun, "sh", *stop)
                self._kubectl("exec", head, *inside, timeout_s=STOP_S)
        self._kubectl("delete", f"rayjob/{job}", f"configmap/{job}", "--ignore-not-found", timeout_s=STOP_S)
        return (
            f"{name}: RayJob {job} {'is taken away' if state in OVER else 'has stopped and is taken away'}."
        )

    def _head(self, job: dict[str, Any]) -> str | None:
        """The head pod that runs, as pod/NAME."""
        cluster = job.get("status", {}).get("rayClusterName")
        if not cluster:
            return None
        selector = f"--selector=ray.io/cluster={cluster},ray.io/node-type=head"
        running = "--field-selector=status.phase=Running"
        return next(iter(self._kubectl("get", "pods", selector, running, "--output=name").split()), None)

    def _where(self) -> list[str]:
        return [*(["--context", self.context] if self.context else []), "--namespace", self.namespace]

    def _kubectl(self, *arguments: str, input: str | None = None, timeout_s: float = 60) -> str:
        missing = "install it, with a context for the cluster"
        command = ("kubectl", *self._where(), *arguments)
        return call(*command, missing=missing, input=input, timeout_s=timeout_s)


def object_name(submission: Submission) -> str:
    """The name in Kubernetes: the submission's id, in the letters and the length that KubeRay takes."""
    if re.fullmatch(r"[a-z][a-z0-9-]*", submission.id) and len(submission.id) <= NAME_BYTES:
        return submission.id
    end = hashlib.sha256(submission.id.encode()).hexdigest()[:10]
    plain = re.sub(r"[^a-z0-9-]", "-", submission.name.lower())
    return f"hjepa-{plain[: NAME_BYTES - len('hjepa--') - len(end)]}-{end}"


def _pods(resources: ResourcesConfig, fits: int, least: int, most: int) -> Pods:
    """Pods for no more workers than the sweep has at a time, of whom `fits` fit in a pod.

    What one trial takes is always there: the sweep would otherwise find a cluster on which no trial fits,
    before the autoscaler has said that it grows.
    """
    wanted = resources.workers * resources.concurrency if resources.concurrency else fits * most
    workers = min(fits, wanted)
    most = min(most, math.ceil(wanted / workers))
    return Pods(workers, min(most, max(least, math.ceil(resources.workers / workers))), most)


def _state(job: dict[str, Any]) -> str:
    return job.get("status", {}).get("jobDeploymentStatus") or "New"
