"""Small changes to C source, of the kinds that a fix makes: found by pattern, inside function bodies only.

A mutation says what it changed and in which function. Whether it changes the
object is for the compiler to say: many do not (dead code, equal layouts).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.M)
_BODY = re.compile(r"^(?P<head>[a-zA-Z_][^;{}#]*?\b(?P<name>[a-z_]\w*)\s*\((?P<parameters>[^;{}]*)\)[^;{}()]*)\n\{\n"
                   r"(?P<body>.*?)^\}", re.M | re.S)  # fmt: skip

# Functions and macros of the kernel that take the same arguments.
_ALIKE = (
    ("kzalloc", "kmalloc"), ("kfree", "kvfree"), ("list_add", "list_add_tail"), ("spin_lock", "spin_lock_bh"),
    ("spin_unlock", "spin_unlock_bh"), ("mutex_lock", "mutex_unlock"), ("dev_err", "dev_warn"),
    ("netdev_err", "netdev_warn"), ("pr_err", "pr_warn"), ("atomic_inc", "atomic_dec"), ("memcpy", "memmove"),
    ("set_bit", "clear_bit"), ("rcu_read_lock", "rcu_read_unlock"), ("down_read", "down_write"),
    ("up_read", "up_write"), ("brelse", "__brelse"), ("le32_to_cpu", "be32_to_cpu"), ("le16_to_cpu", "be16_to_cpu"),
    ("be32_to_cpu", "cpu_to_le32"), ("be64_to_cpu", "le64_to_cpu"), ("min", "max"),
    ("kthread_run", "kthread_create"), ("msleep", "ssleep"), ("wake_up", "wake_up_all"), ("ERR_PTR", "ERR_CAST"),
    ("cancel_work_sync", "cancel_work"), ("list_del", "list_del_init"), ("put_page", "get_page"),
    ("likely", "!!"), ("skb_pull", "skb_push"), ("htons", "(u16)"), ("ntohs", "(u16)"), ("le32_to_cpu", "(u32)"),
    ("xfs_trans_brelse", "xfs_trans_bhold"), ("strcmp", "strcasecmp"), ("kfree_skb", "consume_skb"),
    ("btrfs_free_path", "btrfs_release_path"), ("xfs_buf_relse", "xfs_buf_hold"),
)  # fmt: skip

_TURNED = {"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One edit of a file: `text` is the whole new source; `function` encloses the edit."""

    kind: str
    function: str
    line: int
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class _Body:
    name: str
    parameters: str
    start: int
    end: int


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


class _Source:
    """A file with its function bodies; `code` has comments, directives and literals blanked, in place."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Literals first: a comment sign inside a string is none.
        literals = [(m.start(), m.end()) for m in _LITERAL.finditer(_COMMENT.sub(_blank, text))]
        no_comments = _COMMENT.sub(_blank, text)
        no_directives = _DIRECTIVE.sub(_blank, no_comments)
        self.code = _LITERAL.sub(_blank, no_directives)
        self.bodies = [
            _Body(m["name"], m["parameters"], m.start("body"), m.end("body")) for m in _BODY.finditer(self.code)
        ]
        self.strings = [(start, end) for start, end in literals if text[start] == '"' and no_directives[start] == '"']

    def edit(self, kind: str, body: _Body, start: int, end: int, new: str) -> Mutation:
        line = self.text.count("\n", 0, start) + 1
        what = f"{self.text[start:end]} -> {new}"
        return Mutation(kind, body.name, line, what, self.text[:start] + new + self.text[end:])


Edit = tuple[int, int, str]
"""Start, end and what stands there instead."""


def _constants(source: _Source, body: _Body) -> Iterator[Edit]:
    numbers = re.compile(r"(?<![\w.])(0x[0-9a-fA-F]+|\d+)(?=[uUlL]*\b)(?![\w.]*\w*\.)")
    for m in numbers.finditer(source.code[body.start : body.end]):
        value = int(m[1], 16) if m[1].startswith("0x") else int(m[1], 8 if m[1].startswith("0") else 10)
        step = -1 if value > 1 and value % 2 else 1
        new = hex(value + step) if m[1].startswith("0x") else str(value + step)
        at = body.start + m.start(1)
        yield at, at + len(m[1]), new


def _comparisons(source: _Source, body: _Body) -> Iterator[Edit]:
    for m in re.finditer(r" (==|!=|<=|>=|<|>) ", source.code[body.start : body.end]):
        at = body.start + m.start(1)
        yield at, at + len(m[1]), _TURNED[m[1]]


def _fields(source: _Source, body: _Body) -> Iterator[Edit]:
    used: dict[str, list[tuple[int, str]]] = {}
    for m in re.finditer(r"\b(\w+)->(\w+)\b(?!\s*\()", source.code[body.start : body.end]):
        used.setdefault(m[1], []).append((body.start + m.start(2), m[2]))
    for rows in used.values():
        names = sorted({name for _, name in rows})
        if len(names) > 1:
            for at, name in rows:
                new = names[(names.index(name) + 1) % len(names)]
                yield at, at + len(name), new


def _callees(source: _Source, body: _Body) -> Iterator[Edit]:
    alike: dict[str, str] = {}
    for a, b in _ALIKE:
        alike.setdefault(a, b)
        if b.isidentifier():
            alike.setdefault(b, a)
    signatures: dict[str, list[str]] = {}
    for other in source.bodies:
        types = re.sub(r"\s*\b\w+\s*(,|$)", r"\1", " ".join(other.parameters.split()))
        signatures.setdefault(types, []).append(other.name)
    for names in signatures.values():
        for a, b in zip(names, names[1:] + names[:1], strict=True):
            if a != b:
                alike.setdefault(a, b)
    for m in re.finditer(r"(?<![\w.>])([A-Za-z_]\w*)(?=\s*\()", source.code[body.start : body.end]):
        new = alike.get(m[1])
        if new and new != body.name:
            at = body.start + m.start(1)
            yield at, at + len(m[1]), new


def _strings(source: _Source, body: _Body) -> Iterator[Edit]:
    for start, end in source.strings:
        if not body.start <= start < body.end:
            continue
        text = source.text[start:end]
        letters = [m.start() for m in re.finditer(r"(?<![%\\a-z0-9#.*-])[a-zA-Z](?=[a-z])", text)]
        if letters:
            at = start + letters[-1]
            new = "q" if source.text[at] != "q" else "z"
            yield at, at + 1, new


KINDS: dict[str, Callable[[_Source, _Body], Iterator[Edit]]] = {
    "constant": _constants, "comparison": _comparisons, "field": _fields, "callee": _callees, "string": _strings,
}  # fmt: skip


def mutations(text: str, kind: str, seed: str, most: int) -> list[Mutation]:
    """Up to `most` mutations of one kind, in an order that `seed` decides."""
    source = _Source(text)
    edits = [(body, edit) for body in source.bodies for edit in KINDS[kind](source, body)]
    random.Random(seed).shuffle(edits)
    return [source.edit(kind, body, *edit) for body, edit in edits[:most]]
