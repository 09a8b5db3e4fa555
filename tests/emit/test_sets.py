"""What exchanges words of running variables: the glue's own code, run here on variables of a program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.arch import by_machine
from builder.binary import elf
from builder.emit.glue import SET_ROW, GlueObject, GlueParts, GlueSets, glue_source
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel

PROGRAM = """
#include <stdio.h>
static signed char a = 1; static short b = 2; static int c = 3; static long d = 4; static char beside = 7;
static int ran;
struct row { void *place; unsigned long old, new, width; };
struct row first[] = { { &a, 1, 0x81, 1 }, { &b, 2, 0x8002, 2 } };
struct row second[] = { { &c, 3, 0x80000003, 4 }, { &d, 4, -5ul, 8 } };
int bespoke_put_0(void); void bespoke_put_back_0(void); void bespoke_put_back_after_0(void);
void own(void) { ran++; }
static void show(int said) { printf("%d: %d %d %d %ld %d %d\\n", said, a, b, c, d, beside, ran); }
int main(void)
{
    show(bespoke_put_0());
    d = 6;                           /* somebody sets another value meanwhile: it stays */
    bespoke_put_back_after_0(); show(0);
    show(bespoke_put_0());           /* the last one does not hold the old value: the others are put back */
    d = 4; a = 9;
    show(bespoke_put_0());           /* nor does the first */
    a = 1; c = 8;
    show(bespoke_put_0());           /* nor does one in the middle */
    return 0;
}
"""
SHOWN = """0: -127 -32766 -2147483645 -5 7 0
0: 1 2 3 6 7 1
-16: 1 2 3 6 7 1
-16: 9 2 3 4 7 1
-16: 1 2 8 4 7 1
"""


def test_words_of_all_widths_are_exchanged_together_or_not_at_all(gcc: str, tmp_path: Path, release_61: str) -> None:
    machine = by_machine(elf.EM_X86_64, where="").glue
    parts = [GlueSets("first", 2), GlueSets("second", 2)]
    owner = GlueObject(None, (), {"post_unpatch": "own"}, (), parts)
    source = glue_source(opened(release_61), machine, GlueParts("fix", [owner]))
    start = source.index("	# One word of a running variable")
    code = "	.text\n	.globl bespoke_put_0, bespoke_put_back_0, bespoke_put_back_after_0\n"
    code += source[start : source.index("	.section .init.text", start)]
    code += '__x86_return_thunk:\n	ret\n	.section .note.GNU-stack, "", @progbits\n'
    (tmp_path / "glue.s").write_text(code)
    (tmp_path / "main.c").write_text(PROGRAM)
    command = [gcc, "-no-pie", "-fno-pie", "-w", "-o", "program", "main.c", "glue.s"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True).stdout == SHOWN
    assert SET_ROW.size == 32
