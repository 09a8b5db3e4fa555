"""From expressions and their types to the fields of a record: how they are passed, stored and printed, as C."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from builder.acquire.marks.formats import Conversion
from builder.acquire.marks.types import CType


@dataclass(frozen=True, slots=True)
class MarkField:
    """One field of a record, as templates/marks.c.j2 writes it.

    `code` is the expression and `parameter` what it is passed as; `storage` and `member` are the record's, `type` what
    the event's format file says. `raw` is the printf form of `wide`, which it is cast to. `fill` puts a text into the
    buffer that `{}` stands for. `shown` is the form of printf in the text, `argument` what it prints,
    `told` the same for tools that read the format file.
    """

    name: str
    code: str
    parameter: str
    argument_type: str
    storage: str
    member: str
    type: str
    signed: bool
    text: bool
    raw: str
    wide: str
    value: str
    fill: str
    shown: str
    argument: str
    told: str
    symbols: str = ""

    @property
    def is_string(self) -> bool:
        """Whether what is passed is a string of its own, not what a text is made of when the mark is hit."""
        return self.text and self.argument_type == "const char *"


_STORAGE: Final = {1: "8", 2: "16", 4: "32", 8: "64"}
_TYPES: Final = {
    (1, True): "char", (1, False): "unsigned char", (2, True): "short", (2, False): "unsigned short",
    (4, True): "int", (4, False): "unsigned int", (8, True): "long", (8, False): "unsigned long",
}  # fmt: skip
_LENGTHS: Final = {
    "hh": ("signed char", "unsigned char"), "h": ("short", "unsigned short"), "": ("int", "unsigned int"),
}  # fmt: skip


def quoted(text: str) -> str:
    """A C string; everything that is not plain ASCII in octal."""
    plain = {*range(0x20, 0x7F)} - {0x22, 0x5C, 0x3F}
    return '"' + "".join(
        chr(b) if b in plain else f"\\{b:03o}" for b in text.encode("utf-8", "surrogateescape")
    ) + '"'  # fmt: skip


def text_field(name: str, code: str, shown: str = "%s", fill: str | None = None) -> MarkField:
    """A string, or with `fill` what is printed into one when the mark is hit."""
    parameter = f"v_{name}"
    member = f"__data_loc_{name}"
    return MarkField(
        name, code, parameter, "const void *" if fill else "const char *", "u32", member, "__data_loc char[]", False,
        True, "", "", "", fill or f"bespoke_text({{0}}, {parameter}, BESPOKE_TEXT)", shown,
        f"(char *)record + (record->{member} & 0xffff)", f"__get_str({name})",
    )  # fmt: skip


def number_field(name: str, code: str, size: int, signed: bool, *, pointer: bool = False) -> MarkField:
    """A number of `size` bytes; a pointer is shown in hexadecimal."""
    parameter = f"v_{name}"
    kind = f"{'s' if signed else 'u'}{_STORAGE[size]}"
    wide = "long long" if signed else "unsigned long long"
    form = "0x%llx" if pointer else "%lld" if signed else "%llu"
    code = f"(unsigned long)({code})" if pointer else f"({wide})({code})"
    return MarkField(
        name, code, parameter, "unsigned long" if pointer else wide, kind, f"v_{name}", _TYPES[size, signed], signed,
        False, form, wide, parameter, "", form, f"({wide})record->v_{name}", f"({wide})REC->{name}",
    )  # fmt: skip


def by_type(name: str, code: str, kind: CType, enumerators: Mapping[str, int]) -> MarkField | None:
    """The field of an expression that is shown by its type; None for what is no scalar."""
    if kind.is_text:
        return text_field(name, f"(const char *)({code})", '\\"%s\\"')
    if kind.is_pointer:
        return number_field(name, code, 8, False, pointer=True)
    if kind.integer is None:
        return None
    size, signed = kind.integer
    field = number_field(name, code, size, signed)
    if kind.name in ("_Bool", "bool"):
        yes = '{} ? "true" : "false"'
        return replace(field, shown="%s", argument=yes.format(field.argument), told=yes.format(f"REC->{name}"))
    if enumerators:
        rows = ", ".join(f"{{ {value}, {quoted(text)} }}" for text, value in _first_names(enumerators))
        return replace(
            field,
            shown="%s",
            argument=f"trace_print_symbols_seq(&iter->tmp_seq, record->v_{name}, bespoke_symbols_{name})",
            told=f"__print_symbolic(REC->{name}, {rows})",
            symbols=rows,
        )
    return field


def _first_names(enumerators: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    """One name for each value, in the order of the type."""
    by_value: dict[int, str] = {}
    for name, value in enumerators.items():
        by_value.setdefault(value, name)
    return [(name, value) for value, name in by_value.items()]


def by_conversion(name: str, code: str, kind: CType, conversion: Conversion) -> MarkField | None:
    """The field of an expression that a format shows; None where the record cannot hold it."""
    if conversion.kind == "s":
        return text_field(name, f"(const char *)({code})", conversion.text)
    if conversion.at_hit:
        form = f'"%p{conversion.more}"'
        return text_field(name, f"(const void *)({code})", fill=f"scnprintf({{0}}, BESPOKE_TEXT, {form}, v_{name}) + 1")
    if kind.is_pointer or conversion.kind == "p":
        return number_field(name, code, 8, False, pointer=True)
    if kind.integer is None:
        return None
    field = number_field(name, code, *kind.integer)
    found = re.fullmatch(r"%([-+ #0]*\d*(?:\.\d+)?)(hh|h|ll|l|z|t|L)?([a-zA-Z])", conversion.text)
    assert found is not None
    flags, length, letter = found[1], found[2] or "", found[3]
    if letter == "c":
        return replace(field, shown=conversion.text, argument=f"(int)record->v_{name}", told=f"REC->{name}")
    signed = letter in "di"
    narrow = _LENGTHS.get(length, ("long", "unsigned long"))[not signed]
    wide = "long long" if signed else "unsigned long long"
    return replace(
        field,
        shown=f"%{flags}ll{letter}",
        argument=f"({wide})({narrow})record->v_{name}",
        told=f"({wide})({narrow})REC->{name}",
    )
