"""Check search spaces without running them: what each key may do, and the base.

Every file is checked, whatever is wrong with those before it.
"""

import argparse
import sys

from orchestrator.cli.going import USER_ERROR, add_changes

EPILOG = """\
examples:
  hjepa-sweep check search_spaces/fpn.yaml
  hjepa-sweep check --brief search_spaces/*.yaml
  hjepa-sweep check search_spaces/fpn.yaml --base configs/quick/cifar10.yaml --set data.data_path=DIR

exit status: 0 all are valid, 2 one at least is not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("spaces", metavar="SPACE", nargs="+", help="YAML search space")
    add_changes(parser)
    parser.add_argument("--brief", action="store_true", help="leave out the resolved base")


def run(options: argparse.Namespace) -> int:
    """Check every file; the exit status."""
    from orchestrator.space import ConfigError, describe, load_sweep, parse_overrides, to_yaml

    overrides = parse_overrides(options.set)
    status, before = 0, ""
    for space in options.spaces:
        warnings: list[str] = []
        try:
            sweep = load_sweep(space, options.base, overrides, options.trials, warn=warnings.append)
        except ConfigError as error:
            print(f"hjepa-sweep: {error}", file=sys.stderr)
            status = USER_ERROR
            continue
        print(f"{before}# {space}: {sweep.config.name}")
        before = "\n"
        print(*(f"# {line}" for line in describe(sweep)), sep="\n")
        print(*(f"# warning: {line}\n" for line in warnings), sep="", end="")
        if not options.brief:
            print(to_yaml(sweep.base), end="")
    return status
