"""The text of a SLURM batch script that runs a sweep on a Ray of its own across the job's nodes."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.cluster.base import exports

_LOOPBACK = """\
# One node: Ray listens to this machine alone.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo
host=127.0.0.1
"""
_FIRST_NODE = """\
# The first node is this one, by the address that the others know it by.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
host=$(getent ahostsv4 "$first" | awk 'NR == 1 {print $1}')
case $host in "" | 127.*) host=$(hostname -I | awk '{print $1}') ;; esac
"""
_BODY = """\
export HJEPA_STATE_DIR=@STATE_ROOT@/hjepa-$SLURM_JOB_ID
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=@RESULTS@/.token-$SLURM_JOB_ID
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export SLURM_EXPORT_ENV=ALL
(umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -rf "$RAY_AUTH_TOKEN_PATH" "$HJEPA_STATE_DIR"' EXIT

@HOST@
export HJEPA_ADDRESS=$host:$((20000 + SLURM_JOB_ID % 10000))

# USR1: the time is nearly over, so stop in order and go on later. TERM: somebody wants it to stop.
asked=
tell() {
    asked=$1
    # A sweep that is over has taken its state folder along.
    kill -USR1 "$(cat "$HJEPA_STATE_DIR/driver" 2>/dev/null)" 2>/dev/null || kill -TERM $step 2>/dev/null
}
trap 'tell later' USR1
trap 'tell stop' TERM

srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=120 bash -c '
    @CLEAR@
    rm -rf "$HJEPA_STATE_DIR" && mkdir -m 700 "$HJEPA_STATE_DIR" || exit 1
    trap "rm -rf \\"$HJEPA_STATE_DIR\\"" EXIT
    ray symmetric-run --address "$HJEPA_ADDRESS" --min-nodes @NODES@ \\
        --num-cpus "$SLURM_CPUS_PER_TASK" --temp-dir "$HJEPA_STATE_DIR" --include-dashboard false \\
        --disable-usage-stats -- \\
        bash -c "echo \\$\\$ >\\"\\$HJEPA_STATE_DIR/driver\\"; exec \\"\\$@\\"" driver "$@"
' task @COMMAND@ --address "$HJEPA_ADDRESS" &
step=$!
wait $step
status=$?
# A signal ends `wait` before what it waits for has ended.
while kill -0 $step 2>/dev/null; do
    wait $step
    status=$?
done

# Ray's exit status is 0 where it could not start, so the sweep itself is asked.
state=$(@STATUS@ --json | python -c 'import json, sys; print(json.load(sys.stdin)["state"])')
echo "hjepa-sweep: job $SLURM_JOB_ID: the sweep is ${state:-not begun}"
if [ "$state" = finished ]; then
    exit 0
fi
if [ "$asked" = later ] && [ "${SLURM_RESTART_COUNT:-0}" -lt @MAX_REQUEUES@ ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit $((status ? status : 1))
"""


def batch_script(
    header: Sequence[str],
    setup: Sequence[str],
    secret_files: Mapping[str, str],
    nodes: int,
    exclusive: bool,
    state_root: str,
    max_requeues: int,
    name: str,
    results: Path,
    space: Path,
    options: Sequence[str],
) -> str:
    """The script; `header` are options of sbatch, `options` words for the sweep's command line."""
    command = ["hjepa-sweep", "run", str(space), "--results", str(results), *options]
    status = ["hjepa-sweep", "status", name, "--results", str(results)]
    filled = {
        "@STATE_ROOT@": state_root,
        "@RESULTS@": shlex.quote(str(results)),
        "@HOST@": _LOOPBACK if nodes == 1 else _FIRST_NODE,
        # Daemons of the job's earlier life may have outlived it, and Ray begins beside no other.
        "@CLEAR@": "ray stop --force >/dev/null 2>&1" if exclusive else ":",
        "@NODES@": str(nodes),
        "@COMMAND@": shlex.join(command),
        "@STATUS@": shlex.join(status),
        "@MAX_REQUEUES@": str(max_requeues),
    }
    body = _BODY
    for mark, text in filled.items():
        body = body.replace(mark, text.rstrip("\n") if mark == "@HOST@" else text)
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in header), "", *setup]
    lines += exports(secret_files)
    return "\n".join([*lines, body])
