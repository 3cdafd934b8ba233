"""MLflow's pages of a real sweep, in a real browser, as a user gets there."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.workplace import Workplace, wait_for

WAIT_S = 60
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "mlflow-compare.png"


@pytest.fixture
def page(workplace: Workplace) -> Iterator[str]:
    """Address of a sweep's page, as `hjepa-sweep ui` prints it. HJEPA_UI_RESULTS names a results folder with
    a sweep to show; else a tiny one is run."""
    given = os.environ.get("HJEPA_UI_RESULTS")
    if given is None:
        done = workplace.sweep("tiny.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
    output = workplace.folder / "ui.log"
    server = workplace.start_sweep("ui", "--port", "0", "--results", given or "results", output=output)
    try:
        wait_for(output, "Ctrl-C ends", server)
        found = re.search(r"^\S+: (http://127\.0\.0\.1:\S+)$", output.read_text(), re.MULTILINE)
        assert found
        processes = psutil.Process(server.pid).children(recursive=True)
        assert processes
        yield found[1]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0, output.read_text()
    assert not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.slow
def test_three_clicks_lead_to_the_parallel_coordinates_of_a_sweeps_trials(
    page: str, browser: Chrome, tmp_path: Path
) -> None:
    browser.get(page)
    press(browser, "input[aria-label='Select all runs']")
    press(browser, "[data-testid=runs-compare-button]")
    wait(browser, lambda: "compare-runs" in browser.current_url)
    wait(browser, lambda: "model.fpn.fusion_method" in axes(browser))
    choose(browser, "Metrics:", "val/knn_top1")
    choose(browser, "Parameters:", "training.lr")
    wait(browser, lambda: {"training.lr", "val/knn_top1"} <= axes(browser))
    assert "training.batch_size" not in axes(browser)  # swept keys alone, for the others do not differ
    lines = browser.find_elements(
        By.CSS_SELECTOR, ".parcoords canvas, canvas.gl-canvas, .gl-container canvas"
    )
    assert lines
    picture = tmp_path / "mlflow-compare.png"
    browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000
    if os.environ.get("HJEPA_UI_RESULTS"):
        IMAGE.parent.mkdir(exist_ok=True)
        shutil.copy(picture, IMAGE)


@pytest.mark.slow
def test_server_answers_to_no_name_but_this_machines(page: str) -> None:
    address = page.partition("/#")[0]
    import urllib.error
    import urllib.request

    with urlopen(f"{address}/health", timeout=10) as answer:
        assert answer.status == 200
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/experiments/search", headers={"Host": "evil.test"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urlopen(request, timeout=10)


def wait(browser: Chrome, condition: "object") -> None:
    WebDriverWait(browser, WAIT_S).until(lambda _: condition())  # pyright: ignore


def press(browser: Chrome, selector: str) -> None:
    """Click on what is there, or comes."""
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, selector))
    found = browser.find_element(By.CSS_SELECTOR, selector)
    wait(browser, found.is_enabled)
    browser.execute_script("arguments[0].click()", found)


def axes(browser: Chrome) -> set[str]:
    """Titles of the plot's axes."""
    return {found.text for found in browser.find_elements(By.CSS_SELECTOR, ".axis-title")}


def choose(browser: Chrome, label: str, name: str) -> None:
    """Add `name` to the plot by the box below `label`."""
    box: WebElement = browser.find_element(By.XPATH, f"//*[text()='{label}']/following::input[1]")
    box.send_keys(name, Keys.ENTER, Keys.ESCAPE)
