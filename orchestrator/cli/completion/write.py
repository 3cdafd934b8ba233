"""`python -m orchestrator.cli.completion.write` writes the config keys that completion knows, `keys.py`.

They stand in a file because the schema cannot be asked without loading torch, and a shell waits for this.
"""

from pathlib import Path

from orchestrator.space.setting import run_keys, sweep_keys

KEYS = Path(__file__).parent / "keys.py"


def text() -> str:
    """The file."""
    return (
        '"""Dotted config keys that --set takes; written by `make docs`."""\n\n'
        f"SWEEP_KEYS = {_listed(sweep_keys())}\n"
        f"RUN_KEYS = {_listed(run_keys())}\n"
    )


def _listed(keys: list[str]) -> str:
    return '"""\n' + "\n".join(keys) + '\n"""'


if __name__ == "__main__":
    KEYS.write_text(text(), encoding="utf-8")
    print(f"written: {KEYS.name}")
