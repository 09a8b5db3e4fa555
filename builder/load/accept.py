"""What the kernel looks at before it lays a module out (kernel/module/main.c and version.c, v6.1 to v7.3).

Each function yields a Finding for every reason; the kernel itself stops at the
first. What a kernel accepts and then goes wrong with is a problem, not a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from builder import codes
from builder.arch import TARGET
from builder.binary import elf
from builder.binary.kernel import Kernel
from builder.binary.module import ModuleFile, plain
from builder.image.simulated import SimulatedKernel
from builder.load.module import THIS_MODULE

EPERM, ENOENT, ENOEXEC, EINVAL = 1, 2, 8, 22
GPL = ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
"""license_is_gpl_compatible (include/linux/license.h)"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason: a stable `code`, what the kernel says or what would happen, the errno of a refusal (0 else).

    ValueError for a code without a row in builder/codes.py.
    """

    code: str
    message: str
    errno: int = 0

    def __post_init__(self) -> None:
        codes.known(self.code)

    def as_json(self) -> dict[str, object]:
        return {"code": self.code, "message": self.message, "errno": self.errno}


def elf_refusals(data: bytes, strict: bool) -> Iterator[Finding]:
    """elf_validity_check (v6.1); `strict` adds what elf_validity_cache_copy (v6.12) asks for."""

    def refuse(message: str) -> Finding:
        return Finding("elf", message, ENOEXEC)

    if len(data) < elf.HEADER_SIZE or data[:4] != b"\x7fELF":
        yield refuse("Invalid ELF header")
        return
    header = elf.LITTLE.header.unpack_from(data, elf.IDENT)
    kind, machine, shoff, shentsize, shnum, shstrndx = header[0], header[1], header[5], *header[10:13]
    if kind != elf.ET_REL or machine != TARGET.machine or data[4] != 2 or data[5] != 1:
        yield refuse(f"Invalid ELF header: type {kind}, machine {machine}")
        return
    row = elf.LITTLE.section
    if shentsize != row.size or shoff >= len(data) or shnum * row.size > len(data) - shoff:
        yield refuse("Invalid ELF section header overflow")
        return
    rows = [row.unpack_from(data, shoff + i * row.size) for i in range(shnum)]
    if not 0 < shstrndx < shnum:
        yield refuse(f"Invalid ELF section name index: {shstrndx} (e_shnum {shnum})")
        return
    if rows[0][1] != elf.SHT_NULL or rows[0][5] or rows[0][3]:
        yield refuse("ELF Spec violation: section 0")
    for i, (name, section, flags, _, offset, size, link, *_) in enumerate(rows):
        if i == 0 or section in (elf.SHT_NULL, elf.SHT_NOBITS):
            continue
        if offset + size > len(data):
            yield refuse(f"Invalid ELF section in module (section {i} type {section})")
        if section == elf.SHT_SYMTAB and not 0 < link < shnum:
            yield refuse(f"Invalid ELF sh_link {link} (e_shnum {shnum})")
        if (flags & elf.SHF_ALLOC or strict) and name >= rows[shstrndx][5]:
            yield refuse(f"Invalid ELF section name in module (section {i} type {section})")
    _, kind, _, _, offset, size = rows[shstrndx][:6]
    if not size or data[offset + size - 1 : offset + size] != b"\0":
        yield refuse("ELF Spec violation: section name table isn't null terminated")
    if strict and kind != elf.SHT_STRTAB:
        yield refuse(f"Invalid ELF section name table type: {kind}")
    symtabs = [r for r in rows if r[1] == elf.SHT_SYMTAB]
    if not symtabs or (strict and len(symtabs) != 1):
        yield refuse("module has no symbols (stripped?)")
    elif strict and 0 < symtabs[0][6] < shnum and rows[symtabs[0][6]][1] != elf.SHT_STRTAB:
        yield refuse("Invalid ELF symbol string table type")


def section_refusals(module: ModuleFile, kernel: Kernel) -> Iterator[Finding]:
    """The sections a module must have, and those it must not."""
    strict = kernel.features.module_memory
    this = [s for s in module.object.sections if s.name == THIS_MODULE]
    size = kernel.layout("module").size
    if strict:
        if len(this) != 1:
            yield Finding("this-module", "Exactly one .gnu.linkonce.this_module section must exist.", ENOEXEC)
        elif this[0].is_nobits or not this[0].is_alloc or this[0].size != size:
            yield Finding(
                "this-module", f".gnu.linkonce.this_module has {this[0].size} bytes, struct module {size}", ENOEXEC
            )
        if len([s for s in module.object.sections if s.name == ".modinfo"]) > 1:
            yield Finding("modinfo", "Only one .modinfo section must exist.", ENOEXEC)
    elif module.find(THIS_MODULE) is None:
        yield Finding("this-module", "No module found in object", ENOEXEC)
    exports = module.find("__ksymtab")
    if kernel.features.flags_table and exports is not None and exports.size and module.find("__kflagstab") is None:
        yield Finding("export-flags", "no flags for exported symbols", ENOEXEC)
    for section in module.object.sections:
        if section.is_write and section.is_exec:
            yield Finding("write-exec", f"section {section.name} has invalid WRITE|EXEC flags", ENOEXEC)


def modinfo_refusals(module: ModuleFile, kernel: Kernel) -> Iterator[Finding]:
    """check_modinfo(): vermagic and whether livepatches can be."""
    magic, wanted = module.info("vermagic"), kernel.vermagic
    if magic is None:
        if not force_load(kernel):
            yield Finding("vermagic", "bad vermagic: there is none", ENOEXEC)
    else:
        # same_magic(): the release does not matter where symbols have versions
        versions = module.find("__versions") is not None and kernel.features.modversions
        mine, theirs = ((text.partition(" ")[2] if versions else text).strip() for text in (magic, wanted))
        if mine != theirs:
            yield Finding("vermagic", f"version magic '{magic}' should be '{wanted}'", ENOEXEC)
    if module.is_livepatch and not kernel.features.livepatch:
        yield Finding("livepatch", "module is marked as livepatch module, but livepatch support is disabled", ENOEXEC)


def symbol_refusals(module: ModuleFile, simulated: SimulatedKernel) -> Iterator[Finding]:
    """resolve_symbol() for every undefined symbol: is it there, for this licence, of this version, imported?"""
    kernel = simulated.kernel
    versions = module.versions
    gpl = (module.info("license") or "unspecified") in GPL
    spaces = set(module.modinfo.get("import_ns", ()))
    for space in sorted(space for space in spaces if space.startswith(_OF_MODULES)) if by_module(kernel) else ():
        yield Finding("namespace", f"module tries to import module namespace: {space}", EPERM)
    if kernel.features.modversions:
        layout = kernel.export("module_layout")
        if layout is not None:
            # check_modstruct_version() turns every refusal of it into ENOEXEC
            yield from (
                Finding(f.code, f.message, ENOEXEC) for f in _version(kernel, versions, "module_layout", layout.crc)
            )
    for symbol in module.object.symbols:
        if not symbol.is_undefined or not symbol.name:
            continue
        export = simulated.symbols.export(symbol.name)
        if export is None or (export.gpl and not gpl):
            if symbol.bind == elf.STB_WEAK or symbol.name == "_GLOBAL_OFFSET_TABLE_":
                continue
            why = " (GPL only)" if export is not None else ""
            yield Finding("unknown-symbol", f"Unknown symbol {symbol.name} (err -2){why}", ENOENT)
            continue
        yield from _version(kernel, versions, symbol.name, export.crc)
        if export.namespace and export.namespace not in spaces and not _is_for(export.namespace, module, kernel):
            yield Finding(
                "namespace",
                f"module uses symbol ({symbol.name}) from namespace {export.namespace}, but does not import it.",
                EINVAL,
            )


_OF_MODULES = "module:"
_REFUSED_IMPORT = b"module tries to import module namespace"


@cache
def by_module(kernel: Kernel) -> bool:
    """Whether a namespace may name modules, which then need not, and must not, import it (setup_modinfo, v6.16)."""
    return kernel.image.holds(_REFUSED_IMPORT)


def _is_for(namespace: str, module: ModuleFile, kernel: Kernel) -> bool:
    """verify_module_namespace(): `module:` and names, each maybe with `*` at its end; `-` and `_` are one."""
    if not namespace.startswith(_OF_MODULES) or not by_module(kernel):
        return False
    name = plain(module.name)
    patterns = (plain(pattern) for pattern in namespace.removeprefix(_OF_MODULES).split(","))
    return any(name.startswith(row[:-1]) if row.endswith("*") else name == row for row in patterns)


def _version(kernel: Kernel, versions: Mapping[str, int] | None, name: str, crc: int | None) -> Iterator[Finding]:
    """check_version()"""
    if crc is None:
        return
    if versions is None:
        if not force_load(kernel):
            yield Finding("no-versions", f"no symbol version for {name}", EINVAL)
    elif name not in versions:
        yield Finding("no-version", f"no symbol version for {name}", EINVAL)
    elif versions[name] != crc:
        yield Finding(
            "crc",
            f"disagrees about version of symbol {name}: has {versions[name]:#010x}, the kernel {crc:#010x}",
            EINVAL,
        )


_FORCE = b"%s: %s: kernel tainted."
"""What try_to_force_load says, which is compiled in with CONFIG_MODULE_FORCE_LOAD only."""


@cache
def force_load(kernel: Kernel) -> bool:
    """CONFIG_MODULE_FORCE_LOAD: modules without vermagic or versions are taken, with a taint."""
    return kernel.image.holds(_FORCE)


def verifies(kernel: Kernel) -> bool:
    """CONFIG_MODULE_SIG: the kernel looks at signatures."""
    return bool(kernel.symbols_named("mod_verify_sig"))


def taints(module: ModuleFile, kernel: Kernel, *, trusted: bool) -> tuple[str, ...]:
    """The letters that loading it adds (check_modinfo, module_sig_check; tainted-kernels.rst).

    `trusted` says that its signature is that of a key which the kernel has.
    """
    found = []
    if (module.info("license") or "unspecified") not in GPL:
        found.append("P")
    no_versions = kernel.features.modversions and module.versions is None
    if module.info("vermagic") is None or no_versions:
        found.append("F")
    if module.info("staging") is not None:
        found.append("C")
    if module.info("intree") is None:
        found.append("O")
    if verifies(kernel) and not trusted:
        found.append("E")
    if module.is_livepatch:
        found.append("K")
    if module.info("test") is not None:
        found.append("N")
    return tuple(found)
