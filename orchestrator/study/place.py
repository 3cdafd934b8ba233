"""Where a sweep's study is kept: a journal in its folder, or a database named by URL.

The folder may be a copy, with a journal of what the database had when it was made.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.definition import JOURNAL, SPACE, write_whole
from orchestrator.space import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

STORAGE = "storage.json"
COPIED = "copied_at"
"""Key of that file by which a folder is a copy."""
VARIABLE = "HJEPA_STORAGE"
"""Environment variable that names a database, and may hold its password."""

# All else in a URL's query may be a secret, or lead to one, and stays out of the records.
_PLAIN_OPTIONS = {
    *("host", "hostaddr", "port", "service", "target_session_attrs", "load_balance_hosts", "client_encoding"),
    *("sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslcrl", "sslcrldir", "sslsni"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding", "require_auth"),
    *("gssencmode", "krbsrvname"),
    # MySQL's
    *("unix_socket", "charset", "collation", "ssl_ca", "ssl_cert", "ssl_verify_cert", "ssl_verify_identity"),
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
"""Where a database is whose URL names no port."""
# As `-c search_path=lab`. Settings that are not PostgreSQL's own have a dot in the name.
_SETTING = r"(-c\s*|--)[A-Za-z_]+=\S+"
_SERVER_SETTINGS = re.compile(rf"\s*{_SETTING}(\s+{_SETTING})*\s*")

_withheld: ContextVar[str | None] = ContextVar("withheld", default=None)


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
        plain = {key: value for key, value in self.url.query.items() if _is_plain(key, value)}
        # `set` takes a password of None for one that stays.
        bare = self.url.set(query=plain)._replace(password=None)
        return bare.render_as_string(hide_password=False)

    @property
    def is_secret(self) -> bool:
        """Whether the URL holds more than its records may."""
        return str(self) != self.url.render_as_string(hide_password=False)

    def with_secrets_of(self, other: "Place") -> "Place":
        """The same with what `other`'s URL has beyond it: user, password, further options."""
        return Place(other.url.set(query={**other.url.query, **self.url.query}))

    def is_same(self, other: "Place") -> bool:
        """Whether both name one database, as whomever."""
        return self._database() == other._database()

    def _database(self) -> tuple[object, ...]:
        host = self.url.host or self.url.query.get("host")
        port = self.url.port or self.url.query.get("port") or _PORTS.get(self.url.get_backend_name())
        return self.url.get_backend_name(), host, str(port), self.url.database


def _is_plain(key: str, value: str | tuple[str, ...]) -> bool:
    """Whether records may have this option of a URL."""
    if key == "options":
        return isinstance(value, str) and _SERVER_SETTINGS.fullmatch(value) is not None
    return key in _PLAIN_OPTIONS


def place_of(folder: Path, option: str | None) -> Place | None:
    """Where the sweep in `folder` is kept, or shall be; None: in the folder's journal.

    `option` is `--storage`. The environment variable names a place for a new sweep, and holds the secrets of
    the place that an old one has, whose other options stay as they are. Of a copy it is the journal, and with
    `option` the place of the original. ConfigError where `option` contradicts what is there.
    """
    asked = Place.parse(option, "--storage") if option else None
    variable = os.environ.get(VARIABLE, _withheld.get())
    known = Place.parse(variable, VARIABLE) if variable else None
    if asked is not None and known is not None and asked.is_same(known) and not asked.is_secret:
        asked = asked.with_secrets_of(known)
    if (folder / STORAGE).exists():
        there = _recorded(folder, asked)
        if asked is not None and not asked.is_same(there):
            raise ConfigError(
                f"--storage: {folder.name} is kept in {there}, not in {asked}. If that is the same database "
                f"by another address, write it into {folder / STORAGE}."
            )
        if asked is None and copy_in(folder) is not None:
            return None
        return asked or (
            there.with_secrets_of(known) if known is not None and known.is_same(there) else there
        )
    if (folder / JOURNAL).exists():
        if asked is not None:
            raise ConfigError(
                f"--storage: {folder.name} is kept in {folder / JOURNAL}, not in {asked}; "
                "--fork NAME begins a new sweep there with its finished trials."
            )
        return None
    return asked or known


@contextmanager
def withheld() -> Iterator[None]:
    """Within, the environment does not name the database, which is none of the trials' business, and
    `place_of` knows of it all the same."""
    given = os.environ.pop(VARIABLE, None)
    token = _withheld.set(given)
    try:
        yield
    finally:
        _withheld.reset(token)
        if given is not None:
            os.environ[VARIABLE] = given


@dataclass(frozen=True)
class Copy:
    """What a folder is that holds a copy of a study."""

    original: Place
    """Where the study is."""
    made_at: str
    """When it was copied, ISO 8601 in UTC."""

    def __str__(self) -> str:
        return f"a copy, made at {self.made_at}, of a sweep that is kept in {self.original}"


def copy_in(folder: Path) -> Copy | None:
    """What is known of the copy in `folder`; None where it is none."""
    try:
        found = _read(folder / STORAGE)
        return Copy(_place(found, folder / STORAGE), str(found[COPIED])) if COPIED in found else None
    except (OSError, ValueError, KeyError, TypeError):  # which `place_of` tells of
        return None


def require_original(folder: Path, place: Place | None) -> None:
    """Raise ConfigError where `folder` holds a copy and a sweep in it would go on beside its original.

    `place` is where it would be kept. Both would go by one name, and share their checkpoints where these
    are at a URL.
    """
    copy = copy_in(folder)
    if place is not None or copy is None:
        return
    apart = ["hjepa-sweep", str(folder / SPACE), "--results", str(folder.parent), "--fork"]
    raise ConfigError(
        f"{folder.name}: {folder} is {copy}; what runs here would not reach that.\n"
        f"Go on with the original: the same command with --storage {copy.original}, its password in "
        f"{VARIABLE}.\n"
        f"Go on apart from it, with its finished trials: {shlex.join(apart)} NAME"
    )


def _recorded(folder: Path, asked: Place | None) -> Place:
    path = folder / STORAGE
    try:
        return _place(_read(path), path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if asked is None:
            raise ConfigError(f"{path}: cannot be read: {error}; name the place by --storage.") from None
        return asked


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _place(record: dict[str, Any], path: Path) -> Place:
    return Place.parse(record["url"], str(path))


def record_place(folder: Path, place: Place) -> None:
    """Write into `folder` where its study is, without secrets. A copy is none any more."""
    write_whole(folder / STORAGE, _record(place))


def record_of_copy(place: Place) -> str:
    """What the file STORAGE of a copy says that is made now of a study in `place`."""
    return _record(place, **{COPIED: datetime.now(UTC).isoformat(timespec="seconds")})


def _record(place: Place, **more: str) -> str:
    return json.dumps({"url": str(place), **more}, indent=1)
