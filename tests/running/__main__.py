"""`python -m tests.running [PAIR ...]`: build, load, reach and unload every pair, and print the table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel import Kernel
from builder.errors import BespokeError
from tests.conftest import data_root
from tests.running.pairs import ACCEPTED, RELEASE, Outcome, built, places
from tests.running.visit import Visit, machine, visits

Say = Callable[[str], None]


def outcomes(root: Path, kernel: Kernel, names: Sequence[str] = ()) -> list[Outcome]:
    """Every pair as it is, and once more with its refusal accepted where that makes sense."""
    found = []
    for name, place in places(root).items():
        if names and name not in names:
            continue
        found.append(built(place, kernel))
        if name in ACCEPTED:
            found.append(built(place, kernel, [ACCEPTED[name]]))
    return found


def visited(kernel: Kernel, found: Sequence[Outcome], say: Say = lambda text: None) -> dict[str, list[Visit]]:
    """What the guest saw of each pair that ships; one guest for all, a new one after one that died."""
    waiting = [outcome for outcome in found if outcome.module is not None]
    seen: dict[str, list[Visit]] = {outcome.pair: [] for outcome in waiting}
    while waiting:
        with machine(kernel) as guest:
            while waiting and guest.alive:
                outcome = waiting.pop(0)
                say(outcome.pair)
                try:
                    seen[outcome.pair].extend(visits(guest, outcome))
                except BespokeError as error:
                    seen[outcome.pair].append(Visit(outcome.pair, "the guest died", problems=[str(error)]))
                    break
            if guest.alive:
                guest.poweroff()
    return seen


def table(found: Sequence[Outcome], seen: dict[str, list[Visit]]) -> Table:
    """One row for each pair and order."""
    out = Table(box=None, pad_edge=False)
    for title in ("pair", "owner", "functions"):
        out.add_column(title, overflow="fold")
    for title in ("built ms", "order", "insmod s", "transition s", "redirected", "ran", "unloaded", "problems"):
        out.add_column(title, overflow="fold", justify="right" if title[-2:] in ("ms", " s") else "left")
    for outcome in found:
        rows = seen.get(outcome.pair, []) if outcome.module else []
        name = outcome.pair + "".join(f"\n--allow {row}" for row in outcome.accepted)
        built_ms = f"{outcome.milliseconds:.0f}"
        if not rows:
            out.add_row(name, outcome.owner, "", built_ms, outcome.verdict)
        for number, visit in enumerate(rows):
            first = (name, outcome.owner, str(len(outcome.replaced)), built_ms) if not number else ("", "", "", "")
            ran = sum(1 for count in visit.hits.values() if count)
            out.add_row(
                *first,
                visit.order,
                f"{visit.insmod:.2f}",
                f"{visit.transition:.1f}",
                f"{len(visit.redirected)}/{len(outcome.replaced)}",
                f"{ran}/{len(outcome.replaced)}",
                "yes" if visit.unloaded else "no",
                "\n".join([*visit.problems, *([f"(held up by {visit.held})"] if visit.held else [])]) or "none",
            )
    return out


def main(names: Sequence[str]) -> int:
    console = Console(stderr=True)
    root = data_root()
    unknown = [name for name in names if name not in places(root)]
    if unknown or not places(root):
        console.print(f"no pair {', '.join(unknown) or 'at all'} in {root} (BESPOKE_DATA)", markup=False)
        return 2
    try:
        kernel = Kernel.open(fetch_kernel(RELEASE).image)
        found = outcomes(root, kernel, names)
        with console.status("booting") as status:
            seen = visited(kernel, found, status.update)
    except BespokeError as error:
        console.print(str(error), markup=False)
        return error.exit_status
    Console(width=None if sys.stdout.isatty() else 200).print(table(found, seen))
    return int(any(visit.problems for rows in seen.values() for visit in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
