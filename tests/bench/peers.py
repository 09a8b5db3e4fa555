"""kpatch's create-diff-object, where `BESPOKE_CREATE_DIFF_OBJECT` names one: given what its build script gives it.

That is the symbol table of what the object is linked into, as `readelf -sW` prints it, a Module.symvers, and in the
environment the sizes of the entries of special tables. There are two measures: with the object's own symbol table,
the least that it takes, and with the kernel's whole one, as in a build.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire.packages import fetch_kernel
from builder.binary import read_object
from builder.binary.kernel import Kernel
from builder.binary.tables import BY_NAME, entries
from builder.errors import BespokeError
from tests.bench.processes import REPEATS, Spent, spent
from tests.running.pairs import RELEASE

PROGRAM: Final = "BESPOKE_CREATE_DIFF_OBJECT"
OWN: Final = "kpatch, own symbols"
WHOLE: Final = "kpatch, all symbols"

# By the variable: the table whose entries it is about.
_SIZES: Final = {
    "ALT_STRUCT_SIZE": ".altinstructions",
    "BUG_STRUCT_SIZE": "__bug_table",
    "EX_STRUCT_SIZE": "__ex_table",
    "JUMP_STRUCT_SIZE": "__jump_table",
    "PARA_STRUCT_SIZE": ".parainstructions",
    "STATIC_CALL_STRUCT_SIZE": ".static_call_sites",
}
# struct orc_entry, and struct pi_entry (include/linux/printk.h) of any 64-bit kernel
_FIXED: Final = {"ORC_STRUCT_SIZE": "6", "PRINTK_INDEX_STRUCT_SIZE": "48"}
_LONG: Final = 2
"""So many runs are enough of what takes long."""
_HEAD: Final = "Symbol table '.symtab' contains some entries:\n"
_OTHER_FILES: Final = "0: 0000000000000000 0 FILE LOCAL DEFAULT ABS all-others.c\n"


@dataclass(frozen=True, slots=True)
class Symbols:
    """The kernel's symbols as lines of `readelf -sW`: local ones, others by name; and its exports as Module.symvers."""

    local: str
    others: Mapping[str, str]
    exports: str

    @classmethod
    def of_kernel(cls) -> Symbols | None:
        """Those of the kernel that the pairs are for; None where it is not to be had."""
        try:
            kernel = Kernel.open(fetch_kernel(RELEASE).image)
        except BespokeError:
            return None
        local: list[str] = []
        others: dict[str, str] = {}
        for symbol in kernel.all_symbols():
            kind = "FUNC" if symbol.type in "tTwW" else "OBJECT"
            bind = "LOCAL" if symbol.type.islower() else "GLOBAL"
            line = f"0: {symbol.address:016x} 16 {kind} {bind} DEFAULT 1 {symbol.name}\n"
            if bind == "LOCAL":
                local.append(line)
            else:
                others[symbol.name] = line
        exports = "".join(f"0x0\t{name}\tvmlinux\tEXPORT_SYMBOL\t\n" for name in kernel.exports())
        return cls("".join(local), others, exports)

    def around(self, own: str) -> str:
        """The whole table of which an object's own one is a part: the local symbols of all files, then the others."""
        lines = own.splitlines(keepends=True)
        local = [line for line in lines if " LOCAL " in line]
        others = [line for line in lines if " GLOBAL " in line or " WEAK " in line]
        there = {line.split()[-1] for line in others if " UND " not in line}
        kernel = [line for name, line in self.others.items() if name not in there]
        return "".join((_HEAD, _OTHER_FILES, self.local, *local, *kernel, *others))


@dataclass(frozen=True, slots=True)
class DiffObject:
    """create-diff-object, run on pairs in a directory for what it reads and writes."""

    program: str
    place: Path
    kernel: Symbols | None

    @classmethod
    def here(cls, place: Path, *, whole: bool = False) -> DiffObject | None:
        """The one that the environment names; None where it names none."""
        program = os.environ.get(PROGRAM)
        return cls(program, place, Symbols.of_kernel() if whole else None) if program else None

    def spends(self, pair: Path, repeats: int = REPEATS) -> Iterator[tuple[str, Spent]]:
        """What it takes for a pair, by what it was given."""
        words = ["readelf", "-sW", str(pair / "orig.o")]
        own = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        yield OWN, self._spent(pair, own, "", repeats)
        if self.kernel is not None:
            yield WHOLE, self._spent(pair, self.kernel.around(own), self.kernel.exports, min(repeats, _LONG))

    def _spent(self, pair: Path, table: str, exports: str, repeats: int) -> Spent:
        symbols, versions = self.place / "symbols", self.place / "Module.symvers"
        symbols.write_text(table)
        versions.write_text(exports)
        files = (pair / "orig.o", pair / "patched.o", "vmlinux", symbols, versions, "fix", self.place / "output.o")
        return spent([self.program, *files], repeats, sizes(pair))


def sizes(pair: Path) -> dict[str, str]:
    """How large the entries of the special tables are in the objects of a pair."""
    found = dict(_FIXED)
    for name in ("orig.o", "patched.o"):
        obj = read_object(pair / name)
        for variable, table in _SIZES.items():
            section = obj.by_name.get(table)
            rows = entries(obj, section, BY_NAME[table]) if section is not None else ()
            if rows:
                found[variable] = str(rows[0].end - rows[0].start)
    return found
