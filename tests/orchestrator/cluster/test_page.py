"""docs/cluster.md and the profiles of clusters/: what they say is so."""

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.cli import parse, submit
from orchestrator.cluster.profile import KINDS, load_profile

CHECKOUT = Path(__file__).parents[3]
PAGE = (CHECKOUT / "docs/cluster.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^    (hjepa-sweep .*)", PAGE)
PROFILES = sorted(path.stem for path in (CHECKOUT / "clusters").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a reader would be there, without profiles of their own."""
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands_are_valid(command: str):
    options = parse(shlex.split(command, comments=True)[1:])
    if to := getattr(options, "to", None):
        assert load_profile(to).type in KINDS


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--dry-run" in command])
def test_the_pages_dry_runs_print_what_would_be_sent(command: str, capsys: pytest.CaptureFixture[str]):
    options = parse(shlex.split(command, comments=True)[1:])
    assert submit.run(options) == 0
    assert capsys.readouterr().out.count("\n") > 10


@pytest.mark.parametrize("name", PROFILES)
def test_every_example_is_of_a_kind_that_is_on_the_page(name: str):
    assert f"`{load_profile(name).type}`" in PAGE


@pytest.mark.parametrize("name", PROFILES)
def test_the_page_explains_every_key_of_a_profile(name: str):
    told = set(re.findall(r"`([a-z_]+)`", PAGE))
    profile = load_profile(name)
    assert set(type(profile).model_fields) - {"type", "description", "set"} <= told
