"""Chromium without a window, looking at MLflow's pages."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

SIZE = (1600, 1000)
PAGE_SECONDS = 120
# MLflow opens it once by itself, and remembers in the browser that it did.
ASSISTANT = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


def missing() -> str:
    """Returns what this machine lacks to have such a browser, in words; empty if nothing."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return ", ".join(lacking)


class Browser:
    """One browser.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver):
        self.driver = driver

    def open(self, url: str) -> None:
        """Opens a page of MLflow, afresh, without the assistant that would cover half of it."""
        self.driver.get(url)
        for name, value in ASSISTANT.items():
            self.driver.execute_script("localStorage.setItem(...arguments)", name, value)
        self.driver.get("about:blank")
        self.driver.get(url)

    def text(self) -> str:
        """Returns what a reader sees, as text."""
        return self.driver.execute_script("return document.body.innerText")

    def waits_for(self, *words: str) -> str:
        """Waits until all these words are on the page; returns the page's text."""
        from selenium.webdriver.support.ui import WebDriverWait

        def shown(_):
            text = self.text()
            return text if all(word in text for word in words) else False

        wait = WebDriverWait(self.driver, PAGE_SECONDS)
        return wait.until(shown, f"not on the page: {words}")

    def waits_for_charts(self, count: int) -> list[str]:
        """Waits until so many charts are drawn; returns the names of their axes and curves."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = """return [...document.querySelectorAll('.js-plotly-plot')].filter(
            plot => plot.querySelector('.trace')).map(plot => plot.textContent)"""

        def drawn(driver):
            charts = driver.execute_script(script)
            return charts if len(charts) >= count else False

        return WebDriverWait(self.driver, PAGE_SECONDS).until(drawn, f"fewer than {count} charts")

    def take(self, path: Path) -> None:
        """Writes a picture of the page."""
        self.driver.save_screenshot(str(path))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Starts a browser; ends it afterwards."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        f"--window-size={SIZE[0]},{SIZE[1]}",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
