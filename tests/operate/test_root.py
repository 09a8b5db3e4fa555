"""Who is not root hears that the command needs it, whatever the kernel would have said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
SCRIPT = f"""
import os, sys
from builder.cli import run
def drop():
    if os.geteuid() == 0:
        os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
sys.exit(run(sys.argv[1:], ready=drop))
"""


def bespoke(*words: str) -> tuple[int, str]:
    """As an ordinary user; what is needed of the package is imported before."""
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [("load", "README.md"), ("unload", "fix"), ("probe", "vfs_read"), ("status", "--repair")]
)
def test_what_changes_the_kernel_says_that_it_needs_root(words: tuple[str, ...]) -> None:
    status, said = bespoke(*words)
    assert (status, said) == (2, f"bespoke: `bespoke {words[0]}` needs root: run it with sudo, or as root\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory that others cannot read")
def test_a_state_that_only_root_can_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    status, said = bespoke("status", "--state", str(tmp_path))
    assert status == 2 and "`bespoke status` needs root" in said


def test_what_is_wrong_with_the_words_comes_first() -> None:
    assert "there is no file absent.ko" in bespoke("load", "absent.ko")[1]
    assert "--timeout takes" in bespoke("unload", "fix", "--timeout", "0")[1]


def test_fetch_arguments_may_stand_behind_options() -> None:
    """They are taken, so that the next thing that is asked for is root."""
    status, said = bespoke("probe", "vfs_read", "a=%di", "--name", "b/x", "b=%si:u32")
    assert status == 2 and "needs root" in said
    status, said = bespoke("probe", "vfs_read", "a=%di", "--name", "b/x", "b=%si:u32", "--unknown")
    assert status == 2 and "unrecognized arguments" in said
