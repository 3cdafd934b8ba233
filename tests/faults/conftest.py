"""The table that `make faults` ends with: each fault, what it was done to, and what was lost."""

from collections.abc import Iterator

import pytest

ROWS = pytest.StashKey[list[tuple[str, str]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call" and "faults" in item.path.parts:
        words = (getattr(item.function, "__doc__", None) or item.name).strip().splitlines()[0].rstrip(".")  # pyright: ignore[reportAttributeAccessIssue]
        case = f" [{item.callspec.id}]" if hasattr(item, "callspec") else ""  # pyright: ignore[reportAttributeAccessIssue]
        lost = "nothing" if report.passed else "SEE ABOVE"
        item.config.stash.setdefault(ROWS, []).append((words + case, lost))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("faults, and what was lost")
        for words, lost in rows:
            terminalreporter.write_line(f"{words:90}  {lost}")
