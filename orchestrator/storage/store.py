"""Files at a URL: an object store such as s3://, or a file system, that every node of a cluster reaches."""

import contextlib
import errno
import functools
import os
import re
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pyarrow import ArrowException, fs

from orchestrator.space import ConfigError
from orchestrator.storage.disk import StoreAway, is_full

_WHOLE = {"s3", "gcs", "abfs"}
"""Kinds of store in which a file appears when it is complete, and folders need not be made."""

_PASSING = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|HTTP status 5\d\d"
)
"""What stores say when it helps to try again later."""
_OF_GOOGLE = re.compile(
    r"google::cloud::Status\((\w+): (?:Retry policy exhausted, .*last message of )?(.*?) error_info="
)
"""What Google's library says; the rest is of its own inner life."""
GOOGLE_S = 30
"""Seconds for which it tries again by itself; 900 unless told."""
_UNREACHED = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
_LOCAL = fs.LocalFileSystem()


@dataclass(frozen=True)
class Store:
    """A folder at a URL. Its methods raise StoreAway where trying again later may help, else OSError."""

    url: str
    system: fs.FileSystem
    path: str
    """The folder, as the file system names it."""

    def __str__(self) -> str:
        return self.url

    def below(self, *names: str) -> "Store":
        """A folder inside it."""
        parts = urlsplit(self.url)
        path = "/".join([parts.path.rstrip("/"), *names])
        return Store(urlunsplit(parts._replace(path=path)), self.system, "/".join([self.path, *names]))

    def put(self, source: Path, name: str) -> None:
        """Copy a local file there, whole or not at all; what had that name is replaced."""
        target = f"{self.path}/{name}"
        whole = self.system.type_name in _WHOLE
        written = target if whole else f"{self.path}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            if not whole:
                self.system.create_dir(self.path, recursive=True)
            _copy(_LOCAL, str(source), self.system, written)
            (info,) = self.system.get_file_info([written])
            if info.size != source.stat().st_size:
                raise StoreAway(errno.EIO, f"took {info.size} bytes of {source.stat().st_size}", written)
            if not whole:
                self.system.move(written, target)
        except OSError as error:
            if not whole:
                self._forget(written)
            raise self._told(error, name) from None

    def _forget(self, path: str) -> None:
        with contextlib.suppress(OSError):  # it was never there, or stays as a .tmp that nobody reads
            self.system.delete_file(path)

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from there to a local one, whole or not at all. FileNotFoundError where it is not."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            _copy(self.system, f"{self.path}/{name}", _LOCAL, str(temporary))
            os.replace(temporary, target)
        except OSError as error:
            raise self._told(error, name) from None
        finally:
            temporary.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Names of its files, in order; none where there is no such folder."""
        try:
            found = self.system.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        except OSError as error:
            raise self._told(error) from None
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self.system.delete_file(f"{self.path}/{name}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._told(error, name) from None

    def rename(self, name: str, new: str) -> None:
        """Give a file another name in the same folder."""
        try:
            self.system.move(f"{self.path}/{name}", f"{self.path}/{new}")
        except OSError as error:
            raise self._told(error, name) from None

    def send(self, name: str, other: "Store") -> None:
        """Copy a file to the folder `other`, by way of this process."""
        try:
            if other.system.type_name not in _WHOLE:
                other.system.create_dir(other.path, recursive=True)
            _copy(self.system, f"{self.path}/{name}", other.system, f"{other.path}/{name}")
        except OSError as error:
            raise self._told(error, name) from None

    def probe(self) -> None:
        """Write, read and remove a small file."""
        name = f".probe-{uuid.uuid4().hex}"
        with tempfile.TemporaryDirectory(prefix="hjepa-probe-") as scratch:
            sent, back = Path(scratch) / name, Path(scratch) / f"{name}.back"
            sent.write_text(name, encoding="ascii")
            self.put(sent, name)
            self.fetch(name, back)
            self.delete(name)
            if back.read_text(encoding="ascii") != name:
                raise OSError(errno.EIO, "gave back something else than was written", f"{self.url}/{name}")

    def _told(self, error: OSError, name: str = "") -> OSError:
        """The error with the URL in place of the store's own way of naming it."""
        return told(error, self.below(name).url if name else self.url)


def _copy(source: fs.FileSystem, here: str, target: fs.FileSystem, there: str) -> None:
    fs.copy_files(here, there, source_filesystem=source, destination_filesystem=target, use_threads=False)


def told(error: OSError, where: str) -> OSError:
    """`error` as one about `where`: StoreAway where it is one that passes."""
    text = re.sub(r" \(Request ID: [^)]*\)", "", error.strerror or str(error)).strip().rstrip(".")
    if found := _OF_GOOGLE.search(text):
        text = f"{found[1]}: {found[2].rstrip('.')}"
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such file", where)
    passes = isinstance(error, StoreAway | ConnectionError | TimeoutError) or error.errno in _UNREACHED
    if passes or _PASSING.search(text):
        return StoreAway(error.errno or errno.EIO, text, where)
    if is_full(error):
        return OSError(error.errno, text, where)
    return OSError(error.errno or errno.EIO, text, where)


@functools.lru_cache(maxsize=16)
def open_store(url: str) -> Store:
    """The folder at `url`: by pyarrow's file systems, by fsspec's for what those do not know.

    Raises ConfigError where no such store can be opened, and as Store's methods do.
    """
    parts = urlsplit(url)
    try:
        system, path = _opened(url, parts)
    except (ArrowException, ValueError, ImportError) as error:
        if isinstance(error, OSError):
            raise told(error, url) from None
        reason = str(error).strip().rstrip(".")
        raise ConfigError(f"resources.checkpoints: {url}: cannot be opened: {reason}.") from None
    except OSError as error:
        raise told(error, url) from None
    return Store(url.rstrip("/") if not parts.query else url, system, path.rstrip("/"))


def _opened(url: str, parts: SplitResult) -> tuple[fs.FileSystem, str]:
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
        query = "&".join([*filter(None, [parts.query]), f"retry_limit_seconds={GOOGLE_S}"])
        url = urlunsplit(parts._replace(query=query))
    try:
        return fs.FileSystem.from_uri(url)
    except (ArrowException, ValueError) as error:
        if "Unrecognized filesystem" not in str(error):
            raise
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path
