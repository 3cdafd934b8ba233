"""Where a sweep's study is kept: a journal in its folder, or a database named by URL."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.definition import JOURNAL, write_whole
from orchestrator.space import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

STORAGE = "storage.json"
VARIABLE = "HJEPA_STORAGE"
"""Environment variable that names a database, and may hold its password."""

# All else in a URL's query may be a secret, and stays out of the records.
_PLAIN_OPTIONS = {"host", "port", "sslmode", "sslrootcert", "channel_binding", "service"}


@dataclass(frozen=True)
class Place:
    """A database that keeps studies."""

    url: "URL" = field(repr=False)
    """As given, with its secrets."""

    @classmethod
    def parse(cls, text: str, said_by: str) -> "Place":
        """From a URL. ConfigError, which does not repeat it, where no sweep can be kept there."""
        from sqlalchemy.engine import make_url  # a journal's readers need none of it
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            raise ConfigError(
                f"{said_by}: not the URL of a database, such as postgresql://user@host:5432/database."
            ) from None
        backend = url.get_backend_name()
        if backend in ("redis", "http", "https", "file"):
            raise ConfigError(
                f"{said_by}: {backend} keeps no sweep; allowed is SQL: postgresql, mysql, sqlite."
            )
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if backend == "sqlite":
            if not url.database or url.database == ":memory:":
                raise ConfigError(f"{said_by}: sqlite needs a file, such as sqlite:////data/studies.db.")
            url = url.set(database=str(Path(url.database).resolve()))
        return cls(url)

    def __str__(self) -> str:
        """The URL without what may be secret; good for records, and to connect where libpq knows the rest."""
        plain = {key: value for key, value in self.url.query.items() if key in _PLAIN_OPTIONS}
        # `set` takes a password of None for one that stays.
        bare = self.url.set(query=plain)._replace(password=None)
        return bare.render_as_string(hide_password=False)

    @property
    def is_secret(self) -> bool:
        """Whether the URL holds more than its records may."""
        return str(self) != self.url.render_as_string(hide_password=False)

    def is_same(self, other: "Place") -> bool:
        """Whether both name one database, as whomever."""
        return self._database() == other._database()

    def _database(self) -> tuple[object, ...]:
        host = self.url.host or self.url.query.get("host")
        port = self.url.port or self.url.query.get("port")
        return self.url.get_backend_name(), host, str(port), self.url.database


def place_of(folder: Path, option: str | None) -> Place | None:
    """Where the sweep in `folder` is kept, or shall be; None: in the folder's journal.

    `option` is `--storage`. The environment variable names a place for a new sweep, and holds the password
    of the place that an old one has. ConfigError where `option` contradicts what is there.
    """
    asked = Place.parse(option, "--storage") if option else None
    variable = os.environ.get(VARIABLE)
    known = Place.parse(variable, VARIABLE) if variable else None
    if asked is not None and known is not None and asked.is_same(known) and not asked.is_secret:
        asked = known
    if (folder / STORAGE).exists():
        there = _recorded(folder, asked)
        if asked is not None and not asked.is_same(there):
            raise ConfigError(f"--storage: {folder.name} is kept in {there}, not in {asked}.")
        return asked or (known if known is not None and known.is_same(there) else there)
    if (folder / JOURNAL).exists():
        if asked is not None:
            raise ConfigError(
                f"--storage: {folder.name} is kept in {folder / JOURNAL}, not in {asked}; "
                "--fork NAME begins a new sweep there with its finished trials."
            )
        return None
    return asked or known


def _recorded(folder: Path, asked: Place | None) -> Place:
    path = folder / STORAGE
    try:
        return Place.parse(json.loads(path.read_text(encoding="utf-8"))["url"], str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if asked is None:
            raise ConfigError(f"{path}: cannot be read: {error}; name the place by --storage.") from None
        return asked


def record_place(folder: Path, place: Place) -> None:
    """Write into `folder` where its study is, without secrets."""
    write_whole(folder / STORAGE, json.dumps({"url": str(place)}, indent=1))
