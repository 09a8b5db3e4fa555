"""The simulation: the real scheduler on a clock that leaps."""

from __future__ import annotations

import time

from builder.fleet.simulate import Load, simulated


def test_hours_pass_in_seconds() -> None:
    load = Load((60.0, 60.0), ((100.0,) * 30, (200.0,) * 30))
    started = time.monotonic()
    found = simulated(load, 4)
    assert (found.cells, found.kernels, found.work) == (60, 2, 9120.0)
    assert found.ideal == 2280.0 and 1.0 <= found.makespan / found.ideal < 1.3
    assert time.monotonic() - started < found.makespan / 4


def test_no_schedule_is_better_than_its_longest_part() -> None:
    assert Load((10.0, 1.0), ((5.0,), (1.0, 2.0))).ideal(100) == 15.0
    assert Load((10.0, 1.0), ((5.0,), (1.0, 2.0))).ideal(1) == 19.0
