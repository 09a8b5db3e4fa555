"""Tables that objtool would have made: for objects that have not been through it.

Kernels with IBT run objtool when a module is linked (CONFIG_NOINSTR_VALIDATION
and CONFIG_X86_KERNEL_IBT delay it), so single objects lack these. They follow from
the relocations. Facts: tools/objtool/check.c, Linux 6.12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from builder.arch import Architecture
from builder.binary import elf
from builder.binary.kernel import Features, Kernel
from builder.compose.bound import Binding, Bound
from builder.compose.late import is_late
from builder.emit.fragments import Fragment, Reference
from builder.errors import InputError

# include/linux/static_call_types.h: STATIC_CALL_SITE_TAIL
_TAIL = 1
_STATIC_CALLS = ".static_call_sites"
# no instruction has more bytes
_LONGEST = 16


def derive(kernel: Kernel, bound: Bound, arch: Architecture, fragments: Sequence[Fragment]) -> list[Fragment]:
    """The `fragments` of a pair with what objtool would have added or rewritten; those it has seen stay as they are."""
    features = kernel.features
    done = {f.section for f in fragments if f.entry_of}
    out: list[Fragment] = []
    sites: list[Fragment] = []
    keys = _key_bindings(kernel, bound)
    for fragment in fragments:
        if fragment.flags & elf.SHF_EXECINSTR and fragment.references:
            sites.extend(_sites(fragment, arch, features, done, keys))
        out.append(fragment)
    return _jump_labels(arch, out) + sites


def _key_bindings(kernel: Kernel, bound: Bound) -> dict[str, Binding]:
    """Static-call key -> binding: what livepatch or the export table knows of `__SCK__NAME`."""
    out: dict[str, Binding] = {}
    for binding in (*bound.names.values(), *bound.atoms.values()):
        if not binding.name.startswith("__SCT__"):
            continue
        key = "__SCK__" + binding.name.removeprefix("__SCT__")
        exported = kernel.export(key)
        if exported is not None:
            out[binding.name] = Binding("export", key, crc=exported.crc, namespace=exported.namespace)
        elif binding.exporter == "vmlinux" and len(kernel.symbols_named(key)) == 1:
            out[binding.name] = Binding("klp", key)
    return out


def _sites(
    fragment: Fragment, arch: Architecture, features: Features, done: set[str], keys: dict[str, Binding]
) -> Iterator[Fragment]:
    insns = {i.offset + k: i for i in arch.decode(fragment.data, 0) for k in range(i.length)}
    for reference in fragment.references:
        insn = insns.get(reference.offset)
        if insn is None or not isinstance(reference.to, Binding) or not (insn.is_call or insn.is_jump):
            continue
        name = reference.to.name
        known_call = insn.is_call and not is_late(reference.to)
        for table in arch.sites:
            if table.name in done or not features.has(table.feature) or (table.of_known_calls and not known_call):
                continue
            if re.fullmatch(table.target, name):
                yield _site(fragment, arch, table.name, insn.offset)
        if name in keys and _STATIC_CALLS not in done:
            yield _site(fragment, arch, _STATIC_CALLS, insn.offset, (keys[name], 0 if insn.is_call else _TAIL))


def _site(
    fragment: Fragment, arch: Architecture, table: str, at: int, key: tuple[Binding, int] | None = None
) -> Fragment:
    """One entry: a 32-bit relative site, for static calls followed by the key."""
    rows = [Reference(0, arch.pc32, fragment.key, at - fragment.entry)]
    if key is not None:
        rows.append(Reference(4, arch.pc32, key[0], key[1]))
    write = elf.SHF_WRITE if key is not None else 0
    return Fragment(
        key=(fragment.key, table, at),
        section=table,
        flags=elf.SHF_ALLOC | write,
        nobits=False,
        align=4,
        entsize=4 * len(rows),
        data=bytes(4 * len(rows)),
        size=4 * len(rows),
        references=tuple(rows),
        owner=fragment.owner,
        entry_of=table,
    )


def _jump_labels(arch: Architecture, fragments: list[Fragment]) -> list[Fragment]:
    """Jump labels that still are jumps become NOPs where their key says so.

    arch_static_branch() emits a jump and adds 2 to the key's address; objtool
    --hacks=jump_label turns it into a NOP (arch/x86/include/asm/jump_label.h,
    CONFIG_HAVE_JUMP_LABEL_HACK).
    """
    by_key = {f.key: n for n, f in enumerate(fragments)}
    out = list(fragments)
    for fragment in fragments:
        if fragment.entry_of != "__jump_table" or len(fragment.references) < 3:
            continue
        site, _, key = fragment.references[:3]
        number = by_key.get(site.to)
        if number is None or not key.addend & 2:
            continue
        code = out[number]
        at = site.addend + code.entry
        if not 0 <= at < len(code.data):
            raise InputError(f"a jump label at {at:#x} lies outside its {len(code.data)} bytes", where=code.owner)
        insn = next(iter(arch.decode(code.data[at : at + _LONGEST], at)), None)
        if insn is None or not insn.is_jump:
            continue
        nop = arch.nops.get(insn.length)
        if nop is None:
            raise InputError(f"the jump label at {at:#x} is no jump that a NOP is as long as", where=code.owner)
        data = code.data[:at] + nop + code.data[at + insn.length :]
        kept = tuple(r for r in code.references if not at <= r.offset < at + insn.length)
        out[number] = code._replace(data=data, references=kept)
    return out
