"""PLACE: where a mark stands, as a person says it, and the spots in the source that it means."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tree_sitter import Node

from builder.acquire.marks.syntax import STATEMENTS, Function, SourceText, walk
from builder.errors import Refusal, RefusedError, UsageError

_PLACE = re.compile(
    r"(?:(?P<file>[\w./+-]+\.[ch]):)?"
    r"(?:(?P<line>\d+)|(?P<function>[A-Za-z_]\w*)(?:\+(?P<plus>\d+)|(?P<returns>%return)|:(?P<text>.+))?)"
)
_LONGEST = 300
FORMS = "FILE:LINE, FUNCTION, FUNCTION+LINES, FUNCTION%return or FUNCTION:'text on the line'"

#: words of a function's head that say why nothing in it can be marked
_HEADS = {
    "__init": "runs once, when the kernel or its module starts, and is gone then",
    "__exit": "runs once, when its module is taken out",
    "noinstr": "must not be instrumented: it runs where tracing itself would not work (entry code, idle)",
    "notrace": "has no ftrace location, so that calls of it cannot be redirected",
    "__kprobes": "must not be instrumented: it may run while a probe is handled",
    "__head": "runs before the kernel is where it belongs",
    r"DEFINE_IDTENTRY(?!_SYSVEC\(|_IRQ\()\w*": "must not be instrumented: it is entry code",
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
        if len(text) > _LONGEST:
            raise UsageError(f"{text[:40] + '...'!r} is no place, with {len(text)} characters: say {FORMS}")
        found = _PLACE.fullmatch(text)
        if found is None or (found["line"] and not found["file"]):
            raise UsageError(f"{text!r} is no place: say {FORMS}")
        if found["line"] and not int(found["line"]):
            raise UsageError(f"{text!r} is no place, lines are counted from 1: say {FORMS}")
        wanted = found["text"] or ""
        if len(wanted) > 1 and wanted[0] == wanted[-1] and wanted[0] in "'\"":
            wanted = wanted[1:-1]
        if found["text"] and not wanted.strip():
            raise UsageError(f"{text!r} is no place, no text stands behind the colon: say {FORMS}")
        return cls(
            text,
            posixpath.normpath(found["file"]) if found["file"] else "",
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
        if found := re.search(rf"\b{word}\b", head):
            raise refused(
                place, f"{function.name}() is {found[0]}: it {why}", "mark a function that calls it, or that it calls"
            )
    if place.returns:
        return tuple(_returns(place, source, function))
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
        if wanted in " ".join(source.code_lines[number - 1].decode("utf-8", "surrogateescape").split())
    ]
    if not found and any(wanted in " ".join(line.decode(errors="replace").split()) for line in
                         source.lines[function.body.start_point[0] : function.last]):  # fmt: skip
        raise refused(place, f"the text {wanted!r} stands in a comment of {function.name}()", "say the text of a "
                      "statement, or FILE:LINE")  # fmt: skip
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
    near = _nearest(source, function, line)
    what = _what_is_there(source, function, line, any(_within_arguments(n) for n in candidates))
    raise refused(place, f"{source.path}:{line} {what}", f"the nearest that can be marked: {near}")


_LOOPS = {"for_statement": "for", "while_statement": "while", "do_statement": "do", "switch_statement": "switch",
          "if_statement": "if"}  # fmt: skip


def _what_is_there(source: SourceText, function: Function, line: int, within: bool) -> str:
    """Why no mark can stand at a line of a function."""
    text, code = source.lines[line - 1].strip(), source.code_lines[line - 1].strip()
    around = [n for n in function.statements() if n.start_point[0] + 1 < line <= n.end_point[0] + 1]
    deepest = around[-1] if around else None
    kind = deepest.type if deepest is not None else ""
    first = deepest.start_point[0] + 1 if deepest is not None else 0
    body = deepest.child_by_field_name("body") or deepest.child_by_field_name("consequence") if deepest else None
    if source.in_definition(line):
        return "is in the definition of a macro: mark where it is used"
    if text and not code:
        return "is a comment"
    if not text:
        return "is empty"
    if code.startswith(b"#"):
        return "is for the preprocessor"
    if within:
        return "is inside the arguments of a macro or call"
    if line <= function.body.start_point[0] + 1:
        return f"is the head of {function.name}()"
    if any(n.type == "declaration" and n.start_point[0] < line <= n.end_point[0] + 1 for n in walk(function.body)):
        return "is a declaration: statements begin behind the last one"
    if kind in _LOOPS and body is not None and line <= body.start_point[0] + 1 and code != b"{":
        return f"is in the head of a {_LOOPS[kind]} that begins at line {first}"
    if kind in ("expression_statement", "return_statement"):
        return f"is in the middle of a statement that begins at line {first}"
    if re.fullmatch(rb"[{}\s]*(?:else)?[{}\s]*|\}\s*while\s*\(.*\)\s*;", code):
        return f"is {code.decode(errors='replace')!r}, where no statement begins"
    if re.match(rb"(?:case\b.*|default\s*|\w+\s*):", code):
        return "is a label with nothing that can be marked behind it"
    return "is where no statement begins"


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
    outermost = node  # with the labels before it
    while outer is not None and outer != function.body:
        if outer.type == "ERROR":
            raise refused(
                place,
                f"{source.path}:{node.start_point[0] + 1} stands where the source cannot be understood without "
                "its macros",
                f"the nearest that can be marked: {_nearest(source, function, node.start_point[0] + 1)}",
            )
        if outermost.parent == outer and outer.type in ("labeled_statement", "case_statement"):
            outermost = outer
        outer = outer.parent
    line = node.start_point[0] + 1
    if not _may_begin(source.text, node):
        raise refused(
            place,
            f"{source.path}:{line} stands where the source cannot be understood without its macros",
            f"the nearest that can be marked: {_nearest(source, function, line)}",
        )
    if _is_whole(source.text, node.start_byte) and _is_whole(source.text, outermost.start_byte):
        return MarkSpot(source, function, line, node.start_byte, node.end_byte)
    if any(child.is_missing for child in walk(node)):
        raise refused(
            place,
            f"{source.path}:{line} is all that a loop of a macro has, and begins another one",
            f"the nearest that can be marked: {_nearest(source, function, line)}",
        )
    return MarkSpot(source, function, line, node.start_byte, node.end_byte, "braces")


def _is_whole(text: bytes, at: int) -> bool:
    """Whether what ends before `at` is a statement, a block or a label: another statement may stand there then.

    Behind anything else, `if (x)` or `for_each(y)` or `else`, there is room for one statement only.
    """
    return _before(text, at)[-1:] in (b";", b"{", b"}", b":")


def _may_begin(text: bytes, node: Node) -> bool:
    """Whether a statement may begin and end where a node does: the parser's guess may be another."""
    before = _before(text, node.start_byte)
    begins = before[-1:] in (b";", b"{", b"}", b":", b")") or re.search(rb"\b(?:else|do)\Z", before) is not None
    return begins and text[node.end_byte - 1 : node.end_byte] in (b";", b"}")


def _before(text: bytes, at: int) -> bytes:
    """The end of the code before a place, without what is comment or for the preprocessor."""
    line_end = at
    while True:
        before = text[max(0, line_end - _FAR) : line_end].rstrip()
        line = before[before.rfind(b"\n") + 1 :]
        start = max(0, line_end - _FAR)
        if before.endswith(b"*/"):
            line_end = start + before.rfind(b"/*")
        elif line.lstrip().startswith(b"#") or line.lstrip().startswith(b"//"):
            line_end = start + before.rfind(b"\n") + 1
        elif (comment := line.find(b"//")) >= 0:
            line_end = start + len(before) - len(line) + comment
        else:
            return before


#: So far back something is that decides what stands at a place: behind the longest comment.
_FAR = 20_000


def _returns(place: MarkPlace, source: SourceText, function: Function) -> Iterator[MarkSpot]:
    for node in function.statements():
        if node.type == "return_statement":
            value = next((c for c in node.named_children if c.type != "comment"), None)
            line = node.start_point[0] + 1
            if not _may_begin(source.text, node) or re.search(rb"^\s*#", node.text or b"", re.MULTILINE):
                raise refused(
                    place,
                    f"{source.path}:{line} returns where the source cannot be understood without its macros",
                    "mark the lines of the returns that you want to see",
                )
            at = (value.start_byte, value.end_byte) if value is not None else None
            yield MarkSpot(source, function, line, node.start_byte, node.end_byte, "return", at)
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
    """The argument of the macro that makes a function of that name: a system call or an interrupt's handler; any other
    name as it is."""
    found = re.fullmatch(r"__(?:do|se|x64|ia32)_(?:compat_)?sys_(\w+)|__((?:sysvec_|common_|spurious_)\w+)", name)
    return found[1] or found[2] if found else name
