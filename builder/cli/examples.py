"""What the help of each command shows of its use: (command line, what it does); tests/cli/test_help.py parses them."""

from __future__ import annotations

from typing import Final

_K = "--kernel 6.1.0-56-amd64"

EXAMPLES: Final = {
    "diff": (
        ("bespoke diff old.o new.o", "what changed, and whether it can ship"),
        ("bespoke diff old/ new/ -j 4 --html report.html", "two trees of objects, as a page"),
        ("bespoke diff old.o new.o --function proc_show", "one function, both versions side by side"),
    ),
    "build": (
        (f"bespoke build old.o new.o {_K} -o fix.ko", "the module of one pair"),
        (f"bespoke build old.o new.o {_K} --object mine=mine.ko -o fix.ko", "for a module of your own"),
        (f"bespoke build old.o new.o {_K} --allow init-changed:start -o fix.ko", "accept one refusal"),
    ),
    "patch": (
        (f"bespoke patch fix.patch {_K} -o fix.ko", "from a source patch; the source is fetched"),
        (f"bespoke patch patches/series --each {_K} -o out/all.ko", "a module for each patch"),
    ),
    "mark": (
        (f"bespoke mark vfs_open 'path->dentry->d_iname' {_K} -o opens.ko", "record a C expression"),
        (f"bespoke mark do_sys_openat2%return '$retval' --if '$retval < 0' {_K} -o x.ko", "only failures"),
        (f"bespoke mark vfs_write --hist count {_K} -o sizes.ko", "a histogram"),
    ),
    "check": (
        (f"bespoke check fix.ko {_K}", "load it into a simulated kernel"),
        (f"bespoke check fix.ko {_K} --cpu max --cpu Skylake-Server", "on two CPU models"),
    ),
    "inspect": (
        ("bespoke inspect fix.ko", "what it contains, whoever made it"),
        ("bespoke inspect one.ko two.ko", "what the second does otherwise"),
    ),
    "explain": (("bespoke explain data-changed", "what the code means, and the way out"),),
    "package": (
        ("bespoke package fix.ko --deb -o . --maintainer 'A Person <a@example.com>'", "a Debian package"),
        ("bespoke package a.ko b.ko --dir -o tree", "two livepatches, the files only"),
    ),
    "fidelity": ((f"bespoke fidelity {_K}", "the simulated loader against the kernel's own"),),
    "try": ((f"bespoke try fix.ko {_K} --run 'cat /proc/version'", "a command before, with and after it"),),
    "load": (("bespoke load fix.ko", "on this machine; probes follow"),),
    "unload": (("bespoke unload fix", "disable and remove it"),),
    "status": (
        ("bespoke status", "the livepatches of this machine"),
        ("bespoke status --repair", "after something was killed"),
    ),
    "watch": (("bespoke watch opens", "the records of its marks, until Ctrl-C"),),
    "probe": (("bespoke probe do_sys_openat2+0x5 --name inside", "counts whichever version runs"),),
    "cache": (
        ("bespoke cache -v", "each entry, the last used first"),
        ("bespoke cache --prune 10G", "away with what was used least recently"),
    ),
    "completion": (("bespoke completion bash > ~/.local/share/bash-completion/completions/bespoke", "for bash"),),
}


def shown(command: str) -> str:
    """The examples of a command as its help ends with them; nothing where there are none."""
    rows = EXAMPLES.get(command, ())
    return "\n".join(("examples:", *(f"  {line}\n      {what}" for line, what in rows))) if rows else ""
