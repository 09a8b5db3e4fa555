"""Pre-flight: a module loaded into the simulated kernel, and everything that could go wrong said beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.binary import elf
from builder.binary.kernel import Kernel, read_module_bytes
from builder.binary.kernel.modules import absent_module
from builder.binary.module import ModuleFile
from builder.errors import InputError, LoadError, UncheckedError
from builder.image.execute import Fault
from builder.image.kept import Livepatch
from builder.image.simulated import SimulatedKernel
from builder.load import accept, livepatch
from builder.load.accept import Finding
from builder.load.booted import booted
from builder.load.loader import load_module, load_with_dependencies
from builder.load.module import LoadedModule, Site
from builder.load.relocate import NAMES as RELOCATIONS
from builder.preflight import problems as problems_of
from builder.preflight.lookups import Lookups, lookups
from builder.preflight.signed import SignatureCheck, check_signature


@dataclass(frozen=True, slots=True)
class CpuCheck:
    """What became of the module on one CPU model: sites by pass, relocations by section, every site written."""

    cpu: str
    counts: Mapping[str, int]
    sites: tuple[Site, ...] = field(repr=False, default=())
    places: tuple[str, ...] = field(repr=False, default=())

    def as_json(self) -> dict[str, object]:
        return {
            "cpu": self.cpu,
            "patched": dict(self.counts),
            "sites": [
                {"pass": s.step, "address": f"{s.address:#x}", "place": place, "old": s.old.hex(), "new": s.new.hex()}
                for s, place in zip(self.sites, self.places, strict=True)
                if len(s.new) <= 64
            ],
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome: `refusals` are why the kernel would not take it, `problems` what it takes and then suffers from."""

    module: str
    kernel: str
    refusals: tuple[Finding, ...]
    problems: tuple[Finding, ...]
    taints: tuple[str, ...]
    relocations: Mapping[str, int]
    bindings: tuple[Mapping[str, object], ...]
    replaced: tuple[Mapping[str, object], ...]
    cpus: tuple[CpuCheck, ...]
    loaded: LoadedModule | None = field(repr=False, default=None)
    signature: SignatureCheck | None = None
    lookups: Lookups | None = None
    """None where it is no livepatch, or one that cannot be loaded."""

    def bound(self) -> Iterator[dict[str, object]]:
        """Every relocation that was written: its section and offset, its type, the symbol and where that is."""
        if self.loaded is None:
            return
        file, values = self.loaded.file.object, self.loaded.values
        placed = {section.index for section in self.loaded.sections}
        for table in file.sections:
            # Another section may have the name of one that was applied.
            applied = table.type == elf.SHT_RELA or table.flags & elf.SHF_RELA_LIVEPATCH
            if table.name not in self.loaded.relocations or not applied or table.info not in placed:
                continue
            section = file.sections[table.info].name
            for offset, kind, number, addend in elf.LITTLE.rela.iter_unpack(table.data):
                symbol = file.symbols[number]
                name = symbol.name or (file.sections[symbol.shndx].name if symbol.shndx < len(file.sections) else "")
                yield {
                    "section": section,
                    "offset": offset,
                    "type": RELOCATIONS[kind],
                    "symbol": name,
                    "addend": addend,
                    "address": f"{values[number]:#x}",
                }

    @property
    def kernel_accepts(self) -> bool:
        """Whether insmod would succeed."""
        return not self.refusals

    @property
    def exit_status(self) -> int:
        """1 for anything that stands against loading it."""
        return 1 if self.refusals or self.problems else 0

    def as_json(self) -> dict[str, object]:
        """The one document that `bespoke check --json` prints."""
        return {
            "module": self.module,
            "kernel": self.kernel,
            "kernel_accepts": self.kernel_accepts,
            "refusals": [f.as_json() for f in self.refusals],
            "problems": [f.as_json() for f in self.problems],
            "taints": list(self.taints),
            "signature": self.signature.as_json() if self.signature else None,
            "relocations": dict(self.relocations),
            "lookups": self.lookups.as_json() if self.lookups else None,
            "bindings": [dict(row) for row in self.bindings],
            "replaced": [dict(row) for row in self.replaced],
            "bound": list(self.bound()),
            "cpus": [cpu.as_json() for cpu in self.cpus],
        }


class Checker:
    """Checks many modules against one kernel, which is derived and patched once for each CPU model.

    `objects` are the files of modules that those patch or depend on, where the kernel's own tree has none; `cmdline`
    is the kernel's command line; `certificates` (X.509 in DER) are trusted besides the kernel's own.
    """

    def __init__(
        self,
        kernel: Kernel,
        objects: Mapping[str, Path] | None = None,
        number_of_cpus: int = 1,
        cmdline: str = "",
        certificates: Sequence[bytes] = (),
    ) -> None:
        self.kernel = kernel
        self._objects = dict(objects or {})
        self._cpus = number_of_cpus
        self._cmdline = cmdline
        self._certificates = tuple(certificates)
        self._booted: dict[str, SimulatedKernel] = {}

    def simulated(self, cpu: str) -> SimulatedKernel:
        """The simulated kernel on a CPU model."""
        found = self._booted.get(cpu)
        if found is None:
            found = self._booted[cpu] = booted(self.kernel, cpu, self._cpus, cmdline=self._cmdline)
        return found

    def check(self, source: str | Path | bytes | ModuleFile, cpus: Sequence[str] = ("max",)) -> CheckReport:
        """Load a module into the simulated kernel, on each CPU model, and report.

        Raises InputError where the file is no module at all.
        """
        if isinstance(source, bytes | ModuleFile):
            label, data = "module", source if isinstance(source, bytes) else source.data
        else:
            label, data = str(source), read_module_bytes(Path(source))
        refusals = list(accept.elf_refusals(data, self.kernel.features.module_memory))
        problems: list[Finding] = []
        module: ModuleFile | None = None
        if not refusals:
            try:
                module = ModuleFile.read(data, label)
            except InputError as error:
                problems.append(Finding("malformed", str(error)))
        if module is None:
            return CheckReport(label, self.kernel.release, tuple(refusals), tuple(problems), (), {}, (), (), ())
        signature = check_signature(module, self.kernel, self._certificates)
        if signature is not None and signature.refusal is not None:
            refusals.append(signature.refusal)
        refusals += accept.section_refusals(module, self.kernel)
        refusals += accept.modinfo_refusals(module, self.kernel)
        problems += problems_of.in_file(module, self.kernel)
        results: list[CpuCheck] = []
        loaded: LoadedModule | None = None
        described: tuple[tuple[Mapping[str, object], ...], tuple[Mapping[str, object], ...]] = ((), ())
        for cpu in cpus:
            simulated = self.simulated(cpu)
            run = _Run(self, simulated, module)
            try:
                tried = run.load()
                loaded = tried.loaded
                if loaded is not None:
                    results.append(run.result(cpu, loaded))
                    described = _bindings(simulated, loaded), _replaced(tried.patch)
                refusals += [f for f in tried.refusals if f not in refusals]
                problems += [f for f in tried.problems if f not in problems]
            finally:
                run.undo()
        return CheckReport(
            module.name or label,
            self.kernel.release,
            tuple(refusals),
            tuple(problems),
            accept.taints(module, self.kernel, trusted=signature is not None and bool(signature.trusted)),
            dict(loaded.relocations) if loaded is not None else {},
            described[0],
            described[1],
            tuple(results),
            loaded,
            signature,
            lookups(module, described[1], self.kernel) if loaded is not None and module.is_livepatch else None,
        )

    def find_object(self, name: str) -> Path | None:
        """The file of a module that another needs."""
        return self._objects.get(name) or self.kernel.find_module(name)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of one run: the module and its patch, as far as they got, and what stood in the way."""

    loaded: LoadedModule | None
    patch: Livepatch | None
    refusals: Sequence[Finding]
    problems: Sequence[Finding]


def _unchecked(error: UncheckedError) -> Finding:
    return Finding("memory", f"the kernel would not notice: {error}")


class _Run:
    """One module on one simulated kernel, which is as before when `undo` is done."""

    def __init__(self, checker: Checker, simulated: SimulatedKernel, module: ModuleFile) -> None:
        self._checker = checker
        self._simulated = simulated
        self._module = module
        self._before = set(simulated.modules)

    def load(self) -> _Tried:
        """Load it with what it needs, and enable it if it is a livepatch."""
        simulated, module = self._simulated, self._module
        problems = self._load_objects((*module.depends, *module.bound_objects), "needs")
        refusals = list(accept.symbol_refusals(module, simulated))
        if any(finding.code == "unknown-symbol" for finding in refusals):
            return _Tried(None, None, refusals, [*problems, *self._absent(module.depends)])
        try:
            loaded = load_module(simulated, module, record=True, unknown=True)
        except UncheckedError as error:
            return _Tried(None, None, refusals, [*problems, _unchecked(error)])
        except LoadError as error:
            return _Tried(None, None, [*refusals, Finding("load", str(error), error.errno)], problems)
        problems += problems_of.when_loaded(simulated, loaded)
        patch = None
        if module.is_livepatch or any(s.name == "klp_enable_patch" for s in module.object.symbols if s.is_undefined):
            try:
                patch = livepatch.run_init(simulated, loaded)
            except UncheckedError as error:
                problems.append(_unchecked(error))
            except Fault as error:
                problems.append(Finding("init", f"its init function crashes: {error}"))
            except LoadError as error:
                refusals.append(Finding("enable", str(error), accept.EINVAL))
            if patch is not None:
                # Objects that only its klp_patch names: loaded now, as they may be on a running kernel.
                named = [found.name for found in patch.objects if found.name is not None]
                problems += self._load_objects(named, "patches")
                problems += problems_of.missing_objects(simulated, patch)
        return _Tried(loaded, patch, refusals, problems)

    def _load_objects(self, names: Iterable[str], why: str) -> list[Finding]:
        """Load modules that are to be had and not there yet; a finding for each that cannot be."""
        found = []
        for name in names:
            path = self._checker.find_object(name)
            if path is not None and name not in self._simulated.modules:
                try:
                    load_with_dependencies(self._simulated, path, self._checker._objects)
                except LoadError as error:
                    found.append(Finding("object", f"module {name}, which it {why}, cannot be loaded: {error}"))
        return found

    def _absent(self, names: Iterable[str]) -> list[Finding]:
        """A finding for each module that is not there and whose file is not to be had."""
        kernel = self._checker.kernel
        return [
            Finding("object", absent_module(name, kernel.release, kernel.modules_root))
            for name in names
            if name not in self._simulated.modules and self._checker.find_object(name) is None
        ]

    def result(self, cpu: str, loaded: LoadedModule) -> CpuCheck:
        places = tuple(self._simulated.symbols.describe(site.address) for site in loaded.sites)
        return CpuCheck(cpu, dict(loaded.counts), tuple(loaded.sites), places)

    def undo(self) -> None:
        livepatch.unload_all(self._simulated, keep=self._before)


def _bindings(simulated: SimulatedKernel, loaded: LoadedModule) -> tuple[Mapping[str, object], ...]:
    """What each symbol of a livepatch was bound to."""
    return tuple(
        {"symbol": symbol.name, "address": f"{value:#x}", "place": simulated.symbols.describe(value)}
        for symbol, value in zip(loaded.file.object.symbols, loaded.values, strict=True)
        if symbol.shndx == elf.LIVEPATCH
    )


def _replaced(patch: Livepatch | None) -> tuple[Mapping[str, object], ...]:
    """The functions that a livepatch replaces."""
    return tuple(
        {
            "object": found.name or "vmlinux",
            "function": function.name,
            "sympos": function.sympos,
            "old": f"{function.old:#x}",
            "new": f"{function.new:#x}",
        }
        for found in (patch.objects if patch is not None else ())
        for function in found.functions
    )
