"""The C of the records of marks, from the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from builder.acquire.marks.fields import MarkField, quoted
from builder.acquire.marks.judging import JudgedMark, PlacedMark
from builder.acquire.marks.words import Expression
from builder.templates import render


def mark_symbol(kind: str, module: str, number: int) -> str:
    """The name of one of a mark's own symbols: `on`, `emit`, `until`."""
    return f"__bespoke_{kind}_{module}_{number}"


def as_value(one: PlacedMark, value: Expression) -> str:
    """The argument for what is added up, or the key of a time."""
    if one.mark.aggregate == "time":  # an address, mostly
        return f"(unsigned long long)(unsigned long)({value.code})"
    return f"(long long)({value.code})"


def parameters(one: PlacedMark, fields: Sequence[MarkField], *, named: bool = False) -> str:
    """The parameters of a mark's emission function, as C."""
    if one.said.value is not None:
        kind = "unsigned long long" if one.mark.aggregate == "time" else "long long"
        return f"{kind} value" if named else kind
    return ", ".join(f"{f.argument_type}{f' {f.parameter}' if named else ''}" for f in fields) or "void"


def write_records(
    placed: Sequence[PlacedMark], judged: Mapping[int, JudgedMark], module: str, generation: int, *, armed: bool
) -> str:
    """The C that registers the events of all marks and makes their records."""
    marks = []
    for one in placed:
        fields = () if one.mark.aggregate else judged[one.number].fields
        fields = tuple(_own_symbols(f, one.number) for f in fields)
        shown, told = _shown(one, fields)
        marks.append(
            {
                "number": one.number,
                "comment": f"{one.place}: {one.mark.place}".replace("*/", "* /"),
                "fields": fields,
                "texts": [f for f in fields if f.text],
                "symbols": [f for f in fields if f.symbols],
                "stack": one.mark.stack and not one.mark.aggregate,
                "c_name": quoted(one.event),
                "c_place": quoted(one.place),
                "c_kind": quoted(one.mark.aggregate or "records"),
                "c_format": shown,
                "c_arguments": [f.argument for f in fields],
                "c_print_fmt": quoted(told),
                "on": mark_symbol("on", module, one.number),
                "emit": mark_symbol("emit", module, one.number),
                "until": mark_symbol("until", module, one.number),
                "parameters": parameters(one, fields, named=True),
                "every": one.mark.every,
                "limit": one.mark.limit,
                "aggregate": one.mark.aggregate,
                "value": one.said.value is not None,
                "armed": armed and bool(one.mark.aggregate),
            }
        )
    return "\n" + render(
        "marks.c.j2",
        module=module,
        generation=generation,
        marks=marks,
        armed=armed,
        timed=any(one.mark.aggregate == "time" for one in placed),
        c_module=quoted(module),
        c_file=quoted(f"{module}.marks"),
    )


def _own_symbols(field: MarkField, number: int) -> MarkField:
    """The tables of names are of one mark each: two marks may have fields of one name."""
    name = f"bespoke_symbols_{field.name}"
    return replace(field, argument=field.argument.replace(name, f"bespoke_symbols_{number}_{field.name}"))


def _shown(one: PlacedMark, fields: Sequence[MarkField]) -> tuple[str, str]:
    """The text of a record: as a C string without its quotes, and as the event's format file has it."""
    if one.said.format is None:
        text = " ".join(f"{f.name}={f.shown}" for f in fields)
    else:
        texts = [quoted(part.replace("%", "%%"))[1:-1] for part in one.said.format.parts]
        text = "".join(part + shown for part, shown in zip(texts, [*(f.shown for f in fields), ""], strict=True))
    told = "".join(f", {f.told}" for f in fields)
    return text, f'"{text}"{told}'
