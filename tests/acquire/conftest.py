"""A kernel tree in miniature: laid out and built as kbuild does it, small enough to compile in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.source import SourceTree
from builder.acquire.toolchain import Compiler
from tests.conftest import need

FILES = {
    "include/linux/kconfig.h": "#define MINI 1\n",
    "include/linux/queue.h": (
        "struct queue {\n\tint head, tail;\n};\n\n"
        "static inline int queue_len(const struct queue *q)\n{\n\treturn q->head - q->tail;\n}\n\n"
        "static inline int queue_full(const struct queue *q)\n{\n\treturn queue_len(q) >= 8;\n}\n"
    ),
    "fs/local.h": "#define LOCAL 3\n#include <linux/queue.h>\n",
    "fs/read.c": '#include "local.h"\nint read_it(struct queue *q)\n{\n\treturn queue_full(q) + LOCAL;\n}\n',
    "fs/write.c": '#include "local.h"\nint write_it(struct queue *q)\n{\n\treturn queue_len(q) - LOCAL;\n}\n',
    "fs/part.c": "static int part(int x)\n{\n\treturn x * 5;\n}\n",
    "fs/whole.c": '#include "part.c"\nint whole(int x)\n{\n\treturn part(x);\n}\n',
    "drivers/net/card.c": '#include "../../fs/local.h"\nint card(void)\n{\n\treturn LOCAL * 100;\n}\n',
    "drivers/net/deep/chip.c": '#include "bus.h"\nint chip(void)\n{\n\treturn BUS;\n}\n',
    "drivers/net/deep/bus.h": '#include "../../common.h"\n#define BUS (COMMON + 1)\n',
    "drivers/common.h": "#define COMMON 7\n",
    "boot/start.c": '#include "clock.h"\nint first = CLOCK;\nint start(void)\n{\n\treturn 1;\n}\n',
    "boot/clock.h": "#define CLOCK 1\n",
    "fs/clock.c": (
        '#include "../boot/clock.h"\n#ifdef NEVER\n#include "never.h"\n#endif\n'
        "int clock(void)\n{\n\treturn CLOCK + 1;\n}\n"
    ),
    "fs/never.h": "#define NEVER_READ 1\n",
    "fs/again.c": '#define tick tick_again\n#include "tick.c"\n',
    "fs/hand.c": "int hand(void)\n{\n\treturn 12;\n}\n",
    "fs/tick.c": "int tick(void)\n{\n\treturn 60;\n}\n",
    "fs/unused.c": "int unused;\n",
    "fs/made.c": '#include "made-table.h"\nint made(void)\n{\n\treturn TABLE;\n}\n',
    "Kconfig": "",
}

LINE = (
    "\tset -e; trap 'rm -f {o}' HUP; gcc -Wp,-MMD,{d} -nostdinc -I./include -include ./include/linux/kconfig.h"
    " -fmacro-prefix-map=./= -O2 -fcf-protection=none -fno-asynchronous-unwind-tables {module} "
    " -DKBUILD_BASENAME='\"{base}\"' -DKBUILD_MODNAME='\"{name}\"' -c -o {o} {c}  ; "
    "scripts/basic/fixdep {d} {o} 'gcc -Wp,-MMD,{d} -c -o {o} {c}' > {cmd}\n"
)
BUILT_IN = ("fs/read", "fs/write", "fs/whole", "fs/made", "fs/clock", "fs/again", "fs/tick", "fs/hand")
#: objects that are part of nothing, and what they are compiled from
UNLINKED = {"boot/start": "boot/start", "boot/hand": "fs/hand"}
MODULES = {"drivers/net/card": "card", "drivers/net/deep/chip": "chip:chip_lite"}


def _line(path: str, name: str, module: str, source: str = "") -> str:
    folder, _, base = path.rpartition("/")
    return LINE.format(
        o=f"{path}.o",
        c=f"{source or path}.c",
        d=f"{folder}/.{base}.o.d",
        cmd=f"{folder}/.{base}.o.cmd",
        base=base,
        name=name,
        module=module,
    )


def makefile() -> str:
    lines = [_line(path, path.rpartition("/")[2], "") for path in BUILT_IN]
    lines += [_line(path, path.rpartition("/")[2], "", source) for path, source in UNLINKED.items()]
    lines += [_line(path, name, "-DMODULE") for path, name in MODULES.items()]
    listed = " ".join(f"{path.removeprefix('fs/')}.o" for path in BUILT_IN)
    archive = f'\tset -e; rm -f fs/built-in.a; printf "fs/%s " {listed} | xargs ar cDPrST fs/built-in.a\n'
    made = "fs/made.o:\n\techo '#define TABLE 9' > fs/made-table.h\n"
    return f".PHONY: ./\n./:\n{''.join(lines)}{archive}\n{made}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path, cache: Path) -> SourceTree:
    """The miniature tree, prepared; skips without gcc and make."""
    return mini_tree(tmp_path / "mini")


def mini_tree(root: Path) -> SourceTree:
    """The miniature tree, made at `root`; its cache is that of the environment."""
    need("gcc", "make")
    for name, text in {**FILES, "Makefile": makefile()}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".bespoke").mkdir()
    compiler = Compiler(command="gcc", version="gcc (Mini) 1", expected="gcc (Mini) 1")
    return SourceTree(
        release="6.1.0-mini", place=root, identity="mini", kernel_version="6.1.1", compiler=compiler, drift=()
    )
