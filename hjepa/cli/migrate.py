"""Convert a config of the old H-JEPA code to the present keys.

Prints a table of what became of every key, and why; keys that the old code read nowhere are carried
over to where they count now.
"""

import argparse
import sys
from pathlib import Path

from hjepa.advice import advice
from hjepa.legacy import migrate, table
from hjepa.schema import ConfigError
from hjepa.temporary import whole_file

EPILOG = """\
examples:
  hjepa-train migrate old/default.yaml                      the new file to standard output
  hjepa-train migrate old/default.yaml -o my/default.yaml   to a file, which must not exist

A file that is canonical already comes out as it is. What cannot be converted is an error that names
the line. docs/migration.md has all the rules.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("old", metavar="OLD.yaml", type=Path, help="config to convert")
    parser.add_argument("-o", "--output", metavar="NEW.yaml", type=Path, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace the output file if it exists")


def run(options: argparse.Namespace) -> int:
    """Convert; the exit status."""
    output: Path | None = options.output
    if output is not None and (output.is_file() or output.is_dir()) and not options.force:
        raise ConfigError(f"{output}: exists already; name another file, or add --force.")
    migration = migrate(options.old)
    for note in migration.notes:
        print(f"{options.old}: {note}", file=sys.stderr)
    if migration.unchanged:
        print(f"{options.old}: is canonical already, nothing to convert.", file=sys.stderr)
    else:
        print(*table(migration), sep="\n", file=sys.stderr)
    for line in advice(migration.config):
        print(f"warning: {line}", file=sys.stderr)
    if output is None:
        print(migration.text, end="")
    else:
        with whole_file(output) as file:
            file.write(migration.text.encode())
        print(f"written: {output}", file=sys.stderr)
    return 0
