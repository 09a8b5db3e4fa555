"""One look at an image: everything that is decoded from it, written into the cache."""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.acquire.bounds import read_input
from builder.binary import Address
from builder.binary.kernel import kallsyms
from builder.binary.kernel.btf import Btf, Index
from builder.binary.kernel.decompress import extract_vmlinux
from builder.binary.kernel.exports import Export, read_exports
from builder.binary.kernel.facts import cache_file, facts_name, write_facts
from builder.binary.kernel.static import StaticImage
from builder.errors import KernelError


@dataclass(frozen=True, slots=True)
class Features:
    """What this kernel has, each told by a symbol, a table or a structure that comes with it."""

    livepatch: bool
    """CONFIG_LIVEPATCH"""
    modversions: bool
    """CONFIG_MODVERSIONS: exports have CRCs, modules need `__versions`"""
    btf: bool
    retpoline: bool
    """indirect branches go through thunks; modules say `retpoline=Y`"""
    return_thunk: bool
    """returns go through `__x86_return_thunk`"""
    ibt: bool
    """CONFIG_X86_KERNEL_IBT: ENDBR at entries, and the kernel seals those that nothing needs"""
    call_thunks: bool
    """CONFIG_CALL_THUNKS: tables of call sites"""
    orc: bool
    clear_relocate_add: bool
    """a patched module can be reloaded while its livepatch stays (6.3)"""
    paravirt_table: bool
    """`.parainstructions` (to 6.7; later they are alternatives)"""
    module_memory: bool
    """`struct module` has `mem[]` instead of core_layout and init_layout (6.4)"""
    flags_table: bool
    """one `__ksymtab` with `__kflagstab` (7.x)"""
    smp_locks: bool
    """`.smp_locks`: lock prefixes that one CPU does without (to 7.2)"""
    static_call: bool
    marks_ro_after_init: bool
    """`.static_call_sites` is read-only after init too, and each section of such a name (module_mark_ro_after_init)"""
    alternative_calls: bool
    """call thunks come after alternatives and look at their sites (`alt_start` of struct callthunk_sites)"""
    relocs_at_load: bool
    """livepatch relocations for vmlinux are written with the module's others, in the order of the sections (5.8)"""
    finds_by_name: bool
    """livepatch looks a symbol of vmlinux up in a sorted table; before it, it walks all symbols for each (6.2)"""
    site_by_site: bool
    """all alternatives of one site are decided together (struct patch_site)"""

    def has(self, name: str) -> bool:
        """One of them by its name, as a row of an architecture says it."""
        return bool(getattr(self, name))


_PROBES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "livepatch": ("klp_enable_patch",),
        "retpoline": ("__x86_indirect_thunk_rax", "__x86_indirect_thunk_array"),
        "return_thunk": ("__x86_return_thunk",),
        "ibt": ("__ibt_endbr_seal",),
        "call_thunks": ("__call_sites",),
        "orc": ("__start_orc_unwind",),
        "clear_relocate_add": ("clear_relocate_add",),
        "paravirt_table": ("__parainstructions",),
        "flags_table": ("__start___kflagstab",),
        "smp_locks": ("__smp_locks",),
        "static_call": ("__static_call_update",),
        "marks_ro_after_init": ("module_mark_ro_after_init",),
        "relocs_at_load": ("klp_apply_section_relocs",),
        "finds_by_name": ("klp_match_callback",),
    }
)
"""Feature: the symbols of which any one proves it."""
FACTS: Final = facts_name([(field.name, _PROBES.get(field.name, ())) for field in fields(Features)])


def survey(path: Path, folder: Path) -> None:
    """Decode the image at `path` and write its facts into `folder`, and its vmlinux unless it is one.

    Raises KernelError where the image cannot be a target, and says why.
    """
    packed = read_input(path)
    content = extract_vmlinux(packed, where=path)
    image = StaticImage(content, where=path)
    try:
        table = kallsyms.decode(image)
        first: dict[str, Address] = {}
        for name, address in zip(table.names, map(Address, table.addresses), strict=True):
            first.setdefault(name, address)
        banner = _banner(image, first)
        exports = read_exports(image, first.get)
        meta = _meta(image, table, first, exports)
        meta |= {"banner": banner, "release": banner.split()[2], "packed": int(content is not packed)}
    except (struct.error, IndexError, ValueError) as error:
        raise KernelError(f"damaged: its tables lead nowhere ({error})", where=path) from error
    if content is not packed:
        with cache_file(folder / "vmlinux") as temporary:
            temporary.write_bytes(content)
        meta["vmlinux_crc"] = zlib.crc32(content)
    write_facts(
        folder / FACTS,
        meta=meta,
        symbols=zip(range(len(table.names)), table.names, table.types, strict=True),
        exports=(
            (i, row.name, f"{row.address:x}", row.crc, int(row.gpl), row.namespace) for i, row in enumerate(exports)
        ),
    )


def _banner(image: StaticImage, first: Mapping[str, Address]) -> str:
    """`linux_banner` in one line; without that and `vermagic` an image is no target."""
    missing = [name for name in ("linux_banner", "vermagic") if name not in first]
    if missing:
        raise KernelError(
            f"its kallsyms have no {' and no '.join(missing)}: built without CONFIG_KALLSYMS_ALL or CONFIG_MODULES",
            where=image.where,
        )
    banner = image.string(first["linux_banner"]).rstrip("\n")
    if not banner.startswith("Linux version "):
        raise KernelError(f"its banner is {banner[:40]!r}", where=image.where)
    return banner


def _meta(
    image: StaticImage, table: kallsyms.Kallsyms, first: Mapping[str, Address], exports: list[Export]
) -> dict[str, object]:
    """All facts that are not rows: texts, features, the arrays behind the look-ups."""
    start, size = _btf_span(image, first)
    btf = Btf(image.read(start, size), where=image.where) if size else None
    index = btf.index if btf else Index(array("I"), array("I"))
    return {
        "vermagic": image.string(first["vermagic"]),
        "features": json.dumps(asdict(_features(first, exports, btf))),
        "kallsyms_layout": table.layout,
        "llvm_suffixes": int(any(".llvm." in name for name in table.names)),
        "addresses": table.addresses.tobytes(),
        "btf_address": f"{start:x}",
        "btf_size": size,
        "btf_names": index.names.tobytes(),
        "btf_offsets": index.offsets.tobytes(),
    }


def _btf_span(image: StaticImage, first: Mapping[str, Address]) -> tuple[Address, int]:
    """Address and size of the BTF, by its bounding symbols, else by its section; size 0 for none."""
    start, stop = first.get("__start_BTF"), first.get("__stop_BTF")
    section = image.sections.get(".BTF")
    if start is not None and stop is not None and stop > start:
        return start, stop - start
    return (section.address, section.size) if section else (Address(0), 0)


def _features(first: Mapping[str, Address], exports: list[Export], btf: Btf | None) -> Features:
    known = {name: any(symbol in first for symbol in _PROBES.get(name, ())) for name in _names(Features)}
    known["modversions"] = any(row.crc is not None for row in exports)
    known["btf"] = btf is not None
    known["module_memory"] = btf is not None and btf.layout("module").has("mem")
    known["alternative_calls"] = _has(btf, "callthunk_sites", "alt_start")
    known["site_by_site"] = _has(btf, "patch_site", "alt")
    return Features(**known)


def _has(btf: Btf | None, struct: str, member: str) -> bool:
    """Whether the kernel has this structure with this member."""
    try:
        return btf is not None and btf.layout(struct).has(member)
    except KernelError:
        return False


def _names(cls: type[Features]) -> list[str]:
    return [field.name for field in fields(cls)]
