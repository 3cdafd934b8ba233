"""Slips in a word of the command line. For both programs, before either has imported what takes seconds."""

import difflib
import os
from collections.abc import Iterable


def meant_command(word: str, commands: Iterable[str]) -> str | None:
    """The command that `word`, which is none, is a slip of; None where it is a file, or reads like one."""
    if "." in word or os.path.exists(word):
        return None
    return next(iter(difflib.get_close_matches(word, commands, n=1, cutoff=0.7)), None)
