"""What a test may ask for, and what happens where it is not to be had.

A marker names the need (`data`, `guest`, `kernel`); a need that this machine
does not meet skips the test and says what is missing. Under `CI=true` a missing
tool is a failure: there `make setup` has run, so its absence is a defect.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUEST_TOOLS = ("qemu-system-x86_64", "busybox")
KERNEL_TOOLS = ("apt-get", "dpkg-deb")


def data_root() -> Path:
    """The directory of test data: `BESPOKE_DATA`, else `shared` beside the checkout."""
    return Path(os.environ.get("BESPOKE_DATA") or ROOT.parent / "shared")


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def lacks(reason: str) -> NoReturn:
    """Skip the test for `reason`; in CI fail it, because there everything was set up."""
    if in_ci():
        pytest.fail(f"{reason} (CI runs everything)", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not data_root().is_dir():
        pytest.skip(f"no test data at {data_root()} (set BESPOKE_DATA)")
    wanted: list[str] = []
    if item.get_closest_marker("guest"):
        wanted.extend(GUEST_TOOLS)
    if item.get_closest_marker("kernel"):
        wanted.extend(KERNEL_TOOLS)
    missing = [tool for tool in wanted if shutil.which(tool) is None]
    if missing:
        lacks(f"not installed: {', '.join(missing)} (make setup)")


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory of test data; mark the test `data` too."""
    return data_root()
