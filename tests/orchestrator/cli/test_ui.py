"""MLflow's pages of a real sweep, in a real browser, as a user gets there."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from orchestrator.tracking.delivery import create_database
from tests.workplace import Workplace, end_session, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
WAIT_S = 60
IMAGE = Path(__file__).parents[3] / "docs" / "images" / "mlflow-compare.png"


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
    press(browser, "[data-component-id='mlflow.assistant.chat_panel.close']")
    press(browser, "input[aria-label='Select all runs']")
    press(browser, "[data-testid=runs-compare-button]")
    wait(browser, lambda: "compare-runs" in browser.current_url)
    wait(browser, lambda: "model.fpn.fusion_method" in axes(browser))
    # Another press would take an axis away that MLflow has chosen by itself.
    for label, name in (("Metrics:", "val/knn_top1"), ("Parameters:", "training.lr")):
        if name not in axes(browser):
            choose(browser, label, name)
    wait(browser, lambda: {"training.lr", "val/knn_top1"} <= axes(browser))
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
def test_servers_processes_do_not_outlive_a_killed_command(workplace: Workplace) -> None:
    create_database(workplace.folder / "results/mlflow.db")
    output = workplace.folder / "ui.log"
    server = workplace.start_sweep("ui", "--port", "0", output=output)
    try:
        wait_for(output, "Ctrl-C ends", server)
        processes = psutil.Process(server.pid).children(recursive=True)
        assert len(processes) >= 2
        server.send_signal(signal.SIGKILL)
        server.wait(30)
        assert not psutil.wait_procs(processes, timeout=30)[1]
    finally:
        end_session(server)


@pytest.mark.slow
def test_server_answers_to_no_name_but_this_machines(page: str) -> None:
    address = page.partition("/#")[0]
    with urlopen(f"{address}/health", timeout=10) as answer:
        assert answer.status == 200
    request = Request(f"{address}/api/2.0/mlflow/experiments/search", headers={"Host": "evil.test"})
    with pytest.raises(HTTPError, match="403"):
        urlopen(request, timeout=10)


def wait(browser: Chrome, condition: Callable[[], object]) -> None:
    """Until `condition` comes true."""
    WebDriverWait(browser, WAIT_S).until(lambda _: condition())


def press(browser: Chrome, selector: str) -> None:
    """Click on what is there, or comes."""
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, selector))
    found = browser.find_element(By.CSS_SELECTOR, selector)
    wait(browser, found.is_enabled)
    browser.execute_script("arguments[0].click()", found)


def axes(browser: Chrome) -> set[str]:
    """Titles of the plot's axes."""
    return {found.text for found in browser.find_elements(By.CSS_SELECTOR, "svg text")}


def choose(browser: Chrome, label: str, name: str) -> None:
    """Add `name` to the plot by the box below `label`."""
    box: WebElement = browser.find_element(By.XPATH, f"//*[text()='{label}']/following::input[1]")
    box.send_keys(name, Keys.ENTER, Keys.ESCAPE)
