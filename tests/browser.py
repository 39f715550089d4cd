"""A browser without a window, for pages as people see them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


def in_browser(profile: Path, *flags: str) -> list[str]:
    """Command of one with a profile of its own; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed; apt-get install {BROWSERS[0]}")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *flags]
