"""Ray's Jobs API, as a cluster's dashboard offers it: jobs sent, found, stopped, read, asked."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import ADDRESS, forget_local
from orchestrator.cluster.base import Answer
from orchestrator.process.state import OwnFolder
from orchestrator.space import ConfigError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

OVER = {"SUCCEEDED", "FAILED", "STOPPED"}
"""States of a job from which it does not go on."""
PACKAGE = "working_dir"
"""Ray's name for the folder that a job runs in."""
ANSWER_S = 300.0
"""Seconds that a short job has, the set-up of its packages included."""
POLL_S = 0.5


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, client: "JobSubmissionClient", address: str):
        self._client, self.address = client, address

    def send(self, job: str, entrypoint: str, environment: Mapping[str, Any]) -> None:
        """Submit a job. A package that is in `environment` as the bytes of a zip is uploaded first."""
        with contextlib.ExitStack() as stack:
            environment = dict(environment)
            if isinstance(packed := environment.get(PACKAGE), bytes):
                path = stack.enter_context(OwnFolder("s")) / "hjepa.zip"
                path.write_bytes(packed)
                environment[PACKAGE] = str(path)
            self._client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=environment)

    def newest(self, ours: str) -> "JobDetails | None":
        """The newest job whose id matches a regular expression."""
        found = [job for job in self._client.list_jobs() if re.fullmatch(ours, job.submission_id or "")]
        return max(found, key=lambda job: job.start_time or 0, default=None)

    def forget(self, job: str) -> None:
        """Let its id be free again. It has to be over."""
        self._client.delete_job(job)

    def stop(self, job: str, patience_s: float) -> None:
        """Have it told to stop, and wait until it has. ConfigError where it has not within `patience_s`."""
        self._client.stop_job(job)
        self._wait(job, patience_s)

    def printed(self, job: str) -> str:
        """All that it has printed."""
        return self._client.get_job_logs(job)

    def follow(self, job: str) -> Iterator[str]:
        """The same piece by piece, until the job ends."""
        chunks = self._client.tail_job_logs(job)

        async def following() -> str | None:
            return await anext(chunks, None)

        with asyncio.Runner() as runner:
            while (chunk := runner.run(following())) is not None:
                yield chunk

    def ask(self, command: str, environment: Mapping[str, Any]) -> Answer:
        """What a command of the shell there prints.

        A job's log has lines of Ray's around that, so it stands between two marks.
        """
        mark = secrets.token_hex(8)
        job, begin, end = f"hjepa-asks-{mark}", f"hjepa-begin-{mark}\n", f"\nhjepa-end-{mark}"
        marked = [
            f"m={mark}",
            "echo hjepa-begin-$m",
            f"({command})",
            "s=$?; echo; echo hjepa-end-$m; exit $s",
        ]
        entrypoint = "; ".join(marked)
        self.send(job, entrypoint, environment)
        try:
            self._wait(job, ANSWER_S)
        except BaseException:
            self._client.stop_job(job)
            raise
        # Ray writes this line some time after the command has begun.
        text = self.printed(job).replace(f"Running entrypoint for job {job}: {entrypoint}\n", "")
        info = self._client.get_job_info(job)
        if begin not in text or end not in text:
            raise ConfigError(f"{self.address}: a job could not be run: {info.message or text.strip()}")
        self.forget(job)
        return Answer(info.driver_exit_code or 0, text.partition(begin)[2].partition(end)[0])

    def _wait(self, job: str, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while (state := self._client.get_job_status(job)) not in OVER:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{self.address}: job {job} is still {state.lower()} after {patience_s:.0f} s."
                )
            time.sleep(POLL_S)


@contextlib.contextmanager
def jobs_at(address: str, token: str | None, certificates: Path | None) -> Iterator[Jobs]:
    """The jobs of the cluster whose dashboard is at `address`; what goes wrong within is a ConfigError."""
    forget_local()
    from ray.dashboard.modules import dashboard_sdk
    from ray.dashboard.modules.job import sdk
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in (dashboard_sdk, sdk):
        module.logger.setLevel(logging.WARNING)  # they tell of every package and connection
    try:
        with _without_address():
            client = JobSubmissionClient(
                address,
                headers={"Authorization": f"Bearer {token}"} if token else None,
                verify=str(certificates) if certificates else True,
            )
        yield Jobs(client, address)
    except ConfigError:
        raise
    except AuthenticationError:
        why = "wants a token" if token is None else "does not take this token"
        raise ConfigError(
            f"{address} {why}. The cluster's is what `ray get-auth-token` prints on its head node; "
            "token_file of the profile or RAY_AUTH_TOKEN_PATH names a file with it."
        ) from None
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{address}: {str(error).strip() or type(error).__name__}") from None


def package_limit() -> int:
    """Bytes that a package has to be smaller than, for Ray to take it."""
    forget_local()  # else a cluster without a token would be asked for one
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return GCS_STORAGE_MAX_SIZE


@contextlib.contextmanager
def _without_address() -> Iterator[None]:
    """Within, the environment names no cluster: to Ray's client it would go before the profile."""
    kept = {name: os.environ.pop(name, None) for name in (ADDRESS, "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})
