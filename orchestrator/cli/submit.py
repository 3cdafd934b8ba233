"""Send a search space to a cluster, to run there as it would here.

The cluster is a profile: one of ~/.config/hjepa/clusters.yaml by its name, or clusters/NAME.yaml of this
folder. The sweep is validated here first, for slurm its data too, and sent whole: what is edited afterwards
does not reach it. Sent again while its job is queued or runs, it is the same job; when that is over, the
sweep goes on with the same results, as with more --trials. docs/cluster.md walks through each kind.
"""

import argparse
from pathlib import Path

from orchestrator.cli.going import add_changes, add_storage, add_tracking, checked_uri

EPILOG = """\
examples:
  hjepa-sweep submit search_spaces/fpn.yaml --to slurm --dry-run
  hjepa-sweep submit search_spaces/fpn.yaml --to slurm --trials 200

exit status: 0 sent, or it had been; 2 something is wrong with what was asked.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("space", help="YAML search space, such as search_spaces/fpn.yaml")
    parser.add_argument(
        "--to", required=True, metavar="PROFILE", help="the cluster: a profile's name, or its file"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    add_changes(parser)
    add_tracking(parser, "mlflow.db in the results there")
    add_storage(parser, "a journal in the sweep's folder there")


def run(options: argparse.Namespace) -> int:
    """Send it; the exit status."""
    from orchestrator.cluster.base import Submission
    from orchestrator.cluster.profile import load_profile
    from orchestrator.engine.capacity import require_number
    from orchestrator.space import load_sweep, parse_overrides
    from orchestrator.tracking.tracking import bare_uri

    profile = load_profile(options.to)
    overrides = {**profile.set, **parse_overrides(options.set)}
    sweep = load_sweep(options.space, options.base, overrides, options.trials, check_data=profile.sees_data)
    require_number(sweep.config.resources)
    words: list[str] = []
    if options.tracking_uri:
        # Without its secrets, which the cluster has of its own.
        words += ["--tracking-uri", bare_uri(checked_uri(options.tracking_uri))]
    if options.storage:
        words += ["--storage", options.storage]
    submission, results = Submission(sweep, tuple(words)), Path(options.results)
    text = profile.preview(submission, results) if options.dry_run else profile.submit(submission, results)
    print(text.rstrip("\n"))
    return 0
