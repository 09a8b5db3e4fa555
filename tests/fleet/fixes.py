"""Twenty fixes for a fleet: the ten samples, and ten that are made of the sources of an older and a newer kernel.

Of these, two are what the newer kernel has over the older one, two need a variant for the older, one changes a
Makefile, one is for a driver that not every flavour has, and one is a series. Four need a variant for Linux 6.12.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builder.acquire.source import SourceTree
from samples.fixes import PATCHES

#: name of a fix -> file, text that stands in it once, text that takes its place
CHANGES: Final[Mapping[str, tuple[str, str, str]]] = {
    "13-keepalive": ("net/ipv4/tcp_timer.c", "\tu32 elapsed;\n\n\t/* Only process if socket is not in use. */\n",
                     "\tu32 elapsed;\n\n\tif (WARN_ON_ONCE(!tp))\n\t\treturn;\n\n"
                     "\t/* Only process if socket is not in use. */\n"),
    "14-readahead": ("mm/filemap.c", "\t\tra->size = HPAGE_PMD_NR;\n", "\t\tra->size = HPAGE_PMD_NR | 1;\n"),
    "15-makefile": ("fs/proc/Makefile", "proc-y\t+= uptime.o\n", "proc-y\t+= uptime.o more.o\n"),
    "16-driver": ("drivers/net/ppp/ppp_async.c", "\tap->tpkt_pos = 0;\n\n\tppp_async_push(ap);\n\treturn 1;\n",
                  "\tap->tpkt_pos = 0;\n\n\tppp_async_push(ap);\n\treturn 2;\n"),
    "17-uptime": ("fs/proc/uptime.c", '"%lu.%02lu %lu.%02lu\\n"', '"%lu.%02lu %lu.%02lu s\\n"'),
    "18-loadavg": ("fs/proc/loadavg.c", "get_avenrun(avnrun, FIXED_1/200, 0)", "get_avenrun(avnrun, FIXED_1/100, 0)"),
    "20-devices": ("fs/proc/devices.c", "Character devices:", "Devices of characters:"),
}  # fmt: skip

SERIES: Final = (("fs/proc/cmdline.c", "seq_putc(m, '\\n')", 'seq_puts(m, " \\n")'),
                 ("fs/proc/cmdline.c", "seq_puts(m, saved_command_line);\n",
                  'seq_puts(m, "now: ");\n\tseq_puts(m, saved_command_line);\n'))  # fmt: skip

HAD: Final = {"11-auxv": "kernel/sys.c", "12-ipip-drop": "net/ipv4/ipip.c"}
"""What the newer kernel has: the first hunk that tells the two sources apart."""

VARIED: Final = ("13-keepalive", "14-readahead")

OTHER: Final = "6.12"
"""The releases of another series that have variants of their own."""

CHANGES_OTHER: Final[Mapping[str, tuple[str, str, str]]] = {
    "01-meminfo-string": ("fs/proc/meminfo.c", '"Percpu:         "', '"PerCpu:         "'),
    "03-driver-override-null": ("drivers/base/bus.c", 'sysfs_emit(buf, "%s\\n", dev->driver_override.name)',
                                'sysfs_emit(buf, "%s\\n", dev->driver_override.name ?: "")'),
    "07-compact-memory-error": ("mm/compaction.c", "\tif (sysctl_compact_memory != 1)\n",
                                "\tif (write && sysctl_compact_memory != 1)\n"),
}  # fmt: skip

HAD_OTHER: Final = {
    "12-ipip-drop": ("net/ipv4/ipip.c", "\t\t\tif (!tun_dst)\n\t\t\t\treturn 0;\n",
                     "\t\t\tif (!tun_dst)\n\t\t\t\tgoto drop;\n"),
}  # fmt: skip


def write_fixes(folder: Path, older: SourceTree, newer: SourceTree, release: str, other: SourceTree | None) -> None:
    """Write all twenty into `folder`; `release` is that of the older kernel, `other` a source of Linux 6.12."""
    folder.mkdir(parents=True)
    for sample in sorted(PATCHES.glob("*.patch")):
        shutil.copy(sample, folder)
    for name, (path, old, new) in CHANGES.items():
        _write(folder / f"{name}.patch", newer, path, old, new)
        if name in VARIED:
            _write(folder / f"{name}.{release}.patch", older, path, old, new)
    for name, path in HAD.items():
        before, after = ((tree.root / path).read_text() for tree in (older, newer))
        (folder / f"{name}.patch").write_text(_first_hunk(_diff(path, before, after)))
    if other is not None:
        for name, (path, old, new) in CHANGES_OTHER.items():
            _write(folder / f"{name}.{OTHER}.patch", other, path, old, new, head=_head(folder / f"{name}.patch"))
        for name, (path, old, new) in HAD_OTHER.items():
            text = (other.root / path).read_text()
            (folder / f"{name}.{OTHER}.patch").write_text(_diff(path, _once(text, new, old), text))
    series = folder / "19-cmdline"
    series.mkdir()
    text = (newer.root / SERIES[0][0]).read_text()
    for number, (path, old, new) in enumerate(SERIES):
        changed = _once(text, old, new)
        (series / f"{number}.patch").write_text(_diff(path, text, changed))
        text = changed
    (series / "series").write_text("0.patch\n1.patch\n")


def _head(patch: Path) -> str:
    """What a patch says of itself, for its variants."""
    return patch.read_text().partition("--- ")[0]


def _write(place: Path, tree: SourceTree, path: str, old: str, new: str, head: str = "") -> None:
    text = (tree.root / path).read_text()
    place.write_text(head + _diff(path, text, _once(text, old, new)))


def _once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _diff(path: str, old: str, new: str) -> str:
    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, f"a/{path}", f"b/{path}"))


def _first_hunk(text: str) -> str:
    head, first, *_ = text.split("\n@@ ")
    return f"{head}\n@@ {first}".rstrip("\n") + "\n"
