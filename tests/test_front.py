"""The front door (builder/front.py): the README's example runs, and the reference tells of all that it offers."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import builder
from builder.errors import InputError, UsageError
from samples.objects import target_objects
from tests.conftest import ROOT


def example() -> str:
    """The first fence of Python in README.md."""
    found = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None and len([line for line in found[1].splitlines() if line.strip()]) <= 10
    return found[1]


@pytest.mark.kernel
def test_the_example_of_the_readme(release_61: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the objects of the sample module, whose function `weigh` the patch changes."""
    made = target_objects(release_61)
    for name, path in (("old.o", made.old), ("new.o", made.new), ("target.ko", made.module)):
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"\b6\.1\.0-\d+-amd64\b", release_61, example())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told, before, patched = done.stdout.splitlines()
    assert "'weigh'" in told and told.endswith("] True") and before != patched


def test_each_name_is_there_and_explains_itself() -> None:
    assert sorted(builder.__all__) == builder.__all__
    for name in builder.__all__:
        text = inspect.getdoc(getattr(builder, name)) or ""
        assert len(text.split()) > 8, name
    for name in ("build", "check", "diff", "patch", "simulate", "unload"):
        text = inspect.getdoc(getattr(builder, name)) or ""
        assert re.search(r"\bRaises\b|Error where", text), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        builder.nothing  # noqa: B018


@pytest.mark.parametrize("first", ["", "import builder.load.boot as b; "])
def test_load_is_called_whatever_was_imported_before(first: str) -> None:
    text = first + "from builder import load; import builder.load.accept\nload('/nowhere.ko', None)"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "InputError: /nowhere.ko: " in done.stderr


def test_the_front_door_opens_fast() -> None:
    """Nothing is imported before it is asked for."""
    text = "import sys, builder; print(*[name for name in sys.modules if name.startswith('builder.')])"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_a_person_has_at_hand_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.o"):
        builder.diff(str(tmp_path / "nothing.o"), tmp_path / "nothing.o")
    with pytest.raises(UsageError, match="there is no code"):
        builder.diff("old.o", "new.o", allow=["no-such-code:f"])
