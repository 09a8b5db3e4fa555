"""Livepatch modules: their relocations, and where old functions lead (kernel/livepatch/{core,patch}.c, v6.1, v6.12).

A redirected function's `__fentry__` location holds a call of a trampoline that
drops the return address and jumps to the newest version: what
klp_ftrace_handler makes of the registers, as code. There is no transition:
nothing else runs in a simulated kernel.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from builder.binary import Address, Section, SectionIndex, elf, klp
from builder.errors import InputError, LoadError
from builder.image.execute import Argument, Machine, Result
from builder.image.kept import Livepatch, PatchedFunction, PatchedObject, Redirection
from builder.image.memory import PAGE, Region
from builder.image.simulated import SimulatedKernel
from builder.load.module import LoadedModule, Placed, loaded_module
from builder.load.passes.context import CALL, NOP5, branch, trampoline_code
from builder.load.relocate import RelocationTarget, apply_relocations, clear_relocations

INIT_BUDGET = 100_000
MOST_FUNCTIONS = 1 << 16


# Relocations


def apply_section(kernel: SimulatedKernel, loaded: LoadedModule, table: Section, target: Placed, objname: str) -> None:
    """klp_apply_section_relocs(): writes the table if it is for `objname`. LoadError as the kernel refuses."""
    where = f"{loaded.file.where}: {table.name}"
    try:
        if klp.section_object(table.name) != objname:
            return
    except InputError as error:
        raise LoadError(error.message, where=loaded.file.where) from None
    symbols = loaded.file.object.symbols
    for _, _, number, _ in elf.LITTLE.rela.iter_unpack(table.data[: len(table.data) // 24 * 24]):
        if number >= len(symbols):
            raise LoadError(f"names symbol {number} of {len(symbols)}", where=where)
        symbol = symbols[number]
        if symbol.shndx != elf.LIVEPATCH:
            raise LoadError(f"symbol {symbol.name} is not marked as a livepatch symbol", where=where)
        try:
            found = klp.parse_symbol(symbol.name)
        except InputError as error:
            raise LoadError(error.message, where=where) from None
        owner = None if found.object == klp.VMLINUX else found.object
        if owner is None and objname != "vmlinux":
            raise LoadError(
                f"invalid access to vmlinux symbol '{found.name}' from module-specific livepatch relocation section",
                where=where,
            )
        loaded.values[number] = kernel.symbols.position(owner, found.name, found.sympos)
    count = apply_relocations(RelocationTarget.of(kernel.memory, target), table.data, loaded.values, where)
    kernel.memory.generation += 1
    loaded.relocations[table.name] = count


def _object_tables(loaded: LoadedModule, objname: str) -> Iterator[tuple[Section, Placed]]:
    by_index = {section.index: section for section in loaded.sections}
    for section in loaded.file.object.sections:
        target = by_index.get(SectionIndex(section.info)) if section.flags & elf.SHF_RELA_LIVEPATCH else None
        if target is not None and klp.object_named(section.name) == objname:
            yield section, target


# The patch structures, as the module's init hands them over


def read_patch(kernel: SimulatedKernel, address: Address, module: str) -> Livepatch:
    """The klp_patch at `address` with its objects and functions (include/linux/livepatch.h)."""
    memory, layout = kernel.memory, kernel.kernel.layout
    patch, obj, func = layout("klp_patch"), layout("klp_object"), layout("klp_func")
    objects: list[PatchedObject] = []
    at = memory.pointer(address + patch.offset_of("objs"))
    if not at or not memory.u64(address + patch.offset_of("mod")):
        raise LoadError("klp_enable_patch: a patch without module or objects (err -22)", where=module)
    while len(objects) < MOST_FUNCTIONS:
        name, functions = memory.pointer(at + obj.offset_of("name")), memory.pointer(at + obj.offset_of("funcs"))
        if not name and not functions:
            break
        if not functions:
            raise LoadError("klp_enable_patch: an object without functions (err -22)", where=module)
        found = PatchedObject(memory.string(name) if name else None, [])
        while len(found.functions) < MOST_FUNCTIONS:
            old, new = (memory.pointer(functions + func.offset_of(part)) for part in ("old_name", "new_func"))
            sympos = memory.u64(functions + func.offset_of("old_sympos"))
            if not old and not new and not sympos:
                break
            if not old or not new:
                raise LoadError("klp_enable_patch: a function without name or replacement (err -22)", where=module)
            found.functions.append(PatchedFunction(memory.string(old), sympos, new))
            functions += func.size
        objects.append(found)
        at += obj.size
    return Livepatch(module, objects, bool(memory.u8(address + patch.offset_of("replace"))))


def run_init(kernel: SimulatedKernel, loaded: LoadedModule, between: Callable[[], None] = lambda: None) -> Livepatch:
    """Execute a livepatch module's init up to its klp_enable_patch(), and enable what it hands over.

    `between` is called when all is bound and nothing is redirected yet.
    Raises LoadError where the kernel would refuse the patch.
    """
    given: list[Address] = []

    def enable(machine: Machine) -> int:
        given.append(machine.pointer(0))
        machine.stop()
        return 0

    init = loaded.init_address(kernel)
    if not init:
        raise LoadError("has no init function that could enable it", where=loaded.file.where)
    with kernel.execution.answering("klp_enable_patch", enable):
        kernel.call(init, budget=INIT_BUDGET)
    if not given:
        raise LoadError("its init does not call klp_enable_patch", where=loaded.file.where)
    if not loaded.file.is_livepatch:
        raise LoadError(f"module {loaded.name} is not marked as a livepatch module", where=loaded.file.where)
    return enable_patch(kernel, read_patch(kernel, given[0], loaded.name), between)


def enable_patch(kernel: SimulatedKernel, patch: Livepatch, between: Callable[[], None] = lambda: None) -> Livepatch:
    """klp_enable_patch(): resolve, relocate, redirect. Nothing is redirected where it fails.

    `between` stands for what happens while a pre_patch callback runs.
    """
    if patch.replace:
        _add_nops(kernel, patch)
    try:
        for found in patch.objects:
            if found.name is None or found.name in kernel.modules:
                _init_object(kernel, patch, found)
        between()
        for found in patch.objects:
            if found.name is None or found.name in kernel.modules:
                _patch_object(kernel, found)
    except LoadError:
        for found in patch.objects:
            _unpatch_object(kernel, found)
        raise
    patch.enabled = True
    if patch.replace:
        for older in kernel.livepatches:
            _disable(kernel, older)
        for found in patch.objects:
            for function in [f for f in found.functions if f.nop]:
                _unredirect(kernel, function)
                found.functions.remove(function)
        patch.objects = [found for found in patch.objects if found.functions]
    kernel.livepatches.append(patch)
    return patch


def _add_nops(kernel: SimulatedKernel, patch: Livepatch) -> None:
    """klp_add_nops(): what older patches replaced and this one does not leads back to the original."""
    for older in kernel.livepatches:
        for theirs in older.objects if older.enabled else ():
            mine = next((o for o in patch.objects if o.name == theirs.name), None)
            if mine is None:
                mine = PatchedObject(theirs.name, [])
                patch.objects.append(mine)
            known = {(f.name, f.sympos) for f in mine.functions}
            mine.functions += [
                PatchedFunction(f.name, f.sympos, Address(0), nop=True)
                for f in theirs.functions
                if (f.name, f.sympos) not in known and not f.nop
            ]


def _init_object(kernel: SimulatedKernel, patch: Livepatch, found: PatchedObject) -> None:
    """klp_init_object_loaded()."""
    if found.name is not None:
        module = loaded_module(kernel, patch.module)
        for table, target in _object_tables(module, found.name):
            apply_section(kernel, module, table, target, found.name)
    for function in found.functions:
        function.old = kernel.symbols.position(found.name, function.name, function.sympos)
        if function.nop:
            function.new = function.old
        if kernel.memory.find(function.new) is None:
            raise LoadError(f"kallsyms size lookup failed for '{function.name}' replacement")


def disable_patch(kernel: SimulatedKernel, name: str) -> None:
    """Write 0 to `enabled` of a livepatch: its functions are taken off. LoadError where there is none enabled."""
    patch = next((p for p in kernel.livepatches if p.module == name and p.enabled), None)
    if patch is None:
        raise LoadError(f"no livepatch {name} is enabled")
    _disable(kernel, patch)
    kernel.livepatches.remove(patch)


def _disable(kernel: SimulatedKernel, patch: Livepatch) -> None:
    for found in patch.objects:
        _unpatch_object(kernel, found)
    patch.enabled = False


# Redirection


def ftrace_location(kernel: SimulatedKernel, address: Address) -> Address | None:
    """ftrace_location(): the traced instruction of the function that begins at `address`, None where there is none."""
    size = kernel.symbols.function_size(address)
    region = kernel.memory.find(address)
    places = kernel.ftrace_of(region.name.partition(":")[0] if region is not None else "")
    at = bisect_left(places, address)
    return places[at] if at < len(places) and places[at] < address + max(size, 1) else None


def _patch_object(kernel: SimulatedKernel, found: PatchedObject) -> None:
    for function in found.functions:
        _redirect(kernel, function)
    found.patched = True


def _unpatch_object(kernel: SimulatedKernel, found: PatchedObject) -> None:
    for function in found.functions:
        _unredirect(kernel, function)
    found.patched = False


def _redirect(kernel: SimulatedKernel, function: PatchedFunction) -> None:
    """klp_patch_func(): on top of the versions of this function."""
    redirection = kernel.redirections.get(function.old)
    broken = next((module.name for module in kernel.modules.values() if module.breaks_ftrace), None)
    if broken is not None:
        raise LoadError(f"failed to set ftrace filter for function '{function.name}' (-19): {broken} has broken ftrace")
    if redirection is None:
        place = ftrace_location(kernel, function.old)
        if place is None:
            raise LoadError(f"failed to find location for function '{function.name}'")
        trampoline = Region(kernel.area.allocate(PAGE), bytearray(PAGE), f"ftrace[{function.name}]", "rx")
        kernel.memory.add(trampoline)
        redirection = Redirection(function.old, place, kernel.memory.read(place, 5), trampoline)
        if redirection.before != NOP5:
            _drop_trampoline(kernel, redirection)
            raise LoadError(f"failed to register ftrace handler for function '{function.name}' (-16)")
        kernel.redirections[function.old] = redirection
        kernel.memory.write(place, branch(CALL, place, trampoline.base))
    redirection.stack.append(function)
    _lead(kernel, redirection)


def _lead(kernel: SimulatedKernel, redirection: Redirection) -> None:
    """Make the trampoline lead to the newest version."""
    newest, base = redirection.stack[-1], redirection.trampoline.base
    kernel.memory.write(base, trampoline_code(base, None if newest.nop else newest.new))


def _unredirect(kernel: SimulatedKernel, function: PatchedFunction) -> None:
    """klp_unpatch_func(): off the stack; with the last one the old bytes are back."""
    redirection = kernel.redirections.get(function.old)
    if redirection is None or not any(other is function for other in redirection.stack):
        return
    redirection.stack[:] = [other for other in redirection.stack if other is not function]
    if redirection.stack:
        _lead(kernel, redirection)
        return
    kernel.memory.write(redirection.place, redirection.before)
    del kernel.redirections[function.old]
    _drop_trampoline(kernel, redirection)


def _drop_trampoline(kernel: SimulatedKernel, redirection: Redirection) -> None:
    kernel.memory.remove(redirection.trampoline)
    kernel.area.release(redirection.trampoline.base, PAGE)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """What the old and the new version of a function made of the same memory and arguments."""

    old: Result
    new: Result
    old_bytes: bytes = b""
    new_bytes: bytes = b""


def side_by_side(
    kernel: SimulatedKernel,
    function: PatchedFunction,
    *arguments: Argument,
    watch: tuple[Address, int] | None = None,
    budget: int = 1_000_000,
) -> SideBySide:
    """Run both versions of a redirected function, each from the memory as it is now, which is then as before.

    `watch` is an address and a size: what stands there after each run. Raises
    Fault where one cannot go on, and LoadError where the function is not redirected.
    """
    redirection = kernel.redirections.get(function.old)
    if redirection is None:
        raise LoadError(f"function '{function.name}' is not redirected")
    values = [kernel.execution.argument(value) for value in arguments]
    saved = [(region, bytes(region.data)) for region in kernel.memory if "w" in region.protection]
    found: list[tuple[Result, bytes]] = []
    for version in (function.old, function.new):
        kernel.memory.write(redirection.place, redirection.before)
        try:
            result = kernel.call(version, *values, budget=budget)
            found.append((result, kernel.memory.read(*watch) if watch else b""))
        finally:
            kernel.memory.write(redirection.place, branch(CALL, redirection.place, redirection.trampoline.base))
            for region, data in saved:
                region.data[:] = data
    (old, old_bytes), (new, new_bytes) = found
    return SideBySide(old, new, old_bytes, new_bytes)


# Modules that come and go


def module_coming(kernel: SimulatedKernel, loaded: LoadedModule) -> None:
    """klp_module_coming(): enabled livepatches are applied to a module that is loaded later."""
    done: list[PatchedObject] = []
    for patch in kernel.livepatches:
        for found in patch.objects if patch.enabled else ():
            if found.name != loaded.name:
                continue
            try:
                _init_object(kernel, patch, found)
                _patch_object(kernel, found)
            except LoadError as error:
                for other in (*done, found):
                    _unpatch_object(kernel, other)
                raise LoadError(
                    f"patch '{patch.module}' failed for module '{loaded.name}', refusing to load module: {error}",
                    where=loaded.file.where,
                ) from None
            done.append(found)


def module_going(kernel: SimulatedKernel, name: str) -> None:
    """klp_module_going(): its functions are taken off; from 6.3 on the relocations that name it are cleared."""
    for patch in kernel.livepatches:
        for found in patch.objects:
            if found.name != name:
                continue
            _unpatch_object(kernel, found)
            if kernel.kernel.features.clear_relocate_add:
                module = loaded_module(kernel, patch.module)
                for table, target in _object_tables(module, name):
                    clear_relocations(RelocationTarget.of(kernel.memory, target), table.data)
                kernel.memory.generation += 1


def unload_all(kernel: SimulatedKernel, keep: Collection[str] = ()) -> None:
    """Disable every livepatch and take out every module but those in `keep`, the last one loaded first."""
    for patch in reversed([p for p in kernel.livepatches if p.module not in keep]):
        _disable(kernel, patch)
        kernel.livepatches.remove(patch)
    for name in [name for name in kernel.modules if name not in keep][::-1]:
        module_going(kernel, name)
        kernel.forget(kernel.modules[name])
