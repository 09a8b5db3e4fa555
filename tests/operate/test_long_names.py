"""Names of functions of 1 to 120 characters, and modules of 55: whatever is planted in them can be taken out again."""

from __future__ import annotations

import pytest

from builder.binary import read_object
from builder.compare import View
from builder.image.guest import Guest
from builder.image.machine import KPROBE_EVENTS, TRACING, GuestHost
from builder.operate.kprobes import parse_events
from builder.operate.live import Live
from tests.conftest import needed
from tests.operate.versions import LONGEST, Probed, compiled

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.long]
TARGET = "t_".ljust(55, "y")
LENGTHS = (*range(1, 9), 20, 40, *range(52, 68), 100, 119, 120)
NAMES = tuple("q" * length for length in LENGTHS)
HEAD = """\
#include <linux/module.h>
#define WORK(name) static __attribute__((noipa)) int name(int x) { \\
    int y = READ_ONCE(seed) * 3; \\
    if (x > y) y = x - VERSION_OF_CODE * (int)sizeof(#name); \\
    WRITE_ONCE(seed, y); \\
    return y & 1; }
static int seed;
"""
TAIL = """\
module_param_cb(run, &operations, NULL, 0200);
MODULE_LICENSE("GPL");
"""
RUN = f"echo 1 > /sys/module/{TARGET}/parameters/run"


@pytest.fixture(scope="module")
def named(release_61: str, tmp_path_factory: pytest.TempPathFactory) -> Probed:
    place = tmp_path_factory.mktemp("named")
    calls = " ".join(f"sum += {name}(1);" for name in NAMES)
    run = f"static int run(const char *v, const struct kernel_param *p) {{ int sum = 0; {calls} return sum < 0; }}\n"
    rows = "".join(f"WORK({name})\n" for name in NAMES)
    (place / f"{TARGET}.c").write_text(
        f"{HEAD}{rows}{run}static const struct kernel_param_ops operations = {{ .set = run }};\n{TAIL}"
    )
    (place / "Kbuild").write_text(
        f"obj-m := {TARGET}.o\nccflags-y += -DVERSION_OF_CODE=$(VERSION_OF_CODE) -ffunction-sections -fdata-sections\n"
    )
    with needed():
        return compiled(release_61, TARGET, sorted(place.iterdir()))


def test_places_in_names_of_every_length_come_and_go(named: Probed) -> None:
    view = View(read_object(named.objects[0]))
    events = {
        f"p:n/e{len(name)}x{k} {TARGET}:{name}+{insn.offset - view.by_name[name].entry}"
        for name in NAMES
        for k, insn in enumerate(view.instructions(view.by_name[name])[1:4])
    }
    with Guest(named.kernel) as guest:
        assert guest.insmod(named.module, TARGET).ok
        host, mark = GuestHost(guest), guest.mark()
        for line in sorted(events):
            host.write(KPROBE_EVENTS, f"{line}\n", append=True)
        guest.check(f"echo 1 > {TRACING}/events/n/enable")
        for turn, version in enumerate((1, 2, 1)):  # builds of one name, in turn
            outcome = Live(host).load(named.build(0, version, LONGEST), "p.ko")
            assert outcome.reports == () and len(outcome.moved) == len(events)
            guest.check(RUN)
            # A place keeps its own hits: the originals have those of the turns before, the new ones one each.
            assert hits(host) == sorted([turn] * len(events) + [1] * len(events))
            Live(host).unload(LONGEST)
            guest.check(RUN)
            assert {event.spot.module for event in parse_events(host.read(KPROBE_EVENTS))} == {TARGET}
            assert hits(host) == [turn + 1] * len(events)
        assert guest.warnings(mark) == ()


def hits(host: GuestHost) -> list[int]:
    return sorted(int(line.split()[1]) for line in host.read(f"{TRACING}/kprobe_profile").splitlines())
