"""A function that stands in a section of its own has other padding inside than in the running code (runpre.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compose.owner import Objects
from builder.pipeline import ModulePlan, build, diff
from tests.support.compiling import TRACED, builder
from tests.support.kernels import opened

SOURCE = r"""
static const char own_name[] __attribute__((used, section(".modinfo"))) = "name=padded";
extern int _printk(const char *, ...) __attribute__((cold));
int before(int x) { return x + 1; }
int sum(const int *p, int n)
{
	int i, s = VALUE;

	if (n < 0) {
		_printk("below zero\n");
		n = 3;
	}
	for (i = 0; i < n; i++) {
		s += p[i] * i;
		if (__builtin_expect(s == 77, 0)) {
			_printk("seventy-seven %d\n", i);
			s++;
		}
	}
	return s;
}
"""
FLAGS = ("-falign-functions=16", "-falign-loops=32")


@pytest.mark.kernel
def test_a_jump_back_from_a_cold_part_is_told_by_its_instruction(gcc: str, tmp_path: Path, release_61: str) -> None:
    made = builder(gcc, tmp_path, TRACED)
    running = made(SOURCE, "-DVALUE=1", *FLAGS, "-fno-function-sections")
    old, new = (made(SOURCE, f"-DVALUE={value}", *FLAGS) for value in (1, 2))
    (there,) = (s for s in running.symbols if s.name == "sum")
    (here,) = (s for s in old.symbols if s.name == "sum")
    assert there.value % 32 == 16 and there.size != here.size and "sum.cold" in {s.name for s in old.symbols}
    paths = [tmp_path / str(number) / "unit.o" for number in (1, 2, 3)]
    module = build([diff(paths[1], paths[2])], Objects(opened(release_61), {"padded": paths[0]}), ModulePlan("fix"))
    assert module is not None and new.symbols
    assert [row.name for row in module.manifest.redirected] == ["sum"]
