"""Look whether a sweep could run here, or on a cluster.

Python, torch and its device, Ray's versions and token, every node's versions, data, GPUs, clock, disk and
shared memory, the place of one trial, and the ways to results, checkpoints, study and MLflow. Each line
passes, or says what mends it. Nothing stays written.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import (
    FAILED,
    add_address,
    add_changes,
    add_storage,
    add_tracking,
    checked_uri,
    default_store,
    require_alone,
)

EPILOG = """\
examples:
  hjepa-sweep doctor
  hjepa-sweep doctor search_spaces/fpn.yaml --address auto
  hjepa-sweep doctor --address 10.0.0.1:6379 --json
  hjepa-sweep doctor search_spaces/fpn.yaml --to ray

exit status: 0 all is right, 1 something is not, 2 something is wrong with what was asked.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "space", nargs="?", help="YAML search space whose resources and data are looked for (default: none's)"
    )
    add_changes(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    add_tracking(parser, "mlflow.db in the results")
    add_storage(parser, "none is looked at")
    add_address(parser)
    parser.add_argument(
        "--to", metavar="PROFILE", help="look at that cluster, by its profile; at a Ray cluster from its head"
    )


def run(options: argparse.Namespace) -> int:
    """Look; the exit status."""
    from orchestrator.doctor.finding import as_json, in_all
    from orchestrator.space import ConfigError, load_sweep, parse_overrides
    from orchestrator.study.place import place_of, require_original

    if options.space is None and (options.base or options.set or options.trials is not None):
        raise ConfigError("doctor: --base, --set and --trials change a search space; name one.")
    profile = None
    if options.to:
        require_alone(options, "storage", "tracking_uri", "address")
        from orchestrator.cluster.profile import load_profile

        profile = load_profile(options.to)
    sweep = None
    if options.space is not None:
        overrides = {**(profile.set if profile else {}), **parse_overrides(options.set)}
        sweep = load_sweep(options.space, options.base, overrides, options.trials, check_data=False)
    results = Path(options.results)
    if profile is not None:
        from orchestrator.cluster.base import Submission

        answer = profile.doctor(Submission(sweep) if sweep else None, results, options.json)
        print(answer.text.rstrip())
        return answer.status
    from orchestrator import cluster_address
    from orchestrator.doctor.diagnose import diagnose  # imports Ray, whose settings are others for a cluster

    folder = results / (sweep.config.name if sweep else "doctor")
    place = place_of(folder, options.storage)
    require_original(folder, place)
    tracking = checked_uri(options.tracking_uri or default_store(results))
    findings = []
    for finding in diagnose(cluster_address(), results, tracking, sweep, place):
        findings.append(finding)
        if not options.json:
            print(finding.line, flush=True)
    print(as_json(findings) if options.json else in_all(findings))
    return 0 if all(finding.ok for finding in findings) else FAILED
