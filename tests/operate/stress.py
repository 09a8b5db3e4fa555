"""Load and unload a livepatch many times in a guest, under load, with many probes: slow, so a command of its own.

    python -m tests.operate.stress [--release R] [--cycles 200] [--probes 50]

Prints what was counted, and fails if a probe was lost or doubled or the kernel said anything.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from builder.acquire.packages import newest_kernel
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.machine import KPROBE_EVENTS, TRACING, GuestHost
from builder.operate.kprobes import parse_events
from builder.operate.trail import manifest_of
from tests.operate.chroot import MOUNTS, PLACE, python
from tests.operate.scene import facts
from tests.operate.versions import NAME, probed

PROC = f"/proc/{NAME}"
_PORTION = 20
LOAD = (
    f"(while [ -e /run/go ]; do echo 1 20 > {PROC}; echo 3 5 > {PROC}; done; echo done > /run/done) > /dev/null 2>&1 &"
)
PLANT = """\
cat /run/events > {tracing}/kprobe_events || exit 1
for event in {tracing}/events/s/*/; do
    [ -d $event ] && echo hist:keys=common_type > $event/trigger && echo 1 > $event/enable
done
"""
HITS = "cd {tracing}/events/s && for e in */; do echo ${{e%/}} $(sed -n 's/.*Hits: //p' $e/hist); done"


def places(module: bytes, count: int) -> list[str]:
    """Places that the map knows, over and over until there are enough."""
    rows = [
        (name, cells.old_offset)
        for row in manifest_of(module, "module").functions
        if row.map is not None and row.old is not None
        for name, table in ((row.old.name, row.map), *((part.name, part.map) for part in row.parts))
        for cells in table
        if cells.old_offset or name != row.old.name
    ]
    return [f"{NAME}:{name}+{offset}" for name, offset in itertools.islice(itertools.cycle(rows), count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--probes", type=int, default=50)
    options = parser.parse_args()
    made = probed(options.release or newest_kernel("6.1"))
    module = made.build(0, 1, "p1")
    with Guest(made.kernel, MachineConfig(smp=2, memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        guest.put(f"{PLACE}/run/p1.ko", module)
        host = GuestHost(guest)
        assert guest.insmod(made.module, NAME).ok
        lines = [f"p:s/p{k} {place}" for k, place in enumerate(places(module, options.probes))]
        guest.put("/run/events", "".join(f"{line}\n" for line in lines).encode())
        guest.check(PLANT.format(tracing=TRACING))

        def hits() -> dict[str, int]:
            rows = guest.check(HITS.format(tracing=TRACING)).split()
            return {name: int(value) for name, value in zip(rows[::2], rows[1::2], strict=True)}

        def by(kind: int) -> dict[str, int]:
            before = hits()
            guest.check(f"echo {kind} 1 > {PROC}")
            return {name: value - before[name] for name, value in hits().items()}

        plain, rare = by(1), by(3)
        mark, started = guest.mark(), time.monotonic()
        # Each probe that goes waits for a grace period, which is most of a cycle's time and not what is tried here.
        guest.check(f"echo 1 > /sys/kernel/rcu_expedited; touch /run/go; {LOAD}")
        for done in range(0, options.cycles, _PORTION):
            count = min(_PORTION, options.cycles - done)
            words = ("-m", "tests.operate.cycles", "/run/p1.ko", str(count), str(options.probes))
            answer = python(guest, *words, timeout=2400)
            assert answer.ok, answer.output
            print(f"{done + count} cycles, {time.monotonic() - started:.0f} s", flush=True)
        guest.check("rm /run/go; while [ ! -e /run/done ]; do sleep 0.1; done", timeout=120)
        seen = facts(host.read(PROC))
        rares = seen["rarities"] // 2
        expected = {name: plain[name] * (seen["calls"] - rares) + rare[name] * rares for name in plain}
        found, warnings = hits(), guest.warnings(mark)
        planted = len(parse_events(host.read(KPROBE_EVENTS)))
    wrong = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
    total = sum(found.values())
    print(f"{options.cycles} cycles with {options.probes} probes under {seen['calls']} calls: {total} hits")
    print(f"{len(wrong)} events counted wrong, {planted} places planted at the end, {len(warnings)} kernel warnings")
    for name, (got, want) in wrong.items():
        print(f"  {name}: {got} instead of {want}")
    return 1 if wrong or warnings or planted != options.probes else 0


if __name__ == "__main__":
    sys.exit(main())
