"""Small real objects: texts of C compiled as the kernel compiles its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from builder.binary import ObjectFile, read_object

FLAGS = (
    "-c", "-std=gnu11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-mcmodel=kernel",
    "-mno-red-zone", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-stack-protector",
    "-fno-strict-aliasing", "-mno-sse", "-w",
)  # fmt: skip
TRACED = (*FLAGS, "-pg", "-mfentry", "-mrecord-mcount")
"""The same with an ftrace location at the entry of each function."""

Build = Callable[..., ObjectFile]


def builder(gcc: str, folder: Path, always: Sequence[str] = FLAGS, *, name: str | None = None) -> Build:
    """`build(source, *flags, language="c")`: the object of one text (`language="assembler"` for such).

    Each is made in a directory of its own in `folder` from a file of always the
    same name, so that `__FILE__` and the FILE symbol are equal. `name` is what
    the objects are called, by default their paths.
    """
    count = 0

    def build(source: str, *flags: str, language: str = "c") -> ObjectFile:
        nonlocal count
        count += 1
        place = folder / str(count)
        place.mkdir()
        (place / "unit.c").write_text(source)
        command = [gcc, *always, *flags, "-x", language, "unit.c", "-o", "unit.o"]
        run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return read_object(place / "unit.o", name=name)

    return build
