"""A kprobe on every instruction of what real livepatches replace: their counts before, with and after it are compared.

    python -m tests.operate.campaign [NAME ...] [--release R] [--list]

The livepatches are the shared pairs of the running kernel for which a command is known that runs what they replace,
and the project's own sample patches, with a command that both versions treat alike. In a guest each instruction gets
an event, the command runs, the livepatch is loaded by `bespoke load` (in the guest, by the host's Python), the
command runs again, the livepatch is unloaded, and the command runs a last time. An event whose hits differ, and that
no report names, is a silent wrong count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from builder.acquire.compile import AS_USUAL
from builder.acquire.packages import fetch_kernel
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import Module
from builder.errors import Allowed, BespokeError
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.machine import TRACING
from builder.pipeline import ModulePlan, build, diff, patch
from samples.fixes import Fix, all_fixes
from tests.conftest import data_root
from tests.operate.chroot import MOUNTS, PLACE, python
from tests.running.pairs import ACCEPTED, RELEASE, module_name, places
from tests.running.triggers import TRIGGERS, Trigger
from tests.running.visit import NEVER_LEFT, command

_PLANT = f"""\
bad=0
while read -r line; do echo "$line" >> {TRACING}/kprobe_events 2>/dev/null || bad=$((bad+1)); done < /run/events
echo 1 > {TRACING}/events/c/enable && echo $bad
"""
COUNTED: Final = {
    "02-mtu-bounds": "for mtu in 1500 70000 65536; do ip link set lo mtu $mtu || exit 1; done",
    "04-hostname-off-by-one": "hostname another && hostname guest",
    "06-proc-task-inline": "for pid in 1 self; do cat /proc/$pid/comm /proc/$pid/status /proc/$pid/stat; done",
    "07-compact-memory-error": "echo 1 > /proc/sys/vm/compact_memory",
    "08-zram-limit-unlock": "cd /sys/block/zram0 && echo 8M > mem_limit && cat mem_limit && echo 0 > mem_limit",
}
"""For the project's patches that change what the command of their head shows by another path: one that the old and the
new code treat alike, so that what it runs can be counted."""
_HITS = f"cat {TRACING}/kprobe_profile"


@dataclass(frozen=True, slots=True)
class Livepatch:
    """One livepatch, what runs it, and the events: name -> place, one for each instruction of what it replaces."""

    name: str
    module: Module
    load: tuple[str, ...]
    command: str
    events: Mapping[str, str]


@dataclass
class Tally:
    """What was seen: events that ran, those reported, and those that were counted wrong in silence."""

    name: str
    planted: int = 0
    executed: int = 0
    moved: int = 0
    reported: int = 0
    unsteady: int = 0
    copied: int = 0
    wrong: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.planted} events, {self.executed} executed, {self.reported} of these reported, "
            f"{self.unsteady} unsteady, {len(self.wrong)} wrong with it, {len(self.after)} wrong after it"
        )
        return "\n    ".join([text, *self.wrong[:40], *self.after[:10], *self.problems])


def events_of(diffs: Sequence[Diff], module: Module) -> dict[str, str]:
    """An event for each instruction (and its place) of the old versions of what a module replaces."""
    rows = {(row.name, row.object): row for row in module.manifest.redirected}
    found: dict[str, str] = {}
    for compared in diffs:
        comparison = compared.comparison
        for atom in compared.selection.redirected:
            row = next((row for (name, _), row in rows.items() if name == atom.name), None)
            if row is None or row.old is None or row.old.sympos > 1:
                continue
            old = comparison.correlation.twins[atom]
            parts = [part for part in comparison.old_children.get(old, ()) if part.name in {p.name for p in row.parts}]
            for part, name in [(old, row.old.name), *((part, part.name) for part in parts)]:
                prefix = "" if row.object == "vmlinux" else f"{row.object}:"
                for insn in comparison.old.instructions(part):
                    offset = insn.offset - part.entry
                    found[f"e{len(found)}"] = f"{prefix}{name}+{offset}"
    return found


def shared(root: Path, kernel: Kernel) -> Iterator[tuple[str, Callable[[], Livepatch | None]]]:
    """The pairs that a command runs, without those that no transition to them ends."""
    for name, place in places(root).items():
        if name in TRIGGERS and name not in NEVER_LEFT:
            yield name, lambda name=name, place=place: _of_pair(name, place, kernel, TRIGGERS[name])  # type: ignore[misc]


def _of_pair(name: str, place: Path, kernel: Kernel, trigger: Trigger) -> Livepatch | None:
    allowed = Allowed(frozenset([ACCEPTED[name]] if name in ACCEPTED else []))
    compared = diff(place / "orig.o", place / "patched.o", allowed=allowed)
    module = build([compared], Objects(kernel), ModulePlan(module_name(name), allowed=allowed))
    if module is None:
        return None
    owners = tuple(owner for owner in module.manifest.objects if owner != "vmlinux")
    return Livepatch(name, module, (*owners, *trigger.modules), command(trigger), events_of([compared], module))


def samples(kernel: Kernel) -> Iterator[tuple[str, Callable[[], Livepatch | None]]]:
    """The project's own patches, each with the command of its head."""
    for fix in all_fixes():

        def make(fix: Fix = fix) -> Livepatch | None:
            tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
            made = patch([fix.path], tree, Objects(kernel), ModulePlan(f"fix_{fix.path.stem}"), AS_USUAL)
            if made.module is None:
                return None
            owners = tuple(owner for owner in made.module.manifest.objects if owner != "vmlinux")
            events = events_of(made.diffs, made.module)
            command = COUNTED.get(fix.path.stem, fix.command)
            return Livepatch(fix.path.stem, made.module, (*owners, *fix.load), command, events)

        yield fix.path.stem, make


def hits(guest: Guest) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in guest.check(_HITS, timeout=120).splitlines():
        words = line.split()
        found[words[0]] += int(words[1])
    return found


def visit(kernel: Kernel, patched: Livepatch) -> Tally:
    """Everything, in a guest of its own."""
    tally = Tally(patched.name)
    shares = [Share(Path("/"), PLACE)]
    with Guest(kernel, MachineConfig(memory_mb=2048, cmdline="secretmem.enable=1"), shares=shares) as guest:
        guest.check(MOUNTS)
        guest.check(f"mkdir -p /dev/pts && mount -t devpts none /dev/pts && mount --rbind /dev {PLACE}/dev")
        if patched.load:
            guest.modprobe(*patched.load)
        guest.put(f"{PLACE}/run/p.ko", patched.module.content)
        guest.put("/run/events", "".join(f"p:c/{name} {place}\n" for name, place in patched.events.items()).encode())
        guest.run(patched.command, timeout=120)  # what only the first time does
        refused = int(guest.check(_PLANT, timeout=300).split()[-1])
        tally.planted = len(patched.events) - refused

        def counted() -> Counter[str]:
            before = hits(guest)
            answer = guest.run(patched.command, timeout=180)
            if not answer.ok:
                tally.problems.append(f"the command failed: {answer.output.strip()[-200:]}")
            after = hits(guest)
            return Counter({name: after[name] - before[name] for name in after})

        mark = guest.mark()
        first, second = counted(), counted()
        steady = {name for name in patched.events if first[name] == second[name]}
        name = patched.module.name
        answer = python(guest, "-m", "builder", "load", "/run/p.ko", "--json", timeout=580)
        if not answer.ok:
            tally.problems.append(f"load: {answer.output.strip()[-400:]}")
            return tally
        loaded = json.loads(answer.output[answer.output.index("{") :])
        reported = {row["probe"].partition("/")[2]: row for row in loaded["reports"]}
        moved = Counter(row["event"].split()[0].partition("/")[2] for row in loaded["moved"])
        tally.copied = sum(count > 1 for count in moved.values())
        third = counted()
        answer = python(guest, "-m", "builder", "unload", name, "--json", timeout=580)
        if not answer.ok:
            tally.problems.append(f"unload: {answer.output.strip()[-400:]}")
        fourth = counted()
        for event, place in patched.events.items():
            if not first[event]:
                continue
            tally.executed += 1
            if event not in steady:
                tally.unsteady += 1
            elif event in reported:
                tally.reported += 1
            elif third[event] != first[event]:
                tally.wrong.append(f"{place}: {first[event]} before, {third[event]} with it, {moved[event]} places")
            if event in steady and fourth[event] != first[event]:
                tally.after.append(f"{place}: {first[event]} before, {fourth[event]} after")
        tally.moved = len(moved)
        tally.problems += [f"the kernel warned: {text}" for text in guest.warnings(mark)]
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.operate.campaign", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--list", action="store_true", help="only say their names")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    kernel = Kernel.open(fetch_kernel(RELEASE).image)
    found = [*shared(data_root(), kernel), *samples(kernel)]
    if options.list:
        console.print("\n".join(name for name, _ in found))
        return 0
    tallies = []
    for name, make in found:
        if options.names and name not in options.names:
            continue
        try:
            patched = make()
            if patched is None:
                console.print(f"{name}: nothing to ship", markup=False)
                continue
            tallies.append(visit(kernel, patched))
        except BespokeError as error:
            tallies.append(Tally(name, problems=[str(error)]))
        console.print(str(tallies[-1]), markup=False, highlight=False)
    executed = sum(t.executed for t in tallies)
    reported = sum(t.reported for t in tallies)
    wrong = sum(len(t.wrong) + len(t.after) for t in tallies)
    console.print(
        f"{len(tallies)} livepatches, {sum(t.planted for t in tallies)} events, {executed} executed: "
        f"{wrong} counted wrong in silence, {reported} reported ({reported / max(executed, 1):.1%}), "
        f"{sum(t.copied for t in tallies)} by several places"
    )
    return int(bool(wrong or any(t.problems for t in tallies)))


if __name__ == "__main__":
    sys.exit(main())
