"""`python -m orchestrator.process.tether COMMAND...`: a command that does not outlive whoever started it.

Standard input is the tether: at its end, which comes however the starter dies, the whole process group is
ended. To be started in a session of its own.
"""

import os
import select
import signal
import subprocess
import sys

LOOK_S, END_S = 0.5, 5.0


def main() -> int:
    """Run the command; its exit status."""
    # A signal to the group is for the command, whose end is waited for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while command.poll() is None:
        if select.select([sys.stdin], [], [], LOOK_S)[0]:
            os.killpg(0, signal.SIGTERM)
            try:
                command.wait(END_S)
            except subprocess.TimeoutExpired:
                os.killpg(0, signal.SIGKILL)
    return command.returncode


if __name__ == "__main__":
    sys.exit(main())
