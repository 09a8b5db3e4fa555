"""The rules by which a difference is ignored, and what the stages of the books write down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from builder.binary import Section, elf
from builder.compare import Atom, View
from builder.compare.meaning import Meanings
from builder.compare.storage import Lifetime, lifetime
from builder.compose.selection import Selection
from builder.errors import Refusal

RULES: Final[Mapping[str, str]] = {
    "not-loaded": "a section without SHF_ALLOC is never in memory: debug information, comments, notes of the build",
    "discarded": "read by the build of a kernel, or by the loader of the module that was built, never by running code",
    "start-only": "freed after the start, or run only when the module goes: nothing calls it now",
    "unreferenced": "bytes that no relocation of either object leads to: no code can find them",
    "removed": "what is gone from the source stays in the kernel, and nothing new refers to it",
    "unused": "new, and neither called nor referred to by anything that travels",
    "fill": "what fills the room between things, or runs as nothing: padding instructions, zeros between data",
    "encoding": "the same operation to the same place, encoded longer or shorter: the original is not replaced for it",
    "bug-line": "the line in an entry of the bug table is only printed",
    "linkage": "static, global or weak: the same thing under the same name, which the linker has bound long ago",
    "symbol-size": "the size of a symbol is a note for tools; what it covers was compared byte by byte",
    "mark": "a relocation of no width marks a place and writes nothing",
    "marker": "a name of the room before a function (__pfx_, __cfi_), which only tools read",
    "own": "made by the compiler for one place (__key, __func__): each version has its own, judged where it is used",
    "relocated-field": "bytes that a relocation with addend writes over (gABI: RELA), whatever they were",
    "symbol-type": "with or without a type, the symbol names the same code",
    "alignment": "the original stays where it is, new code wants it aligned less, or the table is laid anew",
    "author": "the author of the patch has excluded it (KPATCH_IGNORE_FUNCTION, KPATCH_IGNORE_SECTION)",
}
"""Name -> why what it takes cannot matter. `diff --json` lists what each took, under `ignored`."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something that differs and is ignored by `rule`: `what` names it."""

    rule: str
    what: str


Note = Ignored | Refusal


def left(symbol: str, section: str, what: str) -> Refusal:
    """What nothing accounts for."""
    return Refusal(
        "unaccounted",
        symbol,
        section,
        f"{what}: no rule says what becomes of that",
        "look at what it is; if it cannot matter to running code, accept it",
        fatal=False,
    )


@dataclass(frozen=True)
class Pair:
    """Both objects, what is paired in them, and what of the new one travels."""

    selection: Selection

    @cached_property
    def old(self) -> View:
        return self.selection.comparison.old

    @cached_property
    def new(self) -> View:
        return self.selection.comparison.new

    @cached_property
    def twins(self) -> Mapping[Atom, Atom]:
        return self.selection.comparison.correlation.twins

    @cached_property
    def versions(self) -> Mapping[Atom, Atom]:
        return self.selection.comparison.correlation.versions

    @cached_property
    def meanings(self) -> Meanings:
        return self.selection.comparison.meanings

    @cached_property
    def old_sections(self) -> Mapping[str, list[Section]]:
        return _by_name(self.old)

    @cached_property
    def new_sections(self) -> Mapping[str, list[Section]]:
        return _by_name(self.new)

    def is_judged(self, atom: Atom) -> bool:
        """Whether a thing has a verdict of its own that is not "the same"."""
        comparison = self.selection.comparison
        verdict = comparison.functions.get(atom) or comparison.data.get(atom)
        return verdict is not None and verdict.is_changed

    def moves(self, owner: Atom) -> bool:
        """Whether a function takes its entries along, or has changed."""
        return owner not in self._staying

    @cached_property
    def _staying(self) -> frozenset[Atom]:
        return frozenset(a for a in self.twins if a not in self.selection and not self.is_judged(a))


def _by_name(view: View) -> dict[str, list[Section]]:
    """Sections by name, those left out that the model makes anew: symbol and string tables, relocations."""
    out: dict[str, list[Section]] = {}
    for section in view.obj.sections[1:]:
        if section.type not in (elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA):
            out.setdefault(section.name, []).append(section)
    return out


def section_rule(section: str) -> str:
    """The rule for the content of a section that is never in use while the kernel runs."""
    return "start-only" if lifetime(section) is not Lifetime.LIVE else "discarded"
