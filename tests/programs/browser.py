"""Debian's chromium without a screen, driven by selenium; nothing is downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

WIDTH, HEIGHT = 1440, 900


@contextmanager
def browsing(folder: Path, width: int = WIDTH, height: int = HEIGHT) -> Iterator[Chrome]:
    """A browser with its profile in `folder`; skips where chromium or its driver is missing."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium is installed (Debian's packages are chromium and chromium-driver)")
    options = ChromeOptions()
    options.binary_location = program
    for switch in (
        "--headless=new",
        f"--window-size={width},{height}",
        f"--user-data-dir={folder / 'profile'}",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--hide-scrollbars",
        "--proxy-server=direct://",
    ):
        options.add_argument(switch)
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")  # chromium's sandbox refuses root
    # For its errors: driver.get_log("browser").
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = ChromeService(driver, log_output=str(folder / "chromedriver.log"))
    chrome = Chrome(options, service)
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A browser of this test's own."""
    folder = tmp_path / "browser"
    folder.mkdir()
    with browsing(folder) as chrome:
        yield chrome
