"""The browser that other tests look at pages with."""

from pathlib import Path

from selenium.webdriver import Chrome


def test_browser_opens_a_page_of_this_machine_and_runs_its_script(browser: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p id=p></p><script>p.textContent = 6 * 7; console.error('seen')</script>")
    browser.get(page.as_uri())
    assert browser.find_element("id", "p").text == "42"
    assert any("seen" in entry["message"] for entry in browser.get_log("browser"))
