"""What vmlinux exports: names, addresses, CRCs, licence and namespace.

`struct kernel_symbol` (include/linux/export-internal.h, CONFIG_HAVE_ARCH_PREL32_RELOCATIONS)
is three s32, each relative to itself: value, name, namespace. The CRCs stand
beside it, one u32 for each entry. GPL-only symbols have tables of their own up
to 6.19; in 7.x there is one table, and a byte of flags for each entry in
`__kflagstab` (bit 0: GPL only).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from builder.binary import Address
from builder.binary.kernel.static import StaticImage
from builder.errors import KernelError

_ENTRY: Final = 12
_GPL_ONLY: Final = 1
_MASK: Final = (1 << 64) - 1

Find = Callable[[str], Address | None]
"""The address of the first symbol of a name, None where there is none."""


@dataclass(frozen=True, slots=True)
class Export:
    """One exported symbol; `crc` is None in a kernel without CONFIG_MODVERSIONS, `namespace` "" for none.

    A namespace of the form `module:NAME,...` is EXPORT_SYMBOL_FOR_MODULES (6.16): only those may use it.
    """

    name: str
    address: Address
    crc: int | None
    gpl: bool
    namespace: str


def read_exports(image: StaticImage, find: Find) -> list[Export]:
    """All exports of vmlinux, in table order; KernelError where there are none, or none that can be read."""
    found: list[Export] = []
    for suffix in ("", "_gpl"):
        bounds = _bounds(image, find, f"__ksymtab{suffix}")
        if bounds is None:
            continue
        start, size = bounds
        if size % _ENTRY:
            raise KernelError(
                f"__ksymtab{suffix} has {size} bytes, no multiple of {_ENTRY}: entries of another form",
                where=image.where,
            )
        count = size // _ENTRY
        crcs = _crcs(image, find, suffix, count)
        flags = _flags(image, find, count) if not suffix else None
        words = array("i", image.read(start, size))
        for i in range(count):
            at = start + i * _ENTRY
            value, name, namespace = words[3 * i : 3 * i + 3]
            found.append(
                Export(
                    name=image.string(at + 4 + name),
                    address=Address((at + value) & _MASK),
                    crc=crcs[i] if crcs else None,
                    gpl=bool(suffix) or bool(flags and flags[i] & _GPL_ONLY),
                    namespace=image.string(at + 8 + namespace) if namespace else "",
                )
            )
    if not found:
        raise KernelError("it exports nothing: built without CONFIG_MODULES?", where=image.where)
    return found


def _bounds(image: StaticImage, find: Find, table: str) -> tuple[Address, int] | None:
    """Address and size of a table: by its bounding symbols, else by its section."""
    start, stop = find(f"__start_{table}"), find(f"__stop_{table}")
    if start is not None and stop is not None and start <= stop:
        return (start, stop - start) if stop > start else None
    section = image.sections.get(table)
    return (section.address, section.size) if section and section.size else None


def _crcs(image: StaticImage, find: Find, suffix: str, count: int) -> array[int] | None:
    bounds = _bounds(image, find, f"__kcrctab{suffix}")
    if bounds is None:
        return None
    if bounds[1] != 4 * count:
        raise KernelError(
            f"__kcrctab{suffix} has {bounds[1]} bytes for {count} symbols: CRCs of another form",
            where=image.where,
        )
    return array("I", image.read(*bounds))


def _flags(image: StaticImage, find: Find, count: int) -> bytes | None:
    bounds = _bounds(image, find, "__kflagstab")
    if bounds is None:
        return None
    if bounds[1] != count:
        raise KernelError(f"__kflagstab has {bounds[1]} bytes for {count} symbols", where=image.where)
    return image.read(*bounds)
