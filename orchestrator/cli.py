"""`hjepa-sweep`: a search space to an answer."""

import argparse
import sys
from pathlib import Path

USER_ERROR, PARTIAL, FAILED, INTERRUPTED = 2, 3, 1, 130

EPILOG = """\
examples:
  hjepa-sweep search_spaces/fpn.yaml
  hjepa-sweep search_spaces/fpn.yaml --trials 8 --set scheduler.max_epochs=9
  hjepa-sweep search_spaces/fpn.yaml --base configs/quick/cifar10.yaml --set data.data_path=DIR

An interrupted sweep goes on when it is started again by the same command.

exit status: 0 done, 1 no trial came to an end, 2 something is wrong with what was asked,
3 done, but some trials failed, 130 interrupted.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parser().parse_args(arguments)
    # Imported here, because Ray and torch take seconds and --help should not.
    from orchestrator.space import ConfigError, load_sweep, parse_overrides

    try:
        overrides = parse_overrides(options.set)
        sweep = load_sweep(options.space, base=options.base, overrides=overrides, trials=options.trials)
        from orchestrator.report import summary
        from orchestrator.sweep import run_sweep
        from orchestrator.tracking import absolute_uri

        tracking = options.tracking_uri or f"sqlite:///{Path(options.results) / 'mlflow.db'}"
        try:
            absolute_uri(tracking)
        except ValueError as error:
            raise ConfigError(f"--tracking-uri: {error}.") from None
        result = run_sweep(sweep, Path(options.results), tracking)
    except ConfigError as error:
        print(f"hjepa-sweep: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"hjepa-sweep: {where}{error.strerror or error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(
            "\nhjepa-sweep: interrupted; what was reported is kept. Go on with the same command:\n"
            f"  hjepa-sweep {' '.join(arguments if arguments is not None else sys.argv[1:])}",
            file=sys.stderr,
        )
        return INTERRUPTED
    print(summary(result, sweep, tracking))
    if result.best is None:
        return FAILED
    return PARTIAL if result.failed else 0


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    command = argparse.ArgumentParser(
        prog="hjepa-sweep",
        description="Search a space of H-JEPA configs: which choice is better?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("space", help="YAML search space, such as search_spaces/fpn.yaml")
    command.add_argument("--base", metavar="CONFIG", help="run config to vary, in place of the space's")
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the sweep (scheduler.max_epochs=9, name=again) or of the base config "
        "(training.warmup_epochs=2); may be repeated",
    )
    command.add_argument("--trials", type=int, metavar="N", help="how many, in place of search.num_trials")
    command.add_argument(
        "--results", default="results", metavar="DIR", help="where sweeps are kept (default: results)"
    )
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's store or server (default: mlflow.db in the results)",
    )
    return command


if __name__ == "__main__":
    sys.exit(main())
