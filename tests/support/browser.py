"""A real Chromium, for the tests that are marked `browser`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.programs import missing

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--window-size=1200,800",
)


@contextlib.contextmanager
def open_chromium(
    tmp_path: Path, *more: str, without: Sequence[str] = ()
) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own.

    Args:
        tmp_path: where the profile is.
        more: switches of Chromium.
        without: switches that its driver would set, by their names.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing("no Chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*_OPTIONS, *more, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.add_experimental_option("excludeSwitches", list(without))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    chrome = webdriver.Chrome(options=options, service=service)
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own."""
    with open_chromium(tmp_path) as chrome:
        yield chrome


def wait_for(
    chrome: webdriver.Chrome, condition: Callable[[webdriver.Chrome], bool], seconds: float = 10
) -> None:
    """Wait until a condition holds."""
    WebDriverWait(chrome, seconds, poll_frequency=0.1).until(condition)
