"""A real Chromium, driven by Playwright."""

import contextlib
import os
import shutil

import pytest


@contextlib.contextmanager
def chromium():
    """Gives a function from Chromium's flags to a running browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    # Chromium's sandbox does not work for root.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        yield lambda *flags: driver.chromium.launch(executable_path=path, args=[*sandbox, *flags])
