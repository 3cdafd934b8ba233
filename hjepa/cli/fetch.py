"""Download a public data set, verify its checksum, and unpack it.

Nothing else of hjepa-train ever uses the network for data.
"""

import argparse
import shlex
import sys
from pathlib import Path

from hjepa.data.fetch import ARCHIVES, FetchError, fetch, known

FAILED, INTERRUPTED = 1, 130

EPILOG = f"""\
data sets: {", ".join(ARCHIVES)}. ImageNet must be got by hand; `fetch imagenet` says how.

examples:
  hjepa-train fetch cifar10 --to data
  hjepa-train fetch stl10 --to data --from ~/Downloads/stl10_binary.tar.gz

What is there already is left as it is. A download that breaks off goes on with the same command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", help=f"one of {', '.join(ARCHIVES)}")
    parser.add_argument(
        "--to", metavar="DIR", type=Path, required=True, help="folder to unpack in, for data.data_path"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from", metavar="FILE", dest="file", type=Path, help="archive that is at hand")
    source.add_argument("--url", help="address of a copy of the archive")
    parser.add_argument(
        "--checksum", metavar="KIND:DIGITS", help="md5:... or sha256:... of another edition of the archive"
    )


def run(options: argparse.Namespace) -> int:
    """Fetch; the exit status."""
    archive, on_terminal = known(options.name), sys.stdout.isatty()

    def tell(line: str) -> None:
        if on_terminal:
            print(f"\r{options.name}: {line}  ", end="", flush=True)

    source = options.file or options.url or archive.url
    print(f"{options.name}: from {source}, to be {options.checksum or archive.checksum}")
    try:
        made = fetch(options.name, options.to, options.url, options.file, options.checksum, tell)
    except FetchError as error:
        print(f"{chr(10) if on_terminal else ''}hjepa-train: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nhjepa-train: interrupted; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    if made is None:
        print(f"{options.to / archive.folder} is there already; remove it to fetch it again.")
    else:
        print(f"{chr(10) if on_terminal else ''}verified and unpacked: {made}")
    settings = (one.format(to=options.to) for one in archive.config.split())
    print("use it by", *(f"--set {shlex.quote(one)}" for one in settings))
    return 0
