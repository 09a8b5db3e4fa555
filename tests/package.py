"""The sdist and the wheel as a user gets them: built, checked, installed into a fresh environment, and used.

`tox -e package` runs `python -m tests.package [DIR]`; what is built stays in DIR (default: `dist`). It needs gcc and
a package index. `test_package.py` is the part of it that needs no network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.compiling import TRACED

ROOT = Path(__file__).resolve().parent.parent
SOURCE = 'int printk(const char *format, ...);\nint f(int x)\n{{\n\tprintk("f");\n\treturn x + {};\n}}\n'
QUICK = ("tests/arch", "tests/binary", "tests/report", "tests/test_layers.py", "tests/test_glossary.py")
"""Tests that run from the unpacked sdist: their files are there, and those of what they test."""


def run(*command: object, cwd: Path, status: int = 0) -> str:
    """The standard output; the end of everything unless the exit status is the one that is meant."""
    print("$", *command, flush=True)
    done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != status:
        sys.exit(f"{done.stdout}exit status {done.returncode}, not {status}")
    return done.stdout


def unpacked(sdist: Path, place: Path) -> Path:
    """The sdist's own directory, unpacked in `place`."""
    place.mkdir(exist_ok=True)
    # Debian 12's Python 3.11.2 has no filter for tarfile yet.
    subprocess.run(["tar", "-xf", sdist, "-C", place], check=True)
    (root,) = place.iterdir()
    return root


def build(out: Path, scratch: Path) -> tuple[Path, Path]:
    """The sdist and the wheel of it; the wheel made from the tree itself must be the same, byte for byte."""
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=scratch)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", scratch, ROOT, cwd=scratch)
    (again,) = scratch.glob("*.whl")
    sdist, wheel = out / again.name.replace("-py3-none-any.whl", ".tar.gz"), out / again.name
    if wheel.read_bytes() != again.read_bytes():
        sys.exit("the wheel made from the sdist is not the one made from the tree")
    return sdist, wheel


def use(wheel: Path, scratch: Path) -> None:
    """Install the wheel and nothing else of ours, and compare a pair that is compiled on the spot."""
    run(sys.executable, "-m", "venv", scratch / "venv", cwd=scratch)
    run(scratch / "venv/bin/pip", "install", "--quiet", wheel, cwd=scratch)
    bespoke = scratch / "venv/bin/bespoke"
    print(run(bespoke, "--version", cwd=scratch), end="")
    for name, constant in (("old", 1), ("new", 2)):
        (scratch / name).mkdir()
        (scratch / name / "unit.c").write_text(SOURCE.format(constant))
        run("gcc", *TRACED, "unit.c", "-o", "unit.o", cwd=scratch / name)
    pair = ("old/unit.o", "new/unit.o")
    # The page is made from the templates, which stand elsewhere in the tree than in the wheel.
    print(run(bespoke, "diff", *pair, "--html", "page.html", cwd=scratch), end="")
    if "</html>" not in (scratch / "page.html").read_text():
        sys.exit("the page is not whole")
    run(bespoke, "diff", "old/unit.o", "old/unit.o", cwd=scratch, status=3)


def main(out: Path) -> None:
    os.environ.setdefault("SOURCE_DATE_EPOCH", run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip())
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        sdist, wheel = build(out.resolve(), scratch)
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=scratch)
        use(wheel, scratch)
        tree = unpacked(sdist, scratch / "sdist")
        run(sys.executable, "-m", "pytest", "--quiet", "--collect-only", cwd=tree)
        print(run(sys.executable, "-m", "pytest", "--quiet", "-m", "not slow and not kernel", *QUICK, cwd=tree))
    print(f"good: {sdist.name}, {wheel.name}")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["dist"]))
