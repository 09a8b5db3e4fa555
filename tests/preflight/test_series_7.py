"""What kernels of series 7 accept otherwise (builder/load/accept.py)."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from builder.binary.kernel.exports import Export
from builder.binary.module import ModuleFile
from builder.image.simulated import SimulatedKernel
from builder.load.accept import ENOEXEC, EPERM, section_refusals, symbol_refusals
from builder.preflight.check import Checker
from builder.preflight.fidelity import choose
from tests.support.kernels import booted, opened

pytestmark = pytest.mark.kernel


def module(release: str, name: str) -> ModuleFile:
    path = opened(release).find_module(name)
    assert path is not None
    return ModuleFile.read(Path(path))


def test_exports_have_flags(release_612: str, release_7: str) -> None:
    """export-flags: of a module of 6.12 that exports, of no other and none of the kernel's own."""
    kernel = opened(release_7)
    found = [(f.code, f.errno) for f in section_refusals(module(release_612, "cdrom"), kernel)]
    assert ("export-flags", ENOEXEC) in found
    assert "export-flags" not in [f.code for f in section_refusals(module(release_612, "loop"), kernel)]
    assert list(section_refusals(module(release_7, "cdrom"), kernel)) == []
    assert list(section_refusals(module(release_612, "cdrom"), opened(release_612))) == []


@pytest.mark.parametrize("series", ["release_612", "release_7"])
def test_modules_of_the_kernel_s_own_are_accepted(request: pytest.FixtureRequest, series: str) -> None:
    """Without a finding: also where a table has a pass before alternatives in one series and behind them in another."""
    kernel = opened(request.getfixturevalue(series))
    checker = Checker(kernel)
    reports = [checker.check(path) for path in choose(kernel, 6)]
    assert [f.message for report in reports for f in (*report.refusals, *report.problems)] == []


def namespaced(simulated: SimulatedKernel, namespace: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A symbol that the module `loop` uses, and that is now of a namespace."""
    name = "__module_get"
    export = simulated.symbols.export(name)
    assert export is not None
    mine = Export(name, export.address, export.crc, True, namespace)
    original = simulated.symbols.export
    monkeypatch.setattr(simulated.symbols, "export", lambda asked: mine if asked == name else original(asked))
    return name


@pytest.mark.parametrize(
    ("namespace", "ours"),
    [
        ("module:loop", True),
        ("module:other,lo*", True),
        ("module:loo", False),
        ("module:LOOP", False),
        ("OTHER", False),
    ],
)
def test_a_namespace_of_modules(release_7: str, monkeypatch: pytest.MonkeyPatch, namespace: str, ours: bool) -> None:
    simulated = booted(release_7, "max")
    name = namespaced(simulated, namespace, monkeypatch)
    found = [f for f in symbol_refusals(module(release_7, "loop"), simulated) if f.code == "namespace"]
    assert [name in f.message for f in found] == ([] if ours else [True])


def test_a_namespace_of_modules_is_not_imported(release_612: str, release_7: str) -> None:
    for release, errnos in ((release_612, []), (release_7, [EPERM])):
        loop = module(release, "loop")
        said = MappingProxyType({**loop.modinfo, "import_ns": ("module:loop",)})
        found = symbol_refusals(_With(loop, said), booted(release, "max"))  # type: ignore[arg-type]
        assert [f.errno for f in found if f.code == "namespace"] == errnos


class _With:
    """A module that says something else of itself."""

    def __init__(self, module: ModuleFile, modinfo: object) -> None:
        self._module, self.modinfo = module, modinfo

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)
