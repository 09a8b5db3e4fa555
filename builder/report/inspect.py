"""What a module contains, as people see it: in the terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from builder.binary.inspection import Inspection, ModuleDifference
from builder.binary.livepatch import ReplacedFunction
from builder.report.spelled import one_line

_MOST = 20


def sentence(found: Inspection) -> str:
    """What loading it would change, in one sentence, or two where it has marks."""
    if "livepatch" not in found.info:
        return "It is no livepatch: loading it replaces no function."
    patch = found.patch
    if patch is None:
        return "It is a livepatch, but the file does not tell what it replaces."
    if not patch.functions:
        return "It is a livepatch that replaces no function: it only calls its callbacks."
    count = len(patch.functions)
    what = f"{count} function{'' if count == 1 else 's'}"
    *others, last = dict.fromkeys(row.object for row in patch.functions)
    where = f"{', '.join(others)} and {last}" if others else last
    more = []
    if found.callbacks and not found.marks:
        own = len(found.callbacks)
        more.append(f"runs {own} of its own when it comes or goes (callbacks)")
    if patch.replace:
        more.append("takes the place of every livepatch before it")
    said = f"It replaces {what} in {where}{f', for {found.kernel}' if found.kernel else ''}"
    said += "".join(f"{', and' if text is more[-1] else ','} {text}" for text in more) + "."
    if found.marks:
        marks = f"{found.marks} mark{'' if found.marks == 1 else 's'}"
        said += (
            f" The new code has {marks}: trace events in events/{found.name}, which record nothing until they are on."
        )
    return said


def facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """Terms and values."""
    yield "module", found.name or "(no name)"
    yield "file", found.where
    yield "kernel", found.kernel or "(not told)"
    if found.made_by:
        yield "made by", found.made_by
    for key in ("description", "author", "version", "license", "depends"):
        if found.info.get(key):
            yield key, found.info[key]
    if found.manifest is not None and found.manifest.on:
        yield "stacked on", ", ".join(found.manifest.on)
    if found.patch is not None:
        yield "replaces others", {True: "yes", False: "no", None: "only its code tells"}[found.patch.replace]
    if found.parameters:
        yield "parameters", ", ".join(found.parameters)
    yield "signature", signed(found)
    yield from ((name, value) for name, value in found.checksums.items())


def signed(found: Inspection) -> str:
    """Who signed it."""
    row = found.signature
    if row is None:
        return "none"
    return f"{row.issuer or f'key {row.key_id}'}, {row.algorithm} over {row.digest}, serial {row.serial:x}"


def bytes_of(found: Inspection, function: ReplacedFunction) -> str:
    """`old -> new` bytes, as far as they are told."""
    old, new = found.old_size(function), function.new_size
    told = "" if new is None else str(new)
    return f"{old} -> {told}" if old is not None else told


def position(function: ReplacedFunction) -> str:
    """A name with its place among equals, where that is said."""
    return f"{function.name},{function.sympos}" if function.sympos else function.name


def told_tables(found: Inspection) -> str:
    """The special tables in one line."""
    rows = (name if count is None else f"{name} {count}" for name, count in found.tables.items())
    return ", ".join(rows)


def render_inspection(found: Inspection, *, verbose: bool = False) -> RenderableType:
    """One module; `verbose` shows everything that it is bound to and imports."""
    parts: list[RenderableType] = [one_line((found.name or Path(found.where).name, "bold"), f"  {sentence(found)}")]
    parts.append(_grid(list(facts(found))))
    if found.functions:
        table = _table("functions", "object", "function", "new version", "bytes", "why")
        for row in found.functions:
            table.add_row(row.object, position(row), row.new, bytes_of(found, row), found.role(row))
        parts.append(table)
    if found.callbacks:
        table = _table("callbacks", "object", "when", "function")
        for callback in found.callbacks:
            table.add_row(*callback)
        parts.append(table)
    if found.patch is not None and found.patch.states:
        states = ", ".join(f"{s.id} (version {s.version})" for s in found.patch.states)
        parts.append(one_line(f"states: {states}"))
    if found.klp_symbols:
        table = _table("bound to the original", "object", "symbol", "sympos", "references")
        shown = sorted(found.klp_symbols)
        for symbol in shown if verbose else shown[:_MOST]:
            table.add_row(symbol.object, symbol.name, str(symbol.sympos), str(symbol.references))
        if len(shown) > _MOST and not verbose:
            table.add_row("", f"and {len(shown) - _MOST} more (-v)", "", "")
        parts.append(table)
    for section in found.klp_sections if verbose else ():
        when = f"when {section.object} is loaded" if section.object != "vmlinux" else "when it is loaded"
        parts.append(one_line(f"  {section.relocations} relocations of {section.section}, {when}"))
    if found.imports:
        names = sorted(found.imports)
        text = ", ".join(names if verbose else names[:_MOST])
        more = f" and {len(names) - _MOST} more (-v)" if len(names) > _MOST and not verbose else ""
        parts.append(one_line(f"imports: {text}{more}"))
    if found.tables:
        parts.append(one_line(f"entries in the kernel's tables: {told_tables(found)}"))
    if found.manifest is not None:
        for word, notes in (("accepted", found.manifest.accepted), ("warning", found.manifest.warnings)):
            parts += [one_line(f"{word}: {note.code}: {note.message}", style="yellow") for note in notes]
    parts += [one_line(f"problem: {text}", style="red") for text in found.problems]
    return Group(*parts)


def render_difference(old: Inspection, new: Inspection, found: ModuleDifference) -> RenderableType:
    """What the second of two modules does otherwise."""
    parts: list[RenderableType] = [one_line((f"{old.where} -> {new.where}", "bold"))]
    if found.is_empty:
        parts.append(one_line("the same functions with the same code, and nothing else differs"))
    for style, word, rows in (("green", "added", found.added), ("red", "removed", found.removed)):
        parts += [one_line(f"  {word:<8} ", (f"{row.object}:{position(row)}", style)) for row in rows]
    for was, now in found.changed:
        sizes = f"  {was.new_size} -> {now.new_size} bytes"
        parts.append(one_line("  changed  ", (f"{now.object}:{position(now)}", "yellow"), sizes))
    parts += [one_line(f"  same     {row.object}:{position(row)}", style="dim") for row in found.same]
    parts += [line for what, was, now in found.facts for line in _fact(what, was, now)]
    return Group(*parts)


def _fact(what: str, was: str, now: str) -> Iterator[RenderableType]:
    """What a fact was and is; of a list only what has gone and what has come."""
    before, after = was.split(", "), now.split(", ")
    gone, come = ([row for row in rows if row not in others] for rows, others in ((before, after), (after, before)))
    yield one_line(f"  {what}", style="bold")
    yield from (one_line(f"    - {row}", style="red") for row in gone if row)
    yield from (one_line(f"    + {row}", style="green") for row in come if row)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("bytes", "sympos", "references")
        table.add_column(column, overflow="fold", justify="right" if right else "left")
    return table


def _grid(rows: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for term, value in rows:
        grid.add_row(term, value)
    return Padding(grid, (0, 0, 0, 2))
