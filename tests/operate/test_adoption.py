"""A livepatch of ours that insmod has loaded: known by its note, looked after from `status --repair` on."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary import read_object
from builder.binary.loaded_note import SECTION, from_note, to_note
from builder.binary.manifest import Manifest
from builder.errors import InputError
from builder.image.machine import KPROBE_EVENTS, MODULES
from builder.operate.adoption import told
from builder.operate.kprobes import parse_events
from builder.operate.survey import survey
from tests.operate.scene import FOLLOWING, SimulatedScene
from tests.operate.versions import NAME, Probed

pytestmark = pytest.mark.kernel


def test_repair_looks_after_what_insmod_has_loaded(scene: SimulatedScene, made: Probed) -> None:
    scene.host.insert(made.build(0, 1, "p1"))
    (patch,) = survey(scene.host).patches
    assert patch.phase is None and patch.reports
    assert all("`bespoke status --repair` plants it there" in row["message"] for row in patch.reports)
    done = scene.live().repair()
    assert "p1 was loaded by something else" in done[0] and len(done) == 1 + FOLLOWING
    (patch,) = survey(scene.host).patches
    assert (patch.state, patch.phase, patch.reports) == ("enabled", "enabled", ()) and len(patch.moved) == FOLLOWING
    scene.call(1, 3)
    scene.call(3, 2)
    assert scene.counts() == scene.expected
    assert scene.live().repair() == []
    outcome = scene.live().unload("p1")
    assert outcome.reports == ()
    scene.call(3, 4)
    assert scene.counts() == scene.expected
    assert {e.spot.module for e in parse_events(scene.host.read(KPROBE_EVENTS))} == {NAME}


def test_what_was_loaded_before_stands_before(scene: SimulatedScene, made: Probed) -> None:
    scene.host.insert(made.build(0, 1, "p1"))
    scene.live().load(made.build(0, 2, "p2"), "p2.ko")
    scene.live().repair()
    assert [(row.module, row.phase) for row in survey(scene.host).patches] == [("p1", "enabled"), ("p2", "enabled")]
    assert [row.module for row in scene.live().trail.records] == ["p1", "p2"]
    scene.call(1, 2)
    assert scene.counts() == scene.expected
    for name in ("p1", "p2"):
        scene.live().unload(name)
        scene.call(3, 1)
        assert scene.counts() == scene.expected


def test_a_note_is_the_manifest_and_nothing_else_is_a_note(scene: SimulatedScene, made: Probed, tmp_path: Path) -> None:
    content = made.build(0, 1, "p1")
    module = read_object(content, name="p1.ko")
    manifest = Manifest.within(module)
    assert manifest is not None
    note = module.by_name[SECTION]
    assert note.is_alloc and note.data == to_note(manifest.to_bytes()) and len(note.data) % 4 == 0
    shown = note.data.decode(errors="replace")
    assert from_note(shown, where="p1") == manifest == from_note(shown.replace("\0", ""), where="p1")
    for damaged in (shown[: len(shown) // 2], "Bespoke\0AAAA", "GNU\0", ""):
        with pytest.raises(InputError):
            from_note(damaged, where="p1")
    scene.host.insert(content)
    assert told(scene.host, "p1") is not None
    assert told(scene.host, NAME) is None and told(scene.host, "none") is None
    with pytest.raises(OSError, match=SECTION):
        scene.host.read(f"{MODULES}/{NAME}/notes/{SECTION}")
