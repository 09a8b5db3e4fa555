"""Names that our modules give to what is their own."""

from __future__ import annotations

import re

from builder.binary import ours
from tests.conftest import ROOT

_VARIABLE = re.compile(
    r"^(?:static |unsigned char )(?:DEFINE_PER_CPU\(.*, )?[^({;=]*?\b(_*bespoke_\w+)(?:\[\])?(?:\)?;| = )", re.M
)


def test_every_variable_of_the_marks_templates_is_known_as_one() -> None:
    """One that is not would be shared with a module of marks below, which then has all marks, and the new one none."""
    texts = [re.sub(r"\{\{.*?\}\}", "0", path.read_text()) for path in sorted((ROOT / "templates").glob("marks*.c.j2"))]
    names = {name for text in texts for name in _VARIABLE.findall(text)}
    assert {"bespoke_self", "bespoke_busy", "bespoke_marks", "bespoke_mark_0", "bespoke_entry"} <= names
    assert [name for name in names if not ours.is_of_marks(name)] == []
    assert ours.is_of_marks("__bespoke_on_filed_0")


def test_variables_of_users_are_none_of_the_marks() -> None:
    assert not any(map(ours.is_of_marks, ("bespoke_target", "bespoke_marked", "bespoke_fields", "counter")))
