"""Constants that headers are generated from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from builder.acquire.generated import changed_values, generators, tree_generators
from builder.acquire.source import SourceTree
from builder.acquire.tree_state import keep_state

SOURCE = '#include "size.h"\nvoid f(void) { asm volatile("\\n.ascii \\"->SIZE %0 sizeof\\"" : : "i" (SIZE)); }\n'
RECORD = (
    "cmd_kernel/bounds.s := gcc -Wp,-MMD,kernel/.bounds.s.d -Iinclude -O2 -S -o kernel/bounds.s"
    " kernel/bounds.c\n\n"
    "source_kernel/bounds.s := kernel/bounds.c\n\ndeps_kernel/bounds.s := \\\n  include/size.h \\\n\n"
)


@pytest.fixture
def places(tree: SourceTree, tmp_path: Path) -> tuple[Path, Path]:
    for place, size in ((tree.root, 8), (tmp_path / "shadow", 16)):
        (place / "kernel").mkdir(parents=True)
        (place / "include").mkdir(exist_ok=True)
        (place / "kernel/bounds.c").write_text(SOURCE)
        (place / "include/size.h").write_text(f"#define SIZE {size}\n")
    (tree.root / "kernel/.bounds.s.cmd").write_text(RECORD)
    return tree.root, tmp_path / "shadow"


def test_a_changed_constant_is_named(places: tuple[Path, Path], tmp_path: Path) -> None:
    texts = generators(places[0])
    assert changed_values(*places, tmp_path, texts) == [("kernel/bounds.c", "->SIZE $8 sizeof", "->SIZE $16 sizeof")]


def test_what_reads_no_changed_file_is_not_compiled(places: tuple[Path, Path], tree: SourceTree) -> None:
    assert tree_generators(tree, ["include/other.h"]) == []
    assert tree_generators(tree, ["include/size.h"]) == generators(places[0])


def test_the_records_are_read_again_with_another_state(places: tuple[Path, Path], tree: SourceTree) -> None:
    keep_state(tree.root)
    first = tree_generators(tree, ["include/size.h"])
    record = places[0] / "kernel/.bounds.s.cmd"
    record.unlink()
    assert tree_generators(tree, ["include/size.h"]) == first != []
    time.sleep(0.02)
    keep_state(tree.root)
    assert tree_generators(tree, ["include/size.h"]) == []
