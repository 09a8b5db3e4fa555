"""What marks add up, as it is drawn while they count."""

from __future__ import annotations

import re
import time
from io import StringIO

from builder.image.marks import MarkTotals, parse_record
from builder.report.records import drawn_totals, record_line, render_totals
from builder.report.spelled import Screen


def totals(count: int) -> MarkTotals:
    return MarkTotals("sizes", "f.c:1 f", "hist", 1, True, count, count, 7 * count, 0, {3: count, 5: 2 * count})


def test_a_histogram_is_drawn_again_as_it_grows_below_what_is_printed() -> None:
    out = StringIO()
    screen = Screen(file=out, force_terminal=True, width=100)
    count = 0

    def grown() -> list[MarkTotals]:
        nonlocal count
        count += 1
        return [totals(count)]

    record = parse_record("7 0 1000 sizes\tfrom=m:1\tcomm='cat\tn=3")
    assert record is not None
    with drawn_totals(screen, grown):
        time.sleep(0.7)
        screen.print(record_line(record))
        time.sleep(0.7)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    seen = [int(found) for found in re.findall(r"4\.\.7 +(\d+) \|@{20} {20}\|", shown)]
    assert len(set(seen)) >= 3 and seen == sorted(seen) and "n=3" in shown


def test_a_histogram_has_a_line_for_each_power_of_two_between_the_least_and_the_most() -> None:
    out = StringIO()
    Screen(file=out, width=100).print(render_totals([totals(10)]))
    _, *lines = out.getvalue().splitlines()
    assert [re.findall(r"\S+", line)[:2] for line in lines] == [["4..7", "10"], ["8..15", "0"], ["16..31", "20"]]
    assert [line.count("@") for line in lines] == [20, 0, 40]
