"""What `watching` takes away, with a directory in tracefs' place: instances are directories there, too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.errors import UsageError
from builder.operate.watching import watching

NOBODY = 1 << 22
"""Above the largest process id (PID_MAX_LIMIT, include/linux/threads.h)."""


@pytest.fixture
def tracefs(tmp_path: Path) -> Path:
    (tmp_path / "instances").mkdir()
    return tmp_path


def test_instances_of_killed_watchers_are_taken_away_and_those_of_living_ones_and_of_others_stay(tracefs: Path) -> None:
    instances = tracefs / "instances"
    for name in (f"bespoke-{NOBODY + 1}", f"bespoke-{os.getppid()}", "somebody"):
        (instances / name).mkdir()
    with watching([], tracefs=tracefs) as watch:
        assert watch.instance.is_dir()
        assert {path.name for path in instances.iterdir()} == {
            watch.instance.name,
            f"bespoke-{os.getppid()}",
            "somebody",
        }
        (watch.instance / "trace_options").unlink()  # which goes with the instance in tracefs
    assert not watch.instance.exists()


def test_an_instance_that_could_not_be_made_leaves_nothing_to_remove(tracefs: Path) -> None:
    (tracefs / "instances").rmdir()
    with pytest.raises(FileNotFoundError), watching([], tracefs=tracefs):
        pytest.fail("there is no place for an instance")
    with pytest.raises(UsageError, match="x has no marks"), watching(["x"], tracefs=tracefs):
        pytest.fail("there is no such module")
