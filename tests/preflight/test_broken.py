"""What check says of broken livepatches is what a stock kernel does with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError, InputError
from builder.pipeline import ModulePlan, build, diff
from builder.preflight.check import CheckReport
from samples.objects import TARGET_NAME, target_objects
from tests.preflight.acceptance import Kernels, Subject, verdicts
from tests.preflight.broken import broken
from tests.support.kernels import opened

RELEASE = "6.1.0-50-amd64"
"""What `running-6.1.0-50` of the test data was compiled from."""
pytestmark = [pytest.mark.kernel, pytest.mark.data, pytest.mark.slow]


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


@pytest.fixture(scope="module")
def kernels(subject: Subject) -> Iterator[Kernels]:
    with Kernels(subject) as found:
        yield found


@pytest.mark.guest
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)], ids=["third", "all"])
def test_a_stock_kernel_does_what_check_says(
    subject: Subject, kernels: Kernels, reports: dict[str, CheckReport], step: int
) -> None:
    assert len(subject.forms) > 60
    some = replace(subject, forms=dict(list(subject.forms.items())[::step]))
    assert [v.disagreement for v in verdicts(some, kernels, reports) if v.disagreement] == []


def test_what_is_no_module_is_said_so(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(b"no module at all")
    with pytest.raises(InputError, match="no ELF file"):
        subject.checker().check(path)
