"""Formats of printk, as the user writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from builder.acquire.marks.expressions import LONGEST
from builder.errors import Refusal, RefusedError

_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\d+)?(?:\.(?P<precision>\d+))?(?P<length>hh|h|ll|l|z|t|L)?"
    r"(?P<kind>[diouxXcsp%])(?P<more>(?<=p)[A-Za-z0-9]*)?"
)
#: forms of %p that print what a pointer leads to (Documentation/core-api/printk-formats.rst, v6.1): said at the hit
_POINTED: Final = re.compile(r"(?:[IiMmUdDEeChRrbgGtaVOfsSBN]\w*|4cc)")
_ESCAPES: Final = {"t": "\t", "\\": "\\", '"': '"', "'": "'"}
_KNOWN: Final = (
    "the kernel's are in Documentation/core-api/printk-formats.rst: %d %u %x %lld %s %p %pI4 %pS, and %% a percent sign"
)
_WHY_NOT: Final = {
    "n": "is no conversion: it would write to memory",
    "*": "is no conversion here: it takes its width from an argument: write the number",
    **dict.fromkeys("aAeEfFgG", "is no conversion: the kernel has no floating point"),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """One `%` of a format: its whole `text`, the letter `kind`, and for `%p` the `more` that the kernel knows."""

    text: str
    kind: str
    more: str = ""

    @property
    def at_hit(self) -> bool:
        """Whether it prints what a pointer leads to, so that it has to be printed when the mark is hit."""
        return self.kind == "p" and self.more not in ("", "x", "K")


@dataclass(frozen=True, slots=True)
class Format:
    """A format as it was written, taken apart: `parts` are the texts around its conversions, one more than these."""

    text: str
    parts: tuple[str, ...]
    conversions: tuple[Conversion, ...]

    @property
    def plain(self) -> str:
        """The format with its escapes resolved, for the compiler to check."""
        rows = zip(self.parts, [*(c.text for c in self.conversions), ""], strict=True)
        return "".join(f"{part.replace('%', '%%')}{text}" for part, text in rows)


def conversions_in(text: str) -> int:
    """How many values the conversions of a text would take."""
    return sum(found["kind"] != "%" for found in _CONVERSION.finditer(text))


def conversion_words(text: str) -> bool:
    """Whether a conversion stands in a text as a word of its own."""
    return any(
        found["kind"] != "%"
        and " " not in found["flags"]  # `a % d` divides
        and text[: found.start()][-1:].strip() == ""
        and not re.match(r"\w", text[found.end() :])
        for found in _CONVERSION.finditer(text)
    )


def read_format(place: str, text: str) -> Format:
    """A format; RefusedError for a conversion that the kernel's printf has not, or more than one line."""
    if len(text) > LONGEST:
        raise _refused(place, f"the format {text[:60] + '...'!r} has {len(text)} characters", f"say at most {LONGEST}")
    parts, found, at = [""], [], 0
    line = _unescaped(place, text)
    while at < len(line):
        if line[at] != "%":
            parts[-1] += line[at]
            at += 1
            continue
        match = _CONVERSION.match(line, at)
        if match is None:
            cut = re.match(r"%[-+ #0\d.]*(?:hh|h|ll|l|z|t|L)?(.?)", line[at:], re.DOTALL)
            assert cut is not None
            why = _WHY_NOT.get(cut[1], "is no conversion")
            raise _refused(place, f"the format {text!r}: {cut[0]!r} {why}", _KNOWN)
        more = match["more"] or ""
        if match["kind"] == "p" and more and more not in ("x", "K") and not _POINTED.fullmatch(more):
            advice = "write a space behind %p, or a form of printk"
            raise _refused(place, f"the format {text!r}: %p{more} is not known", advice)
        if match["kind"] == "%":
            parts[-1] += "%"
        else:
            found.append(Conversion(match[0], match["kind"], more))
            parts.append("")
        at = match.end()
    return Format(text, tuple(parts), tuple(found))


def _unescaped(place: str, text: str) -> str:
    """The text as C has it, without the newline at the end that printk wants: a record is one line."""
    text = re.sub(r"(?:\\n|\n)\Z", "", text)
    if "\n" in text or "\\n" in re.sub(r"\\\\", "", text):
        raise _refused(place, f"the format {text!r} has several lines", "a record is one line: say two marks, or one")

    def one(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            advice = "of C's escapes there are \\t, \\\\, \\\" and a \\n at the end"
            raise _refused(place, f"the format {text!r}: {found[0]!r} is no escape here", advice)
        return _ESCAPES[found[1]]

    return re.sub(r"\\(.?)", one, text, flags=re.DOTALL)


def check_values(place: str, format_: Format, values: Sequence[str]) -> None:
    """RefusedError where a format has not one conversion for each value."""
    wanted, count = len(format_.conversions), len(values)
    if wanted != count:
        what = f"the format {format_.text!r} has {_number(wanted, 'conversion')}, and {_number(count, 'expression')}"
        raise _refused(
            place, f"{what} follow{'s' * (count == 1)}", "say one expression for each %, and %% for a percent sign"
        )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _refused(place: str, what: str, advice: str) -> RefusedError:
    return RefusedError([Refusal("mark-format", place, "", f"{place}: {what}", advice)])
