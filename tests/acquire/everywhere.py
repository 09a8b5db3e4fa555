"""Empty marks at every statement and return of whole files: the code must stay what it is.

    python -m tests.acquire.everywhere [--kernel K] [FILE ...]

This is what says that a mark changes nothing but for what it records: whatever a statement is to a parser that does not
know the macros, what is put before it must leave all others where control reaches them as before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.acquire.compile import Compiling
from builder.acquire.marks.edits import applied, as_patch, file_edits
from builder.acquire.marks.place import MarkPlace, MarkSpot, find_spots
from builder.acquire.marks.syntax import SourceText
from builder.acquire.packages import newest_kernel
from builder.acquire.patch import prepare_patch
from builder.acquire.source import SourceTree
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.errors import BespokeError, RefusedError
from builder.pipeline import diff

FILES = (
    "fs/namei.c", "fs/exec.c", "fs/ext4/inode.c", "fs/proc/base.c", "kernel/fork.c", "kernel/sched/core.c",
    "kernel/futex/waitwake.c", "mm/memory.c", "mm/page_alloc.c", "mm/vmscan.c", "net/core/dev.c",
    "net/ipv4/tcp_input.c", "net/ipv4/tcp.c", "block/blk-mq.c", "block/bio.c", "crypto/algapi.c", "lib/vsprintf.c",
    "lib/xarray.c",
    "drivers/block/loop.c", "drivers/net/virtio_net.c", "security/commoncap.c", "arch/x86/kernel/apic/apic.c",
    "kernel/bpf/verifier.c", "fs/xfs/xfs_inode.c",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Everywhere:
    """What came of one file: marked places, functions whose code is another with marks at all statements, those that
    have it with all returns too (a value is converted in another order), and lines that could not be marked."""

    path: str
    places: int
    changed: tuple[str, ...]
    by_returns: tuple[str, ...]
    refused: int
    lines: int


def spots_of(source: SourceText) -> tuple[list[MarkSpot], int, int]:
    """A spot at each statement and return of a file, and how many lines with a statement were refused, of how many."""
    found: dict[tuple[int, str], MarkSpot] = {}
    refused = lines = 0
    for function in source.functions:
        begun = {node.start_point[0] + 1 for node in function.statements() if node.type != "compound_statement"}
        places = [MarkPlace(f"{source.path}:{line}", source.path, line) for line in sorted(begun)]
        for place in [*places, MarkPlace(f"{function.name}%return", function=function.name, returns=True)]:
            lines += bool(place.line)
            try:
                for spot in find_spots(place, source, function):
                    found.setdefault((spot.start, spot.how), spot)
            except RefusedError:
                refused += bool(place.line)
    return list(found.values()), refused, lines


def mark_everywhere(path: str, tree: SourceTree) -> Everywhere:
    """Compile a file with an empty block at each place, and say what is different."""
    source = SourceText(path, (tree.root / path).read_bytes())
    spots, refused, lines = spots_of(source)
    changed = _changed(source, [spot for spot in spots if spot.how != "return"], tree)
    by_returns = [name for name in _changed(source, spots, tree) if name not in changed]
    return Everywhere(path, len(spots), tuple(changed), tuple(by_returns), refused, lines)


def _changed(source: SourceText, spots: Sequence[MarkSpot], tree: SourceTree) -> list[str]:
    """The functions that are compiled to other code with an empty block at each of the spots."""
    text = applied(source.text, file_edits((spot, ["{ }"]) for spot in spots)[source.path])[0]
    with TemporaryDirectory() as folder:
        patch = Path(folder) / "everywhere.patch"
        patch.write_text(as_patch({source.path: (source.text, text)}, "everywhere"), errors="surrogateescape")
        found = prepare_patch([patch], tree, how=Compiling())
    changed: list[str] = []
    for pair in found.pairs:
        comparison = diff(pair.old, pair.new, shifts=found.shifts).comparison
        changed += [atom.name for atom in (*comparison.changed, *comparison.new_functions)]
    return list(dict.fromkeys(changed))


def main(arguments: Sequence[str]) -> int:
    """Each file; the exit status is 0 when nothing changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.acquire.everywhere", description=__doc__.split("\n")[0])
    parser.add_argument("--kernel", metavar="K", help="image or release (default: the newest 6.1)")
    parser.add_argument("files", nargs="*", default=FILES, metavar="FILE")
    options = parser.parse_args(arguments)
    wrong = False
    try:
        kernel = Kernel.open(options.kernel or newest_kernel("6.1"))
        tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for path in options.files:
        try:
            one = mark_everywhere(path, tree)
        except BespokeError as error:
            print(f"{path}: {error}", flush=True)
            wrong = True
            continue
        wrong |= bool(one.changed)
        what = f"changed: {', '.join(one.changed)}" if one.changed else "the code is the same"
        what += f"; with returns: {', '.join(one.by_returns)}" if one.by_returns else ""
        print(f"{path}: {one.places} places, {one.refused} of {one.lines} lines refused; {what}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
