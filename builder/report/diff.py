"""A diff as people see it, from the document of `--json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from builder.report.spelled import one_line

_STYLE = {"changed": "green", "unchanged": "dim", "refused": "red", "error": "red"}
_MOST = 12


def render_diff(document: Mapping[str, Any], *, verbose: bool = False) -> RenderableType:
    """One pair: the verdict, what changed and why, what stands in the way."""
    functions = document["functions"]
    parts: list[RenderableType] = [_title(document)]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    reasons = document.get("reasons", {})
    carriers = {c for row in document.get("carriers", {}).values() for c in row}
    ships = document["verdict"] != "unchanged"  # what changed where nothing ships is code for start or end
    for word, names in (
        ("changed" if ships else "left out", functions["changed"]),
        ("new", functions["new"]),
        ("carries", sorted(carriers)),
    ):
        for name in names:
            parts.append(one_line(f"  {word:<8} ", (name, "bold")))
            if reasons.get(name) and word != "new":
                parts.append(Padding(one_line(reasons[name], style="dim"), (0, 0, 0, 11), expand=False))
    for word, names in (("removed", functions["removed"]), ("line only", functions["line_only"])):
        if names and (verbose or word == "removed"):
            table.add_row(one_line(f"  {word}", style="dim"), one_line(_short(names, verbose)))
    for name in document["data"]["new"]:
        table.add_row(one_line("  new data"), one_line(name))
    if table.row_count:
        parts.append(table)
    parts += [*render_refusals(document["refusals"], "refused"), *render_refusals(document["warnings"], "warning")]
    return Group(*parts)


def render_refusals(rows: Iterable[Mapping[str, Any]], word: str) -> list[RenderableType]:
    """Refusals or warnings, each with its advice."""
    style = "red" if word == "refused" else "yellow"
    out: list[RenderableType] = []
    for row in rows:
        out.append(one_line("  ", (f"{word}: {row['code']}", style), f": {row['message']}"))
        if row["advice"]:
            out.append(one_line(f"      {row['advice']}", style="dim"))
    return out


def render_tree(document: Mapping[str, Any], *, verbose: bool = False) -> RenderableType:
    """Two trees: a few lines for each pair, those of which nothing is to be said only when asked for."""
    parts: list[RenderableType] = []
    counts: dict[str, int] = {}
    for row in document["pairs"]:
        verdict = row["verdict"]
        counts[verdict] = counts.get(verdict, 0) + 1
        if verdict == "unchanged" and not (verbose or row["warnings"]):
            continue
        parts.append(one_line((f"{verdict:<9} ", f"bold {_STYLE[verdict]}"), (row["path"], "bold")))
        word = "left out" if verdict == "unchanged" else "changed"
        lines = [(word, row["functions"]["changed"]), ("new", row["functions"]["new"])]
        lines += [("refused", [f"{r['code']}: {r['symbol']}" for r in row["refusals"]])]
        lines += [("warning", [f"{w['code']}: {w['symbol']}" for w in row["warnings"]])]
        lines += [("", [row["message"]])] if "message" in row else []
        for word, names in lines:
            if names:
                text = one_line((f"{word:<8} " if word else "", "dim"), _short(names, verbose))
                parts.append(Padding(text, (0, 0, 0, 10), expand=False))
    total = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())) or "no pairs"
    parts.append(one_line(f"{len(document['pairs'])} pairs: {total}", style="bold"))
    if document["unpaired"]:
        parts.append(one_line(f"in one tree only: {_short(document['unpaired'], verbose)}", style="yellow"))
    return Group(*parts)


def _title(document: Mapping[str, Any]) -> RenderableType:
    verdict = document["verdict"]
    return one_line((verdict, f"bold {_STYLE[verdict]}"), f"  {document['old']} -> {document['new']}")


def _short(names: list[str], verbose: bool) -> str:
    if verbose or len(names) <= _MOST:
        return ", ".join(names)
    return ", ".join(names[:_MOST]) + f" and {len(names) - _MOST} more"
