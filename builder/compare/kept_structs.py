"""Changes of structures that were found before, between the same two objects by the same program.

Debug information is most of an object, and of the pairs of a cumulative module all but one are what they were the last
time. Most change no structure: where that is known, nothing of what reads debug information is imported.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from builder.acquire import sums
from builder.compare.comparison import Comparison
from builder.compare.contents import place_of

if TYPE_CHECKING:
    from builder.compare.structs import StructChange


def kept_struct_changes(comparison: Comparison, inside: frozenset[str]) -> tuple[StructChange, ...]:
    """`struct_changes` of two objects; found in the cache where it was made before."""
    if ".debug_info" not in comparison.old.obj.by_name:
        return ()  # as struct_changes finds
    file = place_of("structs", comparison, sorted(inside))
    known = sums.read_json(file)
    if known is not None and not known["changes"]:
        return ()
    from builder.compare.structs import FieldChange, StructChange, struct_changes

    if known is not None:
        return tuple(
            StructChange(**(row | {"fields": tuple(FieldChange(**field) for field in row["fields"])}))
            for row in known["changes"]
        )
    found = struct_changes(comparison.old.obj, comparison.new.obj, inside)
    sums.keep_json(file, {"changes": [asdict(change) for change in found]})
    return found
