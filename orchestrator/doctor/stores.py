"""Whether what a sweep writes can be written: results, MLflow's record, the study, checkpoints."""

import base64
import os
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.doctor.finding import Finding
from orchestrator.space import ConfigError
from orchestrator.storage.depot import require_store
from orchestrator.study.database import first_line, require_usable
from orchestrator.study.place import VARIABLE, Place
from orchestrator.tracking.tracking import bare_uri, without_credentials

TIMEOUT_S = 10.0
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def standing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    folder = folder.resolve()
    while not folder.is_dir():
        folder = folder.parent
    return folder


@contextmanager
def marked(folder: Path) -> Iterator[tuple[Path | None, Finding]]:
    """Within, a new file in the results folder, or above where that is not there; None: none can be made."""
    place = standing(folder)
    try:
        handle, name = tempfile.mkstemp(dir=place, prefix=".hjepa-doctor-")
        with os.fdopen(handle, "wb") as file:
            file.write(b"here")
            os.fsync(handle)
    except OSError as error:
        said = f"{place} cannot be written to: {error.strerror or error}"
        yield None, Finding("results", False, said, "make it writable, or name another folder by --results")
        return
    try:
        new = "" if place == folder.resolve() else f", where {folder} will be made"
        yield Path(name), Finding("results", True, f"{place} takes files{new}")
    finally:
        Path(name).unlink(missing_ok=True)


def tracking(uri: str) -> Finding:
    """Whether MLflow's store takes this client."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        return _sqlite(Path(uri.removeprefix("sqlite:///")))
    if parts.scheme in ("http", "https"):
        return _server(uri)
    bare = bare_uri(uri)
    try:
        engine = create_engine(uri)
        with closing(engine.connect()):
            pass
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        fix = "see that the database runs and the URL has its user and password"
        return Finding("tracking", False, f"{bare}: {first_line(error)}", fix)
    return Finding("tracking", True, f"{bare} lets this client in")


def _sqlite(path: Path) -> Finding:
    place = standing(path.parent)
    fix = "make it writable, or name another store by --tracking-uri"
    if not os.access(place, os.W_OK):
        return Finding("tracking", False, f"{place} cannot be written to", fix)
    if not path.exists():
        return Finding("tracking", True, f"{path} will be made")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as database:
            database.execute("select count(*) from experiments").fetchone()
    except sqlite3.Error as error:
        away = "move it away, or name another store by --tracking-uri"
        return Finding("tracking", False, f"{path} is no database of MLflow's: {error}", away)
    if not os.access(path, os.W_OK):
        return Finding("tracking", False, f"{path} cannot be written to", fix)
    return Finding("tracking", True, f"{path} can be written to")


def _server(uri: str) -> Finding:
    parts, bare = urlsplit(uri), bare_uri(uri)
    plain = without_credentials(uri).rstrip("/")
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    request = urllib.request.Request(f"{plain}/api/2.0/mlflow/experiments/search?max_results=1")
    if user:
        code = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        request.add_header("Authorization", f"Basic {code}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            who = f"refuses {user}" if user else "asks for a user and a password"
            return Finding("tracking", False, f"{bare} {who} (HTTP {error.code})", f"set {CREDENTIALS}")
        fix = "is the URL that of an MLflow server, without a path of its pages?"
        return Finding("tracking", False, f"{bare} answers HTTP {error.code}", fix)
    except OSError as error:
        reason = getattr(error, "reason", error)
        fix = "start it, or open the way to it; a sweep runs all the same, and `hjepa-sweep sync` sends it"
        return Finding("tracking", False, f"{bare} cannot be reached: {reason}", fix)
    return Finding("tracking", True, f"{bare} lets this client in")


def study(place: Place) -> Finding:
    """Whether the study's database takes this client, and a sweep."""
    file = Path(place.url.database or "") if place.url.get_backend_name() == "sqlite" else None
    if file is not None and not file.exists():  # to look into it would make it
        may = os.access(file.parent, os.W_OK)
        said = f"{file} {'will be made' if may else 'cannot be made'}"
        return Finding("study", may, said, "" if may else f"see that {file.parent} is there and is writable")
    fix = (
        f"see that it runs, that {VARIABLE} or --storage has its URL with user and password, and that this "
        "user may make tables (GRANT CREATE ON SCHEMA) and write to those that are there (GRANT ALL ON ALL "
        "TABLES)"
    )
    try:
        require_usable(place)
    except ConfigError as error:
        return Finding("study", False, str(error).rstrip("."), fix)
    return Finding("study", True, f"{place} lets this client in")


def checkpoints(url: str) -> Finding:
    """Whether this client can write where checkpoints go; nodes are asked by themselves."""
    try:
        require_store(url)
    except ConfigError as error:
        said, _, fix = str(error).partition("\n")
        return Finding("checkpoints", False, said.removeprefix("resources.checkpoints: ").rstrip("."), fix)
    return Finding("checkpoints", True, f"{url} takes files, gives them back and lets them go")
