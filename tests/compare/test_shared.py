"""Agreement with what is known of the shared pairs; every disagreement stands here with its reason."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from builder.binary import read_object
from builder.compare import Comparison, compare, naming
from builder.pipeline import diff
from tests.compare.conftest import names
from tests.conftest import data_root

pytestmark = pytest.mark.data

# kpatch's ignore macros leave a function out of the module; the comparison still sees it. What ships is composed later.
LEFT_OUT_BY_MACRO = {
    "ignore-missing-ftracehook-issue-1091": {"blk_trace_remove"},
    "oot-issue-928.NOSTRIP": {"test_funa"},
}
# rawdiff.json compares bytes. It names both of two symbols at one place; here one of them names the function.
ALIASES = {"init_module", "cleanup_module"}
# Only `call prepare_lsm` differs, inside .init.text, by the distance that prepare_lsm itself moved.
MOVED_ONLY = {"security__security": {"early_security_init"}}
# A WARN_ON became a WARN_ON_ONCE: the same instructions, another flag in the bug table.
TABLE_ONLY = {"net__core__pktgen": {"pktgen_thread_worker"}}
# Immediates of mlog() that are the line, proven by the line table of both objects.
LINE_ONLY = {
    "fs__ocfs2__cluster__heartbeat": {
        "o2hb_bio_end_io", "o2hb_check_node_heartbeating_no_sem", "o2hb_check_slot", "o2hb_nego_timeout_handler",
        "o2hb_queue_node_event", "o2hb_read_slots", "o2hb_region_unpin", "o2hb_run_event_list", "o2hb_setup_one_bio",
        "o2hb_shutdown_slot", "o2hb_stop_all_regions", "o2hb_write_timeout",
    },
}  # fmt: skip
CHANGED_DATA = {
    "drivers__net__ppp__ppp_async": {"ppp_ldisc"},
    "drivers__net__vxlan__vxlan_vnifilter": {"vni_filter_entry_policy"},
    "net__can__isotp": {"isotp_proto"},
}
REASON = re.compile(r"at \S+\+0x[0-9a-f]+: `.+` -> `.+`|instruction (added|removed) at |\d+ entries in |"
                    r"entry \d+ of |.+ is (new|gone)$")  # fmt: skip


def _places(*kinds: str) -> list[Any]:
    return [
        pytest.param(place, id=f"{kind.partition('/')[0]}-{place.name}")
        for kind in kinds
        for place in sorted((data_root() / kind).glob("*"))
    ]


@lru_cache(maxsize=2)
def compared(place: Path) -> Comparison:
    return compare(read_object(place / "orig.o"), read_object(place / "patched.o"))


def _json(place: Path, name: str) -> dict[str, Any]:
    found = json.loads((place / name).read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("place", _places("conformance/x86_64"))
def test_conformance(place: Path) -> None:
    expected = _json(place, "expected.json")
    comparison = compared(place)
    left_out = LEFT_OUT_BY_MACRO.get(place.name, set())
    assert set(names(comparison.changed)) == set(expected["changed_functions"]) | left_out
    new = sorted(n for n in expected["new_functions"] if naming.cold_parent(n) is None)
    assert names(comparison.new_functions) == new
    sections = {re.sub(r"^\.text\.(unlikely\.)?", "", name) for name in expected["line_number_only"]}
    assert set(names(comparison.line_only)) == sections
    assert not [a for a, d in comparison.data.items() if d.is_changed]
    assert not comparison.correlation.ambiguous


@pytest.mark.parametrize("place", _places("conformance/x86_64"))
def test_what_the_suite_ships_is_not_refused(place: Path) -> None:
    """do_exit() among them: it ends its task, and never returns."""
    assert diff(place / "orig.o", place / "patched.o").judged.refusals == ()


@pytest.mark.parametrize("place", _places("conformance/x86_64"))
def test_special_entries(place: Path) -> None:
    """Entries per table and function of what ships, as the suite's own outputs hold them."""
    expected = _json(place, "expected.json").get("special_entries", {})
    comparison = compared(place)
    view = comparison.new
    for table, owners in expected.items():
        for owner, count in owners.items():
            atom = view.by_name[owner]
            assert sum(e.table.name == table for e in view.entries(atom)) == count, (table, owner)


@pytest.mark.parametrize("place", _places("conformance/x86_64"))
def test_renamed_statics_are_paired(place: Path) -> None:
    """Pairs (new, old) that the suite records, apart from those that no version shares.

    Where it records two new names for one old (`lock.63243` and `lock.63240` for
    `lock.63253`) it saw renamings on the way: then what it binds decides.
    """
    comparison = compared(place)
    expected = _json(place, "expected.json")
    recorded = expected.get("renamed_static_locals", [])
    bound = {name for name, *_ in expected.get("bound_to_original", [])}
    old_names = [old for _, old in recorded]
    for new, old in recorded:
        if old_names.count(old) > 1:
            atom = comparison.new.by_name.get(new)
            if atom is not None:
                assert {comparison.correlation.twins[atom].name} & bound or atom.name not in _used(comparison)
            continue
        atom, before = comparison.new.by_name.get(new), comparison.old.by_name.get(old)
        if atom is None or before is None or naming.is_never_paired(atom.name, atom.section.name):
            continue
        if naming.is_label(new):
            assert comparison.meanings.content(comparison.new, atom, False) == comparison.meanings.content(
                comparison.old, before, False
            )
        else:
            assert comparison.correlation.twins.get(atom) is before, (new, old)


def _used(comparison: Comparison) -> set[str]:
    """Data that changed functions refer to, in the new object."""
    view = comparison.new
    targets = (view.target(r, view.bias(f, r)).atom for f in comparison.changed for r in view.relocations(f))
    return {atom.name for atom in targets if atom is not None}


@pytest.mark.parametrize("place", _places("corpus/pairs", "running-6.1.0-50/pairs"))
def test_real_fixes(place: Path) -> None:
    recorded = _json(place, "rawdiff.json")
    comparison = compared(place)
    raw = set(recorded["raw_changed_folded"])
    expected = raw - ALIASES - MOVED_ONLY.get(place.name, set()) - LINE_ONLY.get(place.name, set())
    if "running" in str(place):
        expected |= TABLE_ONLY.get(place.name, set())
    assert set(names(comparison.changed)) == expected
    assert LINE_ONLY.get(place.name, set()) <= set(names(comparison.line_only))
    for alias in raw & ALIASES:
        assert alias in {n for a in comparison.changed for n in a.names}
    for listed, found in (("raw_new", comparison.new_functions), ("raw_removed", comparison.removed_functions)):
        assert set(names(found)) == {n for n in recorded[listed] if naming.cold_parent(n) is None}
    changed = {a.name for a, d in comparison.data.items() if d.is_changed}
    assert changed == CHANGED_DATA.get(place.name, set())
    assert not comparison.correlation.ambiguous


@pytest.mark.parametrize("place", _places("corpus/pairs", "running-6.1.0-50/pairs"))
def test_every_change_has_a_reason(place: Path) -> None:
    comparison = compared(place)
    for atom in comparison.changed:
        reason = comparison.functions[atom].reason
        assert REASON.match(reason), reason


@pytest.mark.parametrize("place", _places("corpus/pairs", "running-6.1.0-50/pairs", "conformance/x86_64"))
@pytest.mark.parametrize("name", ["orig.o", "patched.o"])
def test_an_object_does_not_differ_from_itself(place: Path, name: str) -> None:
    obj = read_object(place / name)
    comparison = compare(obj, read_object(place / name))
    assert not comparison.changed and not comparison.line_only
    assert not comparison.new_functions and not comparison.removed_functions
    assert not comparison.new_data and not comparison.removed_data
    assert not [a for a, d in comparison.data.items() if d.is_changed]
    assert not comparison.correlation.ambiguous
