"""Slips in a word of the command line. For both programs, before either has imported what takes seconds."""

import argparse
import difflib
import os
from collections.abc import Iterable
from typing import Any


def meant_command(word: str, commands: Iterable[str]) -> str | None:
    """The command that `word`, which is none, is a slip of; None where it is a file, or reads like one."""
    if "." in word or os.path.exists(word):
        return None
    return next(iter(difflib.get_close_matches(word, commands, n=1, cutoff=0.7)), None)


class Parser(argparse.ArgumentParser):
    """One that answers an option that its command has not with the nearest of those that it has."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        found, left = super().parse_known_args(args, namespace)
        if left:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(left[0].partition("=")[0], options, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        return found, left
