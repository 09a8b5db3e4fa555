"""PLACE: where a mark stands, as a person says it, and the spots in the source that it means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tree_sitter import Node

from builder.acquire.marks.syntax import STATEMENTS, Function, SourceText, walk
from builder.errors import Refusal, RefusedError, UsageError

_PLACE = re.compile(
    r"(?:(?P<file>[\w./+-]+\.[ch]):)?"
    r"(?:(?P<line>\d+)|(?P<function>[A-Za-z_]\w*)(?:\+(?P<plus>\d+)|(?P<returns>%return)|:(?P<text>.+))?)"
)
FORMS = "FILE:LINE, FUNCTION, FUNCTION+LINES, FUNCTION%return or FUNCTION:'text on the line'"

#: words of a function's head that say why nothing in it can be marked
_HEADS = {
    "__init": "runs once, when the kernel or its module starts, and is gone then",
    "__exit": "runs once, when its module is taken out",
    "noinstr": "must not be instrumented: it runs where tracing itself would not work (entry code, idle)",
    "notrace": "has no ftrace location, so that calls of it cannot be redirected",
    "__kprobes": "must not be instrumented: it may run while a probe is handled",
    "__head": "runs before the kernel is where it belongs",
}


@dataclass(frozen=True, slots=True)
class MarkPlace:
    """A place as it was said: `text`; the rest is what it says. `file` may stand before each form."""

    text: str
    file: str = ""
    line: int = 0
    function: str = ""
    plus: int = 0
    returns: bool = False
    wanted: str = ""

    @classmethod
    def parse(cls, text: str) -> MarkPlace:
        """UsageError for what is none of the FORMS."""
        found = _PLACE.fullmatch(text)
        if found is None or (found["line"] and not found["file"]):
            raise UsageError(f"{text!r} is no place: say {FORMS}")
        wanted = found["text"] or ""
        if len(wanted) > 1 and wanted[0] == wanted[-1] and wanted[0] in "'\"":
            wanted = wanted[1:-1]
        return cls(
            text,
            found["file"] or "",
            int(found["line"] or 0),
            found["function"] or "",
            int(found["plus"] or 0),
            bool(found["returns"]),
            wanted,
        )


@dataclass(frozen=True)
class MarkSpot:
    """One statement of a function that a mark stands before, or (`after` the last one) the end of its body.

    `how`: the mark goes `before` it; or is put into braces with it, where the statement is all that an `if` or a loop
    has (`braces`); or takes the place of a `return` (`return`, with its value's place `value` in bytes, None for none).
    """

    source: SourceText
    function: Function
    line: int
    start: int
    end: int
    how: Literal["before", "braces", "return"] = "before"
    value: tuple[int, int] | None = None


def refused(place: MarkPlace, what: str, advice: str) -> RefusedError:
    return RefusedError([Refusal("mark-place", place.text, "", f"{place.text}: {what}", advice)])


def find_spots(place: MarkPlace, source: SourceText, function: Function) -> tuple[MarkSpot, ...]:
    """The spots that `place` means in `function`; RefusedError with the nearest that can be marked."""
    head = function.head
    for word, why in _HEADS.items():
        if re.search(rf"\b{word}\b", head):
            raise refused(
                place, f"{function.name}() is {word}: it {why}", "mark a function that calls it, or that it calls"
            )
    if place.returns:
        return tuple(_returns(source, function))
    if place.line or place.plus or place.wanted:
        line = _line(place, source, function)
        return (_at_line(place, source, function, line),)
    for node in function.body.named_children:
        if node.type not in ("declaration", "comment") and not node.type.startswith("preproc_"):
            if node.type in STATEMENTS:
                return (_spot(place, source, function, node),)
            break
    for node in function.statements():
        if node.type != "compound_statement":
            return (_spot(place, source, function, node),)
    return (_at_end(source, function),)


def _line(place: MarkPlace, source: SourceText, function: Function) -> int:
    if place.line:
        return place.line
    if place.plus:
        line = function.first + place.plus
        if line > function.last:
            raise refused(
                place,
                f"{function.name}() has {function.last - function.first} lines behind its first "
                f"({source.path}:{function.first} to {function.last})",
                "say a smaller number",
            )
        return line
    wanted = " ".join(place.wanted.split())
    found = [
        number
        for number in range(function.body.start_point[0] + 1, function.last + 1)
        if wanted in " ".join(source.lines[number - 1].decode("utf-8", "surrogateescape").split())
    ]
    if len(found) != 1:
        lines = ", ".join(f"{source.path}:{n}" for n in found)
        raise refused(
            place,
            f"{len(found)} lines of {function.name}() have the text {wanted!r}: {lines}"
            if found
            else f"no line of {function.name}() ({source.path}:{function.first}) has the text {wanted!r}",
            "say more of the line, or FILE:LINE",
        )
    return found[0]


def _at_line(place: MarkPlace, source: SourceText, function: Function, line: int) -> MarkSpot:
    candidates = [n for n in function.statements() if n.start_point[0] + 1 == line]
    for node in candidates:
        inner = _inside_label(node)
        if inner is not None and inner.type != "compound_statement" and not _within_arguments(inner):
            return _spot(place, source, function, inner)
    if line == function.last and function.is_void:
        return _at_end(source, function)
    around = [n for n in function.statements() if n.start_point[0] + 1 < line <= n.end_point[0] + 1]
    deepest = around[-1] if around else None
    if candidates and all(_within_arguments(n) for n in candidates):
        what = "is inside the arguments of a macro or call"
    elif any(n.type == "declaration" and n.start_point[0] < line <= n.end_point[0] + 1 for n in walk(function.body)):
        what = "is a declaration: statements begin behind the last one"
    elif line <= function.body.start_point[0] + 1:
        what = f"is the head of {function.name}()"
    elif deepest is not None and deepest.type in ("expression_statement", "return_statement"):
        what = f"is in the middle of a statement that begins at line {deepest.start_point[0] + 1}"
    else:
        what = "is where no statement begins"
    near = _nearest(source, function, line)
    raise refused(place, f"{source.path}:{line} {what}", f"the nearest that can be marked: {near}")


def _nearest(source: SourceText, function: Function, line: int) -> str:
    """The nearest lines, before and behind, at which a statement begins, with their text."""
    lines = sorted(
        {
            n.start_point[0] + 1
            for n in function.statements()
            if n.type not in ("compound_statement", "labeled_statement", "case_statement") and not _within_arguments(n)
        }
    )
    before = [n for n in lines if n < line][-1:]
    behind = [n for n in lines if n > line][:1]
    shown = [f"{source.path}:{n} ({source.lines[n - 1].decode(errors='replace').strip()})" for n in before + behind]
    return ", ".join(shown) or "none in this function"


def _inside_label(node: Node) -> Node | None:
    """What stands behind the labels of a statement."""
    found: Node | None = node
    while found is not None and found.type in ("labeled_statement", "case_statement"):
        value = found.child_by_field_name("value")
        found = next((c for c in found.named_children if c.type in STATEMENTS and c != value), None)
    return found


def _spot(place: MarkPlace, source: SourceText, function: Function, node: Node) -> MarkSpot:
    outer = node.parent
    while outer is not None and outer != function.body:
        if outer.type == "ERROR":
            raise refused(
                place,
                f"{source.path}:{node.start_point[0] + 1} stands where the source cannot be understood without "
                "its macros",
                f"the nearest that can be marked: {_nearest(source, function, node.start_point[0] + 1)}",
            )
        outer = outer.parent
    line = node.start_point[0] + 1
    if _is_whole(source.text, node.start_byte):
        return MarkSpot(source, function, line, node.start_byte, node.end_byte)
    if any(child.is_missing for child in walk(node)):
        raise refused(
            place,
            f"{source.path}:{line} is all that a loop of a macro has, and begins another one",
            f"the nearest that can be marked: {_nearest(source, function, line)}",
        )
    return MarkSpot(source, function, line, node.start_byte, node.end_byte, "braces")


_BLANK = re.compile(rb"(?:\s+|/\*(?:[^*]|\*(?!/))*\*/|//[^\n]*\n|(?<=\n)#[^\n]*\n)\Z")


def _is_whole(text: bytes, at: int) -> bool:
    """Whether what ends before `at` is a statement, a block or a label: another statement may stand there then.

    Behind anything else, `if (x)` or `for_each(y)` or `else`, there is room for one statement only.
    """
    line_end = at
    while True:
        before = text[:line_end].rstrip()
        line = before[before.rfind(b"\n") + 1 :]
        if before.endswith(b"*/"):
            line_end = before.rfind(b"/*")
        elif line.lstrip().startswith(b"#") or line.lstrip().startswith(b"//"):
            line_end = before.rfind(b"\n") + 1
        elif (comment := line.find(b"//")) >= 0:
            line_end = len(before) - len(line) + comment
        else:
            return before[-1:] in (b";", b"{", b"}", b":")


def _returns(source: SourceText, function: Function) -> Iterator[MarkSpot]:
    for node in function.statements():
        if node.type == "return_statement":
            value = next((c for c in node.named_children if c.type != "comment"), None)
            place = (value.start_byte, value.end_byte) if value is not None else None
            yield MarkSpot(source, function, node.start_point[0] + 1, node.start_byte, node.end_byte, "return", place)
    if function.is_void:
        yield _at_end(source, function)


def _at_end(source: SourceText, function: Function) -> MarkSpot:
    end = function.body.end_byte - 1
    return MarkSpot(source, function, function.last, end, end)


def _within_arguments(node: Node) -> bool:
    outer = node.parent
    while outer is not None and outer.type != "function_definition":
        if outer.type in ("argument_list", "preproc_def", "preproc_function_def"):
            return True
        outer = outer.parent
    return False


def call_name(name: str) -> str:
    """The name of a system call, from that of one of its functions; any other name as it is."""
    return re.sub(r"^__(?:do|se|x64|ia32)_(?:compat_)?sys_", "", name)


def definition(name: str) -> Callable[[str], bool]:
    """Whether a line of source may be the head of a function of that name."""
    word = re.escape(name)
    call = call_name(name)
    head = re.compile(rf"^(?!.*;\s*$)(?:[A-Za-z_][^=;]*\b)?{word}\s*\(")
    system = re.compile(rf"^(?:COMPAT_)?SYSCALL_DEFINE\d\(\s*{re.escape(call)}\b") if call != name else None
    return lambda line: bool(head.match(line) or (system and system.match(line)))
