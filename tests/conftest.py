"""What a test may ask for, and what happens where it is not to be had.

A marker names the need (`data`, `guest`, `kernel`); a need that this machine
does not meet skips the test and says what is missing. Under `CI=true` a missing
tool is a failure: there `make setup` has run, so its absence is a defect.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from builder.acquire.packages import newest_kernel
from builder.errors import BespokeError

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


def need(*tools: str) -> None:
    """What the test runs must be installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        lacks(f"not installed: {', '.join(missing)} (make setup)")


@contextmanager
def needed(what: str = "") -> Iterator[None]:
    """For what is fetched or prepared: where that is not to be had, the test lacks it, and says why."""
    try:
        yield
    except BespokeError as error:
        lacks(f"{what}: {error}" if what else str(error))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also what takes a minute and more of a guest (marked `long`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What a whole run has no time for is `tox -e long`'s; each of it has a shorter test of its kind beside it."""
    for item in items:
        for mark in item.iter_markers("long_for"):
            given = getattr(item, "callspec").params  # noqa: B009 (only items with parameters have it)
            assert mark.kwargs.keys() <= given.keys(), item.nodeid
            if mark.kwargs.items() <= given.items():
                item.add_marker("long")
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)


def pytest_configure() -> None:
    """Interrupts reach what a test starts, also where the run itself was started in the background (SIGINT ignored)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not data_root().is_dir():
        pytest.skip(f"no test data at {data_root()} (set BESPOKE_DATA)")
    wanted: list[str] = []
    if item.get_closest_marker("guest"):
        wanted.extend(GUEST_TOOLS)
    if item.get_closest_marker("kernel"):
        wanted.extend(KERNEL_TOOLS)
    need(*wanted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Logs may have names that are no UTF-8; a worker sends its reports as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def _program(by: str, *names: str) -> str:
    """The first of these that is installed; the last one is what `by` would install."""
    for name in names:
        if found := shutil.which(name):
            return found
    lacks(f"not installed: {names[-1]} ({by})")


@pytest.fixture(scope="session")
def gcc() -> str:
    """The compiler of the kernels that are tested, else the machine's own."""
    return _program("make setup", "gcc-12", "gcc")


@pytest.fixture(scope="session")
def clang() -> str:
    """Any clang: what it makes otherwise than gcc."""
    return _program("make test", "clang")


@pytest.fixture(scope="session")
def browser() -> str:
    """A real browser, to see what it makes of a page."""
    return _program("make test", "chromium")


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory of test data; mark the test `data` too."""
    return data_root()


def _newest(series: str, suite: str | None = None) -> str:
    with needed(f"no kernel of series {series}"):
        return newest_kernel(series, suite=suite)


@pytest.fixture(scope="session")
def release_61() -> str:
    """The newest Debian kernel of series 6.1 that the archive offers; mark the test `kernel` too."""
    return _newest("6.1")


@pytest.fixture(scope="session")
def release_612() -> str:
    """The newest of series 6.12: IBT, another `struct module`, compressed modules."""
    return _newest("6.12")


@pytest.fixture(scope="session")
def release_7() -> str:
    """The newest of series 7, from a suite that the machine is not configured with: packages split, no versions."""
    return _newest("7", "sid")


@pytest.fixture(params=["6.1", "6.12"], scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """Each of the two in turn."""
    return str(request.getfixturevalue(f"release_{request.param.replace('.', '')}"))
