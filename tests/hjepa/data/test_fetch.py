"""Archives fetched from a server on this machine."""

import hashlib
import http.server
import io
import shlex
import socket
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets as public

from hjepa.cli import main
from hjepa.data import DataConfig, load_test
from hjepa.data.fetch import ARCHIVES, FetchError, fetch
from hjepa.schema import ConfigError
from hjepa.temporary import boot
from tests.hjepa.data.formats import write_cifar10


def sums(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A folder as cifar10's, though of its binary files."""
    root = tmp_path_factory.mktemp("archive")
    write_cifar10(root / "cifar-10-batches-py", per_batch=2)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    return stream.getvalue()


class Server(http.server.ThreadingHTTPServer):
    content: bytes
    breaks_at: int | None = None
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the archive, from where it is asked to; breaks off where it is told to."""

    server: Server

    def do_GET(self) -> None:
        if self.path != "/archive.tar.gz":
            self.send_error(404)
            return
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        rest = self.server.content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.breaks_at])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(archive: bytes) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        found.content, found.asked = archive, []
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/archive.tar.gz"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_archive_is_downloaded_verified_and_unpacked(url: str, archive: bytes, tmp_path: Path):
    made = fetch("cifar10", tmp_path / "data", url, checksum=sums(archive))
    assert made == tmp_path / "data" / "cifar-10-batches-py"
    assert names(tmp_path / "data") == ["cifar-10-batches-py"]
    found = DataConfig(dataset="cifar10", data_path=str(made), cache_dir=str(tmp_path / "c"))
    assert len(load_test(found)) == 2


def test_what_is_there_is_not_fetched_again(server: Server, url: str, archive: bytes, tmp_path: Path):
    fetch("cifar10", tmp_path, url, checksum=sums(archive))
    assert fetch("cifar10", tmp_path, url, checksum=sums(archive)) is None
    assert len(server.asked) == 1


def test_a_file_or_its_address_at_hand_does_as_well(archive: bytes, tmp_path: Path):
    file = tmp_path / "got.tar.gz"
    file.write_bytes(archive)
    for to, source in (("one", {"file": file}), ("two", {"url": file.as_uri()})):
        md5 = f"md5:{hashlib.md5(archive, usedforsecurity=False).hexdigest()}"
        assert fetch("cifar10", tmp_path / to, checksum=md5, **source) is not None
        assert names(tmp_path / to) == ["cifar-10-batches-py"]
    assert file.exists()


def test_a_wrong_checksum_leaves_nothing(url: str, tmp_path: Path):
    with pytest.raises(FetchError, match=r"its md5 is .*, not c58f30108f718f92721af3b95e74349a"):
        fetch("cifar10", tmp_path, url)
    assert names(tmp_path) == []


def test_a_download_that_breaks_off_goes_on_where_it_was(
    server: Server, url: str, archive: bytes, tmp_path: Path
):
    server.breaks_at = 1000
    with pytest.raises(FetchError, match=r"broke off after 1,000 of .* the same command goes on"):
        fetch("cifar10", tmp_path, url, checksum=sums(archive))
    assert all(name.startswith(".") for name in names(tmp_path))
    server.breaks_at = None
    fetch("cifar10", tmp_path, url, checksum=sums(archive))
    assert server.asked == [None, "bytes=1000-"]
    assert names(tmp_path) == ["cifar-10-batches-py"]


def test_what_a_killed_fetch_left_half_unpacked_is_removed(url: str, archive: bytes, tmp_path: Path):
    (tmp_path / f".cifar-10-batches-py.{boot()}.x.tmp" / "inner").mkdir(parents=True)
    fetch("cifar10", tmp_path, url, checksum=sums(archive))
    assert names(tmp_path) == ["cifar-10-batches-py"]


def test_no_network_and_no_such_file_are_one_message(server: Server, url: str, tmp_path: Path):
    with pytest.raises(FetchError, match="the server says 404"):
        fetch("cifar10", tmp_path, url.replace("archive", "other"))
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match=r"cannot be downloaded: .*refused.* --from FILE"):
        fetch("cifar10", tmp_path, url)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://exa mple/x.tar.gz", "http://example:port/x", "archive.tar.gz"])
def test_an_address_that_is_none_is_one_message(url: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"^--url {url}: "):
        fetch("cifar10", tmp_path, url)
    assert names(tmp_path) == []


def test_an_answer_that_is_no_http_is_one_message(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 ready\r\n")

        answered = pool.submit(answer)
        with pytest.raises(FetchError, match="cannot be downloaded: 220 ready"):
            fetch("cifar10", tmp_path, f"http://127.0.0.1:{port}/x")
        answered.result()


def packed(member: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.addfile(member)
    return stream.getvalue()


def entry(name: str, **changed: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changed.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "written",
    [
        None,
        entry("other/file"),
        entry("cifar-10-batches-py/../../out"),
        entry("cifar-10-batches-py/x", type=tarfile.SYMTYPE, linkname="/etc"),
    ],
    ids=["no archive", "another folder", "a way out", "a link"],
)
def test_an_archive_of_another_kind_leaves_nothing(written: tarfile.TarInfo | None, tmp_path: Path):
    content = packed(written) if written else b"no archive"
    file = tmp_path / "archive"
    file.write_bytes(content)
    with pytest.raises(FetchError, match=r"cannot be unpacked|holds no folder"):
        fetch("cifar10", tmp_path / "data", file=file, checksum=sums(content))
    assert names(tmp_path) == ["archive", "data"]
    assert names(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", "image-net.org"),
        ("imagenet100", r"data\.class_list"),
        ("digits", "nothing to fetch"),
        ("cifar", "no such data set; there are cifar10, cifar100, stl10, imagenette"),
    ],
)
def test_what_cannot_be_fetched_is_explained(name: str, message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        fetch(name, tmp_path)


@pytest.mark.parametrize("checksum", ["abc", "md5:abc", "crc:12345678", "sha256:" + "g" * 64])
def test_a_checksum_that_is_none_is_refused(checksum: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--checksum .* must be md5: and 32"):
        fetch("cifar10", tmp_path, checksum=checksum)


def test_addresses_and_checksums_are_those_that_torchvision_holds():
    imagenette = public.Imagenette._ARCHIVES["320px"]
    known = {
        "cifar10": (public.CIFAR10.url, public.CIFAR10.tgz_md5),
        "cifar100": (public.CIFAR100.url, public.CIFAR100.tgz_md5),
        "stl10": (public.STL10.url, public.STL10.tgz_md5),
        "imagenette": imagenette,
    }
    found = {name: (one.url, one.checksum.removeprefix("md5:")) for name, one in ARCHIVES.items()}
    assert found == known


# The command


def test_the_command_says_what_it_did_and_how_to_use_it(
    url: str, archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["fetch", "cifar10", "--to", str(tmp_path), "--url", url, "--checksum", sums(archive)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert f"verified and unpacked: {tmp_path / 'cifar-10-batches-py'}" in told
    assert f"--set data.dataset=cifar10 --set data.data_path={tmp_path}" in told
    assert main(command) == 0
    assert "is there already" in capsys.readouterr().out


def test_the_settings_that_the_command_prints_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    to = tmp_path / "my data"
    (to / "cifar-10-batches-py").mkdir(parents=True)
    assert main(["fetch", "cifar10", "--to", str(to)]) == 0
    _, _, words = capsys.readouterr().out.partition("use it by ")
    assert shlex.split(words) == ["--set", "data.dataset=cifar10", "--set", f"data.data_path={to}"]


def test_the_command_tells_mistakes_from_failures(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["fetch", "imagenet", "--to", str(tmp_path)]) == 2
    assert main(["fetch", "cifar10", "--to", str(tmp_path), "--from", str(tmp_path / "no")]) == 2
    assert main(["fetch", "cifar10", "--to", str(tmp_path), "--url", url]) == 1
    told = capsys.readouterr().err
    assert "hjepa-train: ImageNet has no public archive" in told
    assert "no such file" in told
    assert "its md5 is" in told
    assert "Traceback" not in told
