"""Public archives of data sets: downloaded on an explicit command only, verified, and unpacked."""

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hjepa.schema import ConfigError
from hjepa.temporary import remove_abandoned, temporary

if sys.version_info >= (3, 11, 4):
    import tarfile
else:  # without the filters that make unpacking safe
    from backports import tarfile  # pyright: ignore

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60
_STEP_S = 0.5
_DIGITS = {"md5": 32, "sha256": 64}


class FetchError(Exception):
    """A download that failed, or did not bring what was expected; nothing is left of it."""


@dataclass(frozen=True)
class Archive:
    """A data set's public archive."""

    url: str
    checksum: str
    """`md5:` or `sha256:`, and the digits."""
    folder: str
    """What it unpacks to."""
    config: str
    """Settings that take it, with {to} for the folder that it was unpacked in."""


# The md5 sums of CIFAR stand on https://www.cs.toronto.edu/~kriz/cifar.html; STL-10's and Imagenette's are
# those that torchvision checks, for their own pages give none.
ARCHIVES = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "md5:c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        "data.dataset=cifar10 data.data_path={to}",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        "data.dataset=cifar100 data.data_path={to}",
    ),
    "stl10": Archive(
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "md5:91f7769df0f17e558f3565bffb0c7dfb",
        "stl10_binary",
        "data.dataset=stl10 data.data_path={to}",
    ),
    "imagenette": Archive(
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
        "md5:3df6f0d01a2c9592104656642f5e78a3",
        "imagenette2-320",
        "data.dataset=imagefolder data.data_path={to}/imagenette2-320",
    ),
}
BY_HAND = {
    "digits": "digits comes with scikit-learn: there is nothing to fetch.",
    "imagenet": (
        "ImageNet has no public archive: ask for access at https://www.image-net.org/download.php, unpack "
        "ILSVRC2012 into train/CLASS/*.JPEG and val/CLASS/*.JPEG, and set data.data_path to the folder above."
    ),
    "imagenet100": (
        "ImageNet-100 is a choice of 100 classes of ImageNet, which has no public archive: get that "
        "(https://www.image-net.org/download.php) and name the classes in a file by data.class_list."
    ),
}


def fetch(
    name: str,
    to: Path,
    url: str | None = None,
    file: Path | None = None,
    checksum: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path | None:
    """Unpack a data set's archive into the folder `to`; the folder that it made, None where that was there.

    The archive comes from `file`, from `url`, or from where it is public; its checksum must be the
    published one, or `checksum`. `tell` gets a line of progress now and then. The folder appears whole or
    not at all; a download that breaks off is gone on with next time.
    Raises ConfigError on what cannot be asked for, FetchError where the archive does not come or is not
    what it should be.
    """
    archive = known(name)
    kind, digits = _split_checksum(checksum or archive.checksum)
    target = to / archive.folder
    if target.exists():
        return None
    to.mkdir(parents=True, exist_ok=True)
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"--from {file}: no such file.")
        _verify(file, kind, digits, "It was left as it is.")
        _unpack(file, archive.folder, to)
        return target
    source = url or archive.url
    # Of another address or checksum, another part: bytes of two archives must not meet in a file.
    mark = hashlib.sha256(f"{source} {digits}".encode()).hexdigest()[:8]
    part = to / f".{archive.folder}.{mark}.part"
    _download(source, part, tell)
    try:
        _verify(part, kind, digits, "It was removed.")
        _unpack(part, archive.folder, to)
    finally:
        part.unlink(missing_ok=True)
    return target


def known(name: str) -> Archive:
    """The archive of a data set. Raises ConfigError where it has none, saying what to do instead."""
    if name in BY_HAND:
        raise ConfigError(BY_HAND[name])
    if name not in ARCHIVES:
        raise ConfigError(f"{name}: no such data set; there are {', '.join(ARCHIVES)}.")
    return ARCHIVES[name]


def _split_checksum(checksum: str) -> tuple[str, str]:
    kind, _, digits = checksum.partition(":")
    if not re.fullmatch(f"[0-9a-f]{{{_DIGITS.get(kind, 0)}}}", digits.lower()) or kind not in _DIGITS:
        raise ConfigError(f"--checksum {checksum}: must be md5: and 32 or sha256: and 64 hexadecimal digits.")
    return kind, digits.lower()


def _verify(file: Path, kind: str, digits: str, fate: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != digits:
        raise FetchError(f"{file}: its {kind} is {found}, not {digits}: not the archive expected. {fate}")


def _download(url: str, part: Path, tell: Callable[[str], None]) -> None:
    """Bring `url` to `part`, going on where that ends. FetchError where it breaks off; `part` then stays."""
    done = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    except ValueError as error:
        raise ConfigError(f"--url {url}: {error}.") from None
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            if done and getattr(answer, "status", None) != 206:
                done = 0  # it cannot, and sends all
            length = answer.headers.get("Content-Length")
            whole = done + int(length) if length else None
            with part.open("ab" if done else "wb") as stream:
                done = _copy(answer, stream, done, whole, tell)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send: the whole of it is there
            return
        raise FetchError(f"{url}: the server says {error.code} {error.reason}.") from None
    except http.client.InvalidURL as error:
        raise ConfigError(f"--url {url}: {error}.") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(
            f"{url} cannot be downloaded: {reason}. Without network, get the archive elsewhere and give it "
            "by --from FILE."
        ) from None
    if whole is not None and done < whole:
        raise FetchError(
            f"{url} broke off after {done:,} of {whole:,} bytes; the same command goes on there."
        )


def _copy(
    answer: BinaryIO, stream: BinaryIO, done: int, whole: int | None, tell: Callable[[str], None]
) -> int:
    told_s = time.monotonic()
    while block := answer.read(_BLOCK_BYTES):
        stream.write(block)
        done += len(block)
        if time.monotonic() - told_s >= _STEP_S:
            told_s = time.monotonic()
            tell(f"{done / 1e6:,.0f} MB" + (f" of {whole / 1e6:,.0f} MB" if whole else ""))
    return done


def _unpack(archive: Path, folder: str, to: Path) -> None:
    """`folder` of a tar archive, moved into `to` when it is whole."""
    remove_abandoned(to, f".{folder}.*.tmp")
    try:
        with temporary(to / folder, folder=True) as work, tarfile.open(archive) as tar:
            # Refuses absolute paths, .., links out of the folder, and devices.
            tar.extractall(work, filter="data")
            if not (work / folder).is_dir():
                raise FetchError(f"{archive}: holds no folder {folder}: not the archive expected.")
            os.rename(work / folder, to / folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FetchError(f"{archive} cannot be unpacked in {to}: {error}.") from None
