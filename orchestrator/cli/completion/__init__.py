"""Print what makes a shell complete both commands: subcommands, options, files, sweeps, keys.

The script needs no Python when it completes, so it answers at once; print it anew after an update.
"""

import argparse

from orchestrator.cli.completion import bash, fish, zsh
from orchestrator.cli.completion.commands import Program, read_commands
from orchestrator.cli.completion.keys import RUN_KEYS, SWEEP_KEYS
from orchestrator.cli.completion.train import TRAIN

_SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
EPILOG = """\
examples:
  echo 'eval "$(hjepa-sweep completion bash)"' >> ~/.bashrc
  echo 'eval "$(hjepa-sweep completion zsh)"' >> ~/.zshrc       # below compinit
  hjepa-sweep completion fish > ~/.config/fish/conf.d/hjepa.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("shell", choices=list(_SHELLS))


def run(options: argparse.Namespace) -> int:
    """Print the script; the exit status."""
    run_keys = RUN_KEYS.split()
    programs = [
        Program("hjepa-sweep", "run", read_commands(options.parser), [*SWEEP_KEYS.split(), *run_keys]),
        Program("hjepa-train", "train", TRAIN, [*run_keys]),
    ]
    print(_SHELLS[options.shell].script(programs))
    return 0
