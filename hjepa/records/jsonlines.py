"""An append-only file of one JSON object per line."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hjepa.temporary import whole_file


class JsonLines:
    """An append-only file of one JSON object per line."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record and hand it to the operating system; all of it, or OSError and nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(record) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                file.truncate(size)
                raise

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that are not `wanted`, and a last line that is torn."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and wanted(json.loads(line))]
        if kept != lines:
            with whole_file(self.path) as file:
                file.write("".join(kept).encode())
