"""`python -m tests.guest.carriers [PATCH ...]`: changes of real files without ftrace, whose callers are elsewhere.

Each patch of tests/guest/carriers is built, tried in a guest as its head says, and held against the image as GNU
objdump reads it: whoever calls or jumps to the original of a copy must be replaced, be a copy itself, or be gone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.acquire.packages import newest_kernel
from builder.acquire.tools import started
from builder.binary import Address, read_object
from builder.binary.kernel import Kernel
from builder.binary.manifest import Manifest
from samples.fixes import make_and_try, read_fix

FOLDER = Path(__file__).with_name("carriers")
_BRANCH = re.compile(rb"^\s*([0-9a-f]{8,16}):.*\b(?:call|jmp|j[a-z]{1,3})\s+(?:0x)?([0-9a-f]{8,16})\b")


def branches(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """(place, target) of every direct call and jump of the image."""
    with started(["objdump", "-d", "-w", "--no-show-raw-insn", kernel.vmlinux]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if (found := _BRANCH.match(line)) is not None:
                yield int(found[1], 16), int(found[2], 16)


def reaching(kernel: Kernel, manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    """Module -> what in vmlinux still leads to the original of one of its copies."""
    copies: dict[int, list[tuple[Manifest, str]]] = {}
    replaced: dict[str, set[int]] = {}
    for manifest in manifests:
        rows = [f for f in manifest.functions if f.object == "vmlinux" and f.old is not None and f.role != "child"]
        for row in rows:
            assert row.old is not None
            places = [s.address for s in kernel.symbols_named(row.old.name or row.name)]
            replaced.setdefault(manifest.name, set()).update(places)
            if not row.redirected:
                for entry in places:
                    copies.setdefault(entry, []).append((manifest, row.name))
    start, end = kernel.init_text_range()
    left: dict[str, list[str]] = {manifest.name: [] for manifest in manifests}
    for place, target in branches(kernel):
        for manifest, name in copies.get(target, ()):
            around = kernel.nearest(Address(place))
            parent = around and kernel.symbols_named(around.name.partition(".cold")[0])
            known = {s.address for s in parent or ()} | ({around.address} if around else set())
            if not known & replaced[manifest.name] and not start <= place < end:
                left[manifest.name].append(f"{around.name if around else hex(place)} leads to the old {name}")
    return left


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guest.carriers", description=__doc__.split("\n")[0])
    parser.add_argument("patches", nargs="*", type=Path, metavar="PATCH", help="default: all of tests/guest/carriers")
    parser.add_argument("--kernel", metavar="K", help="image or release (default: the newest 6.1)")
    options = parser.parse_args(arguments)
    kernel = Kernel.open(options.kernel or newest_kernel("6.1"))
    faults = 0
    manifests: list[Manifest] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in options.patches or sorted(FOLDER.glob("*.patch")):
            outcome = make_and_try(read_fix(path), kernel, Path(folder))
            faults += bool(outcome.failure)
            print(
                f"{path.stem:<10} {len(outcome.functions):3} functions  built {outcome.build_seconds:6.1f} s  "
                f"tried {outcome.try_seconds:5.1f} s  {outcome.failure or 'as it should be'}",
                flush=True,
            )
            module = Path(folder) / f"{path.stem}.ko"
            if module.exists() and (manifest := Manifest.within(read_object(module))) is not None:
                manifests.append(manifest)
        for name, rows in reaching(kernel, manifests).items():
            faults += bool(rows)
            print(f"{name:<14} {'; '.join(rows) or 'nothing leads to an old copy'}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
