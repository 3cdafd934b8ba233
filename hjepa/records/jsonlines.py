"""An append-only file of one JSON object per line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """An append-only file of one JSON object per line."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, record: Mapping[str, object]) -> None:
        """Append a record and hand it to the operating system."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that are not `wanted`, and a last line that is torn."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and wanted(json.loads(line))]
        if kept != lines:
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(self.path)
