"""What check says of broken livepatches is what a stock kernel does with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel import Kernel
from builder.errors import BespokeError, GuestError, InputError
from builder.image.guest import Guest
from builder.load.check import Checker, CheckReport
from builder.pipeline import build, diff
from tests.load.broken import broken

RELEASE = "6.1.0-50-amd64"
"""What `running-6.1.0-50` of the test data was compiled from."""
KLP, SYMBOL, FUNCTION = ".klp.rela.vmlinux..text", ".klp.sym.vmlinux.secretmem_vm_ops,0", "secretmem_mmap"
pytestmark = [pytest.mark.kernel, pytest.mark.data, pytest.mark.slow]


@pytest.fixture(scope="module")
def running() -> Kernel:
    try:
        return Kernel.open(fetch_kernel(RELEASE).image)
    except BespokeError as error:
        pytest.skip(f"the archive no longer has {RELEASE}: {error}")


@pytest.fixture(scope="module")
def forms(running: Kernel, data: Path) -> dict[str, bytes]:
    """A livepatch of ours for mm/secretmem.c, intact and broken."""
    pair = data / "running-6.1.0-50" / "pairs" / "mm__secretmem"
    module = build([diff(pair / "orig.o", pair / "patched.o")], running, name="broken_patch")
    assert module is not None
    return broken(module.content, KLP, SYMBOL, FUNCTION)


@pytest.fixture(scope="module")
def reports(running: Kernel, forms: dict[str, bytes]) -> dict[str, CheckReport]:
    checker = Checker(running)
    return {name: checker.check(content) for name, content in forms.items()}


def test_the_intact_one_has_nothing_against_it(reports: dict[str, CheckReport]) -> None:
    report = reports["intact"]
    assert report.kernel_accepts
    assert report.exit_status == 0
    assert {str(row["function"]) for row in report.replaced} >= {FUNCTION}
    assert len(forms_refused(reports)) >= 40


def forms_refused(reports: dict[str, CheckReport]) -> list[str]:
    return [name for name, report in reports.items() if not report.kernel_accepts]


class Kernels:
    """A guest, another one after anything that it may not have survived."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._guest: Guest | None = None

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        if self._guest is not None:
            self._guest.__exit__(None, None, None)
            self._guest = None

    def load(self, content: bytes) -> tuple[bool, tuple[str, ...]]:
        """Whether insmod succeeded, and what the kernel had to complain of, unloading included."""
        if self._guest is None:
            self._guest = Guest(self._kernel, panic_on_oops=False, cmdline="no_timer_check").__enter__()
        guest, mark = self._guest, self._guest.mark()
        accepted = False
        try:
            guest.put("/run/x.ko", content)
            accepted = guest.run("insmod /run/x.ko", timeout=20).ok
            if accepted:
                name = guest.loaded()[0]
                guest.disable_livepatch(name, 20)
                guest.run(f"rmmod {name}", timeout=20)
            said = guest.warnings(mark)
            complaints = tuple(w for w in said if any(s in w for s in ("BUG", "Oops", "WARNING", "fault")))
        except GuestError as error:
            complaints = (str(error),)
        if complaints:
            self.drop()
        return accepted, complaints


@pytest.fixture(scope="module")
def kernels(running: Kernel) -> Iterator[Kernels]:
    with Kernels(running) as found:
        yield found


@pytest.mark.guest
def test_a_stock_kernel_does_what_check_says(
    kernels: Kernels, forms: dict[str, bytes], reports: dict[str, CheckReport]
) -> None:
    wrong = []
    assert len(forms) > 60
    for name, content in forms.items():
        accepted, complaints = kernels.load(content)
        report = reports[name]
        if complaints and report.problems:
            continue  # it took harm, and that was foreseen
        if complaints or accepted != report.kernel_accepts:
            said = [finding.message for finding in (*report.refusals, *report.problems)]
            wrong.append(f"{name}: the kernel {accepted} {complaints[:1]}, check {report.kernel_accepts} {said[:2]}")
    assert wrong == []


def test_what_is_no_module_is_said_so(running: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(b"no module at all")
    with pytest.raises(InputError, match="no ELF file"):
        Checker(running).check(path)
