"""Programs that speak to a cluster: SLURM's, kubectl, ray."""

import subprocess

from orchestrator.space import ConfigError

ANSWER_S = 60
"""Seconds that such a program has."""


def call(*command: str, missing: str, input: str | None = None, timeout_s: float = ANSWER_S) -> str:
    """What a program prints.

    ConfigError where it is not there, and then `missing` says what to do about it; where it has no answer in
    `timeout_s`; and where it refuses.
    """
    program = command[0]
    try:
        done = subprocess.run(
            command,
            input=input,
            text=True,
            errors="replace",  # it may print names that others have given
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(f"{program}: no such program: {missing}.") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{program}: no answer for {timeout_s:.0f} s.") from None
    if done.returncode:
        said = "\n".join(text.strip() for text in (done.stdout, done.stderr) if text.strip())
        raise ConfigError(f"{program}: {said or f'exit status {done.returncode}'}")
    return done.stdout
