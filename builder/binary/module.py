"""A kernel module as the kernel is given it: its bytes, and what its `.modinfo` and its sections say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from builder.arch import by_machine
from builder.binary import elf, klp
from builder.binary.kernel.modules import read_module_bytes
from builder.binary.manifest import Manifest
from builder.binary.names import MODVERSION
from builder.binary.objects import ObjectFile, Section, Symbol
from builder.binary.reader import read_object
from builder.errors import InputError


def read_modinfo(obj: ObjectFile) -> Mapping[str, tuple[str, ...]]:
    """Each key of `.modinfo` with its values in order; empty where there is no such section."""
    found: dict[str, list[str]] = {}
    section = obj.by_name.get(".modinfo")
    for entry in section.data.split(b"\0") if section is not None else ():
        key, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}


def depends_of(modinfo: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The modules that must be loaded before one that says this (`depends=`, scripts/mod/modpost.c)."""
    return tuple(plain(name) for name in next(iter(modinfo.get("depends", ())), "").split(",") if name)


def plain(name: str) -> str:
    """The kernel's spelling of a module name: `-` and `_` are one."""
    return name.replace("-", "_")


@dataclass(frozen=True)
class ModuleFile:
    """The bytes of a `.ko`, read; `object` is its content."""

    where: str
    data: bytes = field(repr=False)
    object: ObjectFile = field(repr=False)

    @classmethod
    def read(cls, source: str | Path | bytes, where: str = "") -> ModuleFile:
        """From a file (compressed or not) or from bytes. Raises InputError for what is no module."""
        data = source if isinstance(source, bytes) else read_module_bytes(Path(source))
        label = where or ("module" if isinstance(source, bytes) else str(source))
        found = read_object(data, name=label)
        by_machine(found.machine, where=label)
        if not found.little:
            raise InputError("is big-endian; only little-endian modules can be loaded", where=label)
        return cls(label, data, found)

    @classmethod
    def read_named(cls, source: str | Path | bytes, where: str = "") -> ModuleFile:
        """The same, of a module that must say its name. Raises InputError where it does not."""
        module = cls.read(source, where)
        if not module.name:
            raise InputError("not a kernel module: its .modinfo names none", where=module.where)
        return module

    @cached_property
    def modinfo(self) -> Mapping[str, tuple[str, ...]]:
        """Each key of `.modinfo` with its values in order."""
        return read_modinfo(self.object)

    def info(self, key: str) -> str | None:
        """The first value of a key, None where it is absent: get_modinfo()."""
        return next(iter(self.modinfo.get(key, ())), None)

    @property
    def name(self) -> str:
        """As /proc/modules spells it; empty where `.modinfo` does not say."""
        return self.info("name") or ""

    @property
    def depends(self) -> tuple[str, ...]:
        return depends_of(self.modinfo)

    @property
    def wants(self) -> tuple[str, ...]:
        """What `softdep=pre:` names: modules or aliases that its init asks for."""
        rows = (row.partition("post:")[0] for row in self.modinfo.get("softdep", ()))
        return tuple(name for row in rows for name in row.replace("pre:", " ").split())

    @property
    def aliases(self) -> tuple[str, ...]:
        return self.modinfo.get("alias", ())

    @property
    def is_livepatch(self) -> bool:
        """check_modinfo_livepatch() (kernel/module/main.c, v6.1) asks only whether the key is there."""
        return self.info("livepatch") is not None

    @cached_property
    def versions(self) -> Mapping[str, int] | None:
        """`__versions`: symbol -> CRC, the first of each name; None where there is no such section."""
        section = self.find("__versions")
        if section is None:
            return None
        found: dict[str, int] = {}
        for at in range(0, len(section.data) // MODVERSION.size * MODVERSION.size, MODVERSION.size):
            crc, name = MODVERSION.unpack_from(section.data, at)
            found.setdefault(name.partition(b"\0")[0].decode("utf-8", "surrogateescape"), crc)
        return found

    @cached_property
    def bound_objects(self) -> tuple[str, ...]:
        """The modules that its livepatch sections and symbols name."""
        rows: tuple[Section | Symbol, ...] = (*self.object.sections, *self.object.symbols)
        found = {owner for row in rows if (owner := klp.object_named(row.name)) is not None}
        return tuple(sorted(found - {klp.VMLINUX}))

    @cached_property
    def patched_objects(self) -> tuple[str, ...]:
        """The modules that a livepatch is for: those of our manifest, and those that it is bound to.

        Without a manifest, an object whose new functions refer to nothing of the
        old ones leaves no trace here; sysfs names it once the livepatch is loaded.
        """
        manifest = Manifest.within(self.object)
        named = set(manifest.objects) if manifest is not None else set()
        return tuple(sorted({*self.bound_objects, *named} - {klp.VMLINUX}))

    def find(self, name: str) -> Section | None:
        """find_sec(): the first section of this name that is allocated."""
        return next((s for s in self.object.sections if s.name == name and s.flags & elf.SHF_ALLOC), None)
