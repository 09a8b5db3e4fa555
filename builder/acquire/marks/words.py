"""What a mark says: its expressions and format, as the user wrote them, and what they may not do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from builder.acquire.marks.expressions import LONGEST, NoExpressionError, field_name, parse_expression, side_effects
from builder.acquire.marks.formats import Format, check_values, conversion_words, conversions_in, read_format
from builder.errors import Refusal, RefusedError, UsageError

Aggregate = Literal["", "count", "sum", "hist", "time"]

RETVAL: Final = "$retval"
RETVAL_NAME: Final = "__bespoke_retval"


@dataclass(frozen=True, slots=True)
class Expression:
    """A C expression: `text` as written, `name` of its field in the records, the `$retval` in it replaced in `code`."""

    text: str
    name: str
    code: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark as it was asked for.

    `words` are a format and expressions, or expressions alone. `aggregate` adds up instead of recording, `value` is
    what is summed or sorted into a histogram. For `time` it is the key by which a hit here is told from others, until
    the place `until` is reached with the same key (`until_value`, by default the same expression). `every` records
    each n-th hit, `limit` so many in a second (0: all).
    """

    place: str
    words: tuple[str, ...] = ()
    condition: str = ""
    every: int = 1
    limit: int = 0
    aggregate: Aggregate = ""
    value: str = ""
    until: str = ""
    until_value: str = ""
    stack: bool = False
    unsafe: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a mark, understood: a format (None: by the types), and the expressions."""

    format: Format | None
    fields: tuple[Expression, ...]
    condition: Expression | None = None
    value: Expression | None = None
    until_value: Expression | None = None


def understood(mark: Mark) -> Said:
    """The words of `mark`; RefusedError for an expression that is none, or that would change something."""
    if mark.every < 1:
        raise UsageError(f"--every takes a number from 1 on, not {mark.every}")
    if mark.limit < 0:
        raise UsageError(f"--limit takes a number of records in a second, not {mark.limit}")
    if (mark.aggregate == "time") != bool(mark.until):
        raise UsageError("--time KEY and --until PLACE belong together: the time from one place to the other, by a key")
    format_, rest = _split(mark)
    taken: set[str] = set()
    fields = tuple(read_expression(mark, text, taken) for text in rest)
    if format_ is not None:
        check_values(mark.place, format_, rest)
    key = mark.until_value or mark.value if mark.until else ""
    return Said(
        format_, fields, _plain(mark, mark.condition), _plain(mark, mark.value), _plain(mark, key, at=mark.until)
    )


def _plain(mark: Mark, text: str, at: str = "") -> Expression | None:
    """A condition or value, which is no field and so has no name."""
    if not text:
        return None
    name, expression = _named(text)
    if name:
        what = f"{text!r} gives a name, or assigns, where a value is wanted"
        raise _refused(mark.place, what, f"{name} == {expression} compares", code="mark-expression")
    return read_expression(mark, text, set(), at=at)


def _split(mark: Mark) -> tuple[Format | None, Sequence[str]]:
    """A format stands in double quotes, or has a % and is no expression, or a conversion as a word of its own (`a %d`,
    which nobody who divides writes so), or as many conversions as words follow."""
    if not mark.words:
        return None, ()
    first, rest = mark.words[0], mark.words[1:]
    if len(first) > 1 and first[0] == first[-1] == '"':
        return read_format(mark.place, first[1:-1]), rest
    count = conversions_in(first)
    is_format = "%" in first and (conversion_words(first) or not _is_expression(first))
    if is_format or (count and count == len(rest)):
        return read_format(mark.place, first), rest
    return None, mark.words


def _is_expression(text: str) -> bool:
    try:
        parse_expression(_renamed(_named(text)[1]))
    except NoExpressionError:
        return False
    return True


_NAME = re.compile(r"([^\W\d]\w*)=(?!=)(.+)", re.DOTALL)
_LONGEST_NAME = 40


def _named(text: str) -> tuple[str, str]:
    """`NAME=EXPR`: the name of the field, and the expression."""
    found = _NAME.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


def _renamed(text: str) -> str:
    return text.replace(RETVAL, RETVAL_NAME)


def read_expression(mark: Mark, text: str, taken: set[str], *, at: str = "") -> Expression:
    """One expression, refused where it is none, or has side effects without `unsafe`; it stands at the place `at`, by
    default that of the mark."""
    at = at or mark.place
    name, expression = _named(text)
    code = _renamed(expression.strip())
    if not name.isascii() or len(name) > _LONGEST_NAME:
        raise _refused(at, f"{_brief(name)!r} is no name of a field", f"say at most {_LONGEST_NAME} of a-z, 0-9 and _",
                       code="mark-expression")  # fmt: skip
    if RETVAL in expression and not at.endswith("%return"):
        raise _refused(at, f"{RETVAL} in {text!r} is there at a return only", "say FUNCTION%return for the place",
                       code="mark-expression")  # fmt: skip
    if found := re.search(r"\$\w*", expression.replace(RETVAL, "")):
        raise _refused(at, f"{found[0]!r} in {text!r} is no name of C", f"say a variable by its name, or {RETVAL}",
                       code="mark-expression")  # fmt: skip
    if "__bespoke" in expression:
        raise _refused(at, f"{text!r}: names that begin with __bespoke are the marks' own", "say it without them",
                       code="mark-expression")  # fmt: skip
    try:
        node = parse_expression(code)
    except NoExpressionError as error:
        raise _refused(at, f"{_brief(text)!r} {_shown(error.what)}", error.advice, code="mark-expression") from None
    if not mark.unsafe:
        for found_, why in side_effects(node):
            raise _refused(
                at,
                _shown(f"{text!r}: {found_} {why}, and a mark must not change what the function computes"),
                "say an expression without it; --unsafe takes it all the same",
                code="mark-side-effect",
            )
    return Expression(text, unique(name or field_name(expression), taken), code)


def _brief(text: str) -> str:
    """What was said, or its beginning: a message is to be read."""
    return text if len(text) <= LONGEST else f"{text[:60]}..."


def _shown(text: str) -> str:
    return text.replace(RETVAL_NAME, RETVAL)


#: fields that every record has (kernel/trace/trace_events.c), and names of C that a field must not have
_OWN = frozenset(
    ("common_type", "common_flags", "common_preempt_count", "common_pid", "comm", "stack", "ent", "int", "char", "long")
)


def unique(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where it is taken; it is taken then."""
    name = f"{name}_" if name in _OWN else name
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _refused(place: str, what: str, advice: str, *, code: str) -> RefusedError:
    return RefusedError([Refusal(code, place, "", f"{place}: {what}", advice)])
