"""What clang makes otherwise than gcc: hashes of kCFI before the entries, names of static locals.

The objects of the first are assembled as clang lays them out; those of the second need clang itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compare import View
from builder.pipeline import diff_objects
from tests.support.compiling import FLAGS, Build, builder

HASHED = """
.section .text.f,"ax",@progbits
.globl __cfi_f
.type __cfi_f,@function
__cfi_f: .fill 11,1,0x90
 movl $HASH, %eax
.size __cfi_f, . - __cfi_f
.globl f
.type f,@function
f: call __fentry__
 leal ADD(%rdi), %eax
 ret
.size f, . - f
.section __mcount_loc,"a"
.quad f
"""


@pytest.mark.parametrize(
    ("value", "add", "reason"),
    [("0x11223344", "1", ""), ("0x11223355", "1", "hash of its type"), ("0x11223344", "2", "leal")],
)
def test_the_hash_of_a_type_is_a_part_of_its_function(build: Build, value: str, add: str, reason: str) -> None:
    """An indirect call that finds another one before the entry stops the kernel."""
    old = build(HASHED.replace("HASH", "0x11223344").replace("ADD", "1"), language="assembler")
    new = build(HASHED.replace("HASH", value).replace("ADD", add), language="assembler")
    found = diff_objects(old, new)
    assert found.verdict == ("changed" if reason else "unchanged") and not found.judged.refusals
    assert all(reason in text for text in found.as_json()["reasons"].values())
    (function,) = View(new).functions
    assert (function.start, function.entry) == (0, 16)
    assert [atom.start for atom in found.selection.functions] == ([0] if reason else [])


@pytest.fixture
def by_clang(clang: str, tmp_path: Path) -> Build:
    return builder(clang, tmp_path, (*FLAGS, "-pg", "-mfentry"))


STATICS = """
extern int g(int);
int f(int x, int y) { int r = 0;
  { static int n; n += x; r += g(n); }
  { static int n; n -= y * 5; r ^= g(n + 7); }
  return r; }
int k(int x) { static int n; n += x; return n; }
"""


def test_the_first_of_several_statics_has_no_number_and_is_none_the_surer(by_clang: Build) -> None:
    lines = STATICS.splitlines()
    swapped = "\n".join([*lines[:3], lines[4], lines[3], *lines[5:]])
    found = diff_objects(by_clang(STATICS), by_clang(swapped))
    assert {(r.code, r.symbol) for r in found.judged.refusals} == {
        ("static-ambiguous", "f.n"),
        ("static-ambiguous", "f.n.1"),
    }


def test_a_static_of_clang_s_is_bound_to_the_original(by_clang: Build) -> None:
    found = diff_objects(by_clang(STATICS), by_clang(STATICS.replace("return n; }", "return n + 1; }")))
    assert found.verdict == "changed" and ["k.n", "object", "local"] in found.originals()
    assert diff_objects(by_clang(STATICS), by_clang(STATICS)).verdict == "unchanged"
