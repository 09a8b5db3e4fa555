"""Small adversarial pairs, one row each: a source, what becomes of it, and what is right to say of that.

A row is compiled on its own, both versions under one file name, by each compiler that it is for: what is right for
gcc is right for clang too, unless `clang` says otherwise ("" where clang has nothing of the kind). `right` is a list of
words with names, separated by commas:

    same                    nothing that runs changed (exit status 3)
    changed f g             just these functions changed, and the change can ship
    refused CODE:NAME ...   just these refusals
    lines f g               just these functions moved their lines only
    new, removed, bound, travels, ignored, warned ...    among others these functions, originals, things, rules, codes
"""

from __future__ import annotations

import json
from difflib import unified_diff
from typing import NamedTuple

from builder.compose.outcome import Diff

Edit = tuple[str, str]

HEAD = """
#define noinline __attribute__((noinline))
#define notrace __attribute__((no_instrument_function))
#define __section(name) __attribute__((__section__(name)))
#define __init __section(".init.text")
#define __used __attribute__((__used__))
#define ASM(text) __asm__ volatile (text)
extern int sink(int, ...);
extern int note(const char *, ...);
"""


def asm(*lines: str) -> str:
    """Assembler beside the functions."""
    text = "\n".join((*lines, ".text", ""))
    return f"__asm__({json.dumps(text)}); "


_EXACT = ("changed", "refused", "lines")


class Row(NamedTuple):
    """`edits` are (was, becomes), each made at all of its places."""

    name: str
    source: str
    edits: tuple[Edit, ...]
    right: str
    clang: str | None = None
    gcc: bool = True
    flags: tuple[str, ...] = ()
    missing: str = ""
    """Why the tool does not give what is right yet."""
    patched: bool = False
    """Whether the tool is given the patch that makes the new version of the old one, as with --source-diff."""

    def texts(self) -> tuple[str, str]:
        """The old and the new version."""
        new = self.source
        for was, becomes in self.edits:
            assert was in new, f"{self.name}: no {was} to change"
            new = new.replace(was, becomes)
        return HEAD + self.source, HEAD + new

    def patch(self) -> str:
        """The difference of the two versions, as a patch of the file that they are compiled as."""
        old, new = (text.splitlines(keepends=True) for text in self.texts())
        return "".join(unified_diff(old, new, "a/kernel/unit.c", "b/kernel/unit.c"))

    def right_for(self, compiler: str) -> str:
        """Empty where the row is not for that compiler."""
        if compiler == "clang":
            return self.right if self.clang is None else self.clang
        return self.right if self.gcc else ""


def said(found: Diff) -> dict[str, set[str]]:
    """What the tool says of a pair, by the words of `right`."""
    document = found.as_json()
    functions = document["functions"]
    return {
        "changed": set(functions["changed"]),
        "lines": set(functions["line_only"]),
        "refused": {f"{row.code}:{row.symbol}" for row in found.judged.refusals},
        "new": set(functions["new"]),
        "removed": set(functions["removed"]),
        "bound": {name for name, *_ in document["originals"]},
        "travels": {atom.name for atom in (*found.selection.functions, *found.selection.data)},
        "ignored": set(document["ignored"]),
        "warned": {row["code"] for row in document["warnings"]},
        "same": {"unchanged"} & {found.verdict},
    }


def faults(right: str, found: Diff) -> list[str]:
    """Where what is said is not what is right."""
    wanted = {word: set(names) for word, *names in (clause.split() for clause in right.split(","))}
    known = said(found)
    out = []
    for word in _EXACT:
        if word == "changed" and known["refused"] and word not in wanted:
            continue  # what else a refused change would ship is told by the row where it matters
        if known[word] != wanted.get(word, set()):
            out.append(f"{word}: {sorted(known[word])}, not {sorted(wanted.get(word, set()))}")
    for word, names in wanted.items():
        if word not in _EXACT and not names <= known[word]:
            out.append(f"{word}: {sorted(known[word])} without {sorted(names - known[word])}")
    if "same" in wanted and found.verdict != "unchanged":
        out.append(f"verdict: {found.verdict}")
    return out
