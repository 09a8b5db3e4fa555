"""What check says of broken livepatches is what a stock kernel does with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError, GuestError, InputError
from builder.image.guest import Guest, MachineConfig
from builder.pipeline import ModulePlan, build, diff
from builder.preflight.check import Checker, CheckReport
from samples.objects import TARGET_NAME, target_objects
from tests.preflight.broken import broken
from tests.support.kernels import opened

RELEASE = "6.1.0-50-amd64"
"""What `running-6.1.0-50` of the test data was compiled from."""
pytestmark = [pytest.mark.kernel, pytest.mark.data, pytest.mark.slow]


@dataclass(frozen=True)
class Subject:
    """A livepatch of ours, intact and broken, the kernel that it is for, and the module that it patches, if any."""

    kernel: Kernel
    forms: dict[str, bytes]
    function: str
    target: Path | None = None

    @property
    def objects(self) -> dict[str, Path]:
        return {TARGET_NAME: self.target} if self.target is not None else {}

    def checker(self) -> Checker:
        return Checker(self.kernel, self.objects)


def of_the_kernel(data: Path) -> Subject:
    """A livepatch for mm/secretmem.c, whose references are bound when it is loaded."""
    try:
        kernel = Kernel.open(fetch_kernel(RELEASE).image)
    except BespokeError as error:
        pytest.skip(f"the archive no longer has {RELEASE}: {error}")
    pair = data / "running-6.1.0-50" / "pairs" / "mm__secretmem"
    module = build([diff(pair / "orig.o", pair / "patched.o")], Objects(kernel), ModulePlan("broken_patch"))
    assert module is not None
    section, symbol = ".klp.rela.vmlinux..text", ".klp.sym.vmlinux.secretmem_vm_ops,0"
    return Subject(kernel, broken(module.content, section, symbol, "secretmem_mmap"), "secretmem_mmap")


def of_a_module(release: str) -> Subject:
    """A livepatch for the sample module, whose references are bound when it is enabled."""
    made, kernel = target_objects(release), opened(release)
    objects = Objects(kernel, {TARGET_NAME: made.module})
    module = build([diff(made.old, made.new)], objects, ModulePlan("broken_patch"))
    assert module is not None
    section, symbol = f".klp.rela.{TARGET_NAME}..text", f".klp.sym.{TARGET_NAME}.mode,0"
    return Subject(kernel, broken(module.content, section, symbol, "weigh"), "weigh", made.module)


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def subject(request: pytest.FixtureRequest, data: Path) -> Subject:
    return of_the_kernel(data) if request.param == "6.1" else of_a_module(request.getfixturevalue("release_612"))


@pytest.fixture(scope="module")
def reports(subject: Subject) -> dict[str, CheckReport]:
    checker = subject.checker()
    return {name: checker.check(content) for name, content in subject.forms.items()}


def test_the_intact_one_has_nothing_against_it(subject: Subject, reports: dict[str, CheckReport]) -> None:
    report = reports["intact"]
    assert report.kernel_accepts
    assert report.exit_status == 0
    assert {str(row["function"]) for row in report.replaced} >= {subject.function}
    assert len(forms_refused(reports)) >= 40


def forms_refused(reports: dict[str, CheckReport]) -> list[str]:
    return [name for name, report in reports.items() if not report.kernel_accepts]


class Kernels:
    """A guest, another one after anything that it may not have survived."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._guest: Guest | None = None

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        if self._guest is not None:
            self._guest.__exit__(None, None, None)
            self._guest = None

    def load(self, content: bytes) -> tuple[bool | None, tuple[str, ...]]:
        """Whether insmod succeeded (None where it did not live to tell), and what the kernel complained of.

        Unloading included.
        """
        if self._guest is None:
            self._guest = Guest(
                self._subject.kernel, MachineConfig(panic_on_oops=False, cmdline="no_timer_check")
            ).__enter__()
            if self._subject.target is not None:
                assert self._guest.insmod(self._subject.target, TARGET_NAME).ok
        guest, mark = self._guest, self._guest.mark()
        accepted: bool | None = None
        try:
            guest.put("/run/x.ko", content)
            answer = guest.run("insmod /run/x.ko", timeout=20)
            accepted = answer.ok if answer.status < 128 else None
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
def kernels(subject: Subject) -> Iterator[Kernels]:
    with Kernels(subject) as found:
        yield found


@pytest.mark.guest
def test_a_stock_kernel_does_what_check_says(
    subject: Subject, kernels: Kernels, reports: dict[str, CheckReport]
) -> None:
    wrong = []
    assert len(subject.forms) > 60
    for name, content in subject.forms.items():
        accepted, complaints = kernels.load(content)
        report = reports[name]
        is_foreseen = bool(report.problems) if complaints else accepted is not None
        if not is_foreseen or accepted not in (None, report.kernel_accepts):
            said = [finding.message for finding in (*report.refusals, *report.problems)]
            wrong.append(f"{name}: the kernel {accepted} {complaints[:1]}, check {report.kernel_accepts} {said[:2]}")
    assert wrong == []


def test_what_is_no_module_is_said_so(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(b"no module at all")
    with pytest.raises(InputError, match="no ELF file"):
        subject.checker().check(path)
