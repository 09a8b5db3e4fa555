"""The headers of the authors' kit: where they are put, and where a tree or a patch has its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.kit import kit_for

ALL = {
    "include/bespoke.h",
    "include/kpatch-macros.h",
    "include/kpatch-syscall.h",
    "include/linux/livepatch_helpers.h",
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"int f(void);\n", set()),
        (b'// #include "kpatch-macros.h"\n#include "my-kpatch-macros.h"\n', set()),
        (b'int f(void);\n#include "kpatch-macros.h"\n', ALL),
        (b"# include <linux/livepatch_helpers.h>\n", ALL),
    ],
)
def test_only_who_includes_one_gets_them(tmp_path: Path, text: bytes, wanted: set[str]) -> None:
    assert set(kit_for({"fs/aio.c": text, "fs/gone.c": None}, tmp_path.joinpath)) == wanted


def test_what_is_there_stays(tmp_path: Path) -> None:
    """A newer kernel has the header itself, and a patch may bring one."""
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/livepatch_helpers.h").touch()
    changed = {"fs/aio.c": b'#include "bespoke.h"\n', "include/kpatch-macros.h": b"// the patch's own\n"}
    assert set(kit_for(changed, tmp_path.joinpath)) == {"include/bespoke.h", "include/kpatch-syscall.h"}
