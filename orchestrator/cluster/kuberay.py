"""KubeRay: a sweep as a RayJob, for which the operator makes a Ray cluster and takes it away again."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from orchestrator.cluster.base import Line, Submission
from orchestrator.cluster.program import call
from orchestrator.cluster.rayjob import HEAD, Pods, RayJobConfig, manifest
from orchestrator.definition import DEFINITION
from orchestrator.doctor.finding import Finding, look
from orchestrator.engine.capacity import places, workers_on
from orchestrator.space import ResourcesConfig

NAME_BYTES = 47
"""What KubeRay allows for a RayJob's name: its pods' names are made of it."""
MANAGER = "hjepa-sweep"
SWEEP = "hjepa-sweep/name"
"""Annotation that holds the sweep's name as it is, which no label could."""
OVER = {"Complete", "Failed", "ValidationFailed"}
"""States of a RayJob that does nothing more."""
STOP_S = 90.0
"""Seconds that a sweep has to stop; it takes 30 at most."""


class KubeRayProfile(RayJobConfig):
    """A Kubernetes cluster with the KubeRay operator, 1.5.1 or newer, by a context of kubectl's."""

    type: Literal["kuberay"]
    context: Line | None = None
    """kubectl's context; null: the one in use."""

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
        text, job = self.preview(submission, results), object_name(submission)
        found = self._kubectl("get", "rayjob", job, "--ignore-not-found", "--output", "json")
        if found.strip():
            state = _state(json.loads(found))
            if state not in OVER:
                return f"{submission.name}: sent already: RayJob {job} is {state.lower()}."
            self._kubectl("delete", "rayjob", job, "--ignore-not-found", timeout_s=STOP_S)
        self._kubectl("apply", "--filename", "-", input=text)
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

    def look(self, submission: Submission | None, results: Path) -> Iterator[Finding]:
        """The way there, the operator, claims and Secrets, and whether it would take the manifest."""
        yield look(
            "kubernetes",
            lambda: (
                f"may RayJobs be made there: {self._kubectl('auth', 'can-i', 'create', 'rayjobs.ray.io')}"
            ),
            "look at `kubectl config get-contexts`, and at what the account may do in the namespace",
        )
        yield look(
            "operator",
            lambda: f"it has {len(self._kubectl('get', 'rayjobs', '--output', 'name').split())} RayJobs",
            "install the KubeRay operator, 1.5.1 or newer",
        )
        named = [("persistentvolumeclaim", volume.claim) for volume in (self.results, *self.data)]
        named += [("secret", name) for name in sorted({key.secret for key in self.secrets.values()})]
        for kind, name in named:
            yield look(
                kind,
                lambda kind=kind, name=name: self._kubectl("get", kind, name, "--output", "name"),
                f"make it in the namespace {self.namespace}, or name another",
            )
        if submission is not None:
            yield look(
                "manifest",
                lambda: self._kubectl(
                    "apply", "--dry-run=server", "--filename", "-", input=self.preview(submission, results)
                ),
                "`submit --dry-run` prints it",
            )

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
