"""A real SLURM of one node on loopback, its files in a folder of its own, its processes in a namespace.

The namespace is of process ids: jobs see no Ray but their own there, which `ray stop` would end, and all that
the daemons leave behind ends with it. Jobs are numbered from the controller's port on: their own ports and
state folders go by that number, and two such clusters may run at once.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "srun", "unshare")
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,sched_min_interval=0
ReturnToService=2
FirstJobId={controller}
KillWait=15
MessageTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""
_SERVE = """\
set -e
/usr/sbin/munged --foreground --force --key-file=munge.key --socket={folder}/munge.socket \
    --pid-file=munge.pid --log-file=munge.log --seed-file=munge.seed &
until [ -S munge.socket ]; do sleep 0.1; done
/usr/sbin/slurmctld -D -c -f slurm.conf &
/usr/sbin/slurmd -D -c -f {folder}/slurm.conf &
wait
"""


class Slurm:
    """The cluster; `env` lets SLURM's commands find it."""

    def __init__(self, folder: Path):
        self.folder = folder
        host = socket.gethostname().partition(".")[0]
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            controller, daemon = one.getsockname()[1], two.getsockname()[1]
        (folder / "slurm.conf").write_text(
            _CONF.format(folder=folder, host=host, controller=controller, daemon=daemon)
        )
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        with (folder / "output").open("w") as output:
            self.process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c",
                 _SERVE.format(folder=folder)],
                cwd=folder, env=os.environ | self.env, stdout=output, stderr=output,
            )  # fmt: skip
        self.until(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T"), 60)

    def call(self, *command: str) -> str:
        """What a command of SLURM's prints."""
        done = subprocess.run(
            command, env=os.environ | self.env, text=True, capture_output=True, timeout=60, check=False
        )
        return done.stdout

    def state(self, job: str) -> str:
        """Of a job, such as RUNNING."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return next((w.removeprefix("JobState=") for w in words if w.startswith("JobState=")), "")

    def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for `condition`; fails with SLURM's own words."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def log(self) -> str:
        files = [self.folder / name for name in ("output", "slurmctld.log", "slurmd.log", "munge.log")]
        return "\n".join(file.read_text()[-3000:] for file in files if file.exists())


def missing() -> str | None:
    """Why there can be no SLURM here, None where there can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian's packages are slurm-wlm and munge)"
    if os.getuid() != 0:
        return "SLURM's daemons need root"
    return None


@contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    # A short path: sockets lie in it.
    folder = Path(tempfile.mkdtemp(prefix="sl"))
    folder.chmod(0o755)  # munged takes no socket where others cannot reach it
    slurm = None
    try:
        slurm = Slurm(folder)
        yield slurm
    finally:
        if slurm is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(slurm.process.pid, signal.SIGKILL)  # and with it the namespace
            slurm.process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
