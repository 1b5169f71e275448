"""Chromium without a window: what it makes of a page, and what it asks for meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; apt-get install chromium")


class Opened(NamedTuple):
    """The page's elements after loading, and the addresses that it asked for (not those that Chromium itself does)."""

    dom: str
    requests: set[str]


def open_page(page: Path, folder: Path) -> Opened:
    """Open a file in Chromium, whose profile and log lie in ``folder`` and to which no host has an address."""
    log = folder / "net.json"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    begun = [event["params"] for event in json.loads(log.read_text())["events"] if "params" in event]
    # Chromium's own requests have no origin.
    asked = {each["url"] for each in begun if each.get("initiator", "not an origin") != "not an origin"}
    return Opened(done.stdout, asked)
