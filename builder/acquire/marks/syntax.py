"""C source as a tree: functions, statements and their places, in bytes of the file.

The parser is tree-sitter's, which takes a file without preprocessing it, so that every node has its place in what a
person sees. What it cannot know, that a name is a macro, it takes for a call; what follows from that is in `edits`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import tree_sitter_c
from tree_sitter import Language, Node, Parser

STATEMENTS = frozenset(
    f"{kind}_statement"
    for kind in (
        *("expression", "if", "for", "while", "do", "switch", "return", "goto", "break", "continue"),
        *("labeled", "case", "compound"),
    )
)
"""Nodes that are a statement; a declaration is none."""

# What a head cannot go back beyond, within so many bytes.
_ENDED = re.compile(rb"(?:[;}]|\*/|^#[^\n]*|^)\n", re.MULTILINE)
_LONGEST_HEAD = 2000
# The body of a function, in the kernel's style.
_OPENED = re.compile(rb"^\{", re.MULTILINE)
_SYSCALL = re.compile(rb"^(?:COMPAT_)?SYSCALL_DEFINE(\d)\(\s*(\w+)", re.MULTILINE)


#: words of the kernel that are no C for who does not preprocess it, and say nothing of names, types or statements
_ANNOTATIONS = re.compile(
    rb"\b(?:__(?:user|kernel|iomem|percpu|rcu|force|must_check|always_unused|maybe_unused|sched|init|exit|cold|net_init|"
    rb"net_exit|latent_entropy|visible|ref|meminit|cpuidle|weak|pure|always_inline)|noinline(?:_for_stack)?|asmlinkage|"
    rb"notrace|noinstr)\b|\b__(?:releases|acquires|must_hold|printf|scanf|no_sanitize\w*)\([^()\n]*\)"
)


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_c.language()))


def parse(text: bytes) -> Node:
    """The root of the tree of `text`; what is no C stands in it as ERROR nodes."""
    return _parser().parse(text).root_node


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, in the order of the text."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += reversed(found.children)


def spelled(node: Node) -> str:
    """A node's own text."""
    return (node.text or b"").decode("utf-8", "surrogateescape")


def declared(node: Node | None) -> str:
    """The name that a declarator declares, "" for none."""
    while node is not None and node.type not in ("identifier", "field_identifier"):
        inner = node.child_by_field_name("declarator")
        if inner is None:
            inner = next((c for c in node.named_children if "declarator" in c.type or c.type == "identifier"), None)
        node = inner
    return spelled(node) if node is not None else ""


@dataclass(frozen=True)
class Function:
    """A function with a body. `head` is what stands before the body, `first` the line of the head, from 1."""

    name: str
    head: str
    first: int
    body: Node
    declarator: Node | None

    @property
    def last(self) -> int:
        """The line of the closing brace."""
        return self.body.end_point[0] + 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters; those of a system call's macro are found in its text."""
        if self.declarator is None:
            words = [word.strip() for word in self.head[self.head.index("(") + 1 : self.head.rindex(")")].split(",")]
            return tuple(words[2::2])
        listed = self.declarator.child_by_field_name("parameters")
        names = (declared(c) for c in (listed.named_children if listed else ()) if c.type == "parameter_declaration")
        return tuple(name for name in names if name)

    @property
    def is_void(self) -> bool:
        """Whether it returns nothing."""
        if self.declarator is None:
            return False
        return bool(re.search(r"\bvoid\s*$", self.head[: self.head.index(self.name)]))

    def statements(self) -> Iterator[Node]:
        """All statements of the body, itself left out, in the order of the text."""
        return (node for node in walk(self.body) if node.type in STATEMENTS and node != self.body)

    def locals_before(self, offset: int) -> tuple[str, ...]:
        """Names that are declared in the blocks around `offset`, before it."""
        names = []
        for node in walk(self.body):
            if node.type != "declaration" or node.start_byte >= offset:
                continue
            block = node.parent
            while block is not None and block.type not in ("compound_statement", "for_statement"):
                block = block.parent
            if block is not None and block.start_byte <= offset <= block.end_byte:
                names += [declared(c) for c in node.children_by_field_name("declarator")]
        return tuple(dict.fromkeys(name for name in names if name))


def _blank(text: bytes) -> bytes:
    """As many bytes and lines as `text`, and nothing else."""
    return re.sub(rb"[^\n]", b" ", text)


class SourceText:
    """One file of C: `text` in bytes, its functions, its lines."""

    def __init__(self, path: str, text: bytes) -> None:
        self.path = path
        self.text = text

    @cached_property
    def lines(self) -> list[bytes]:
        return self.text.split(b"\n")

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """Every function of the file, also where the preprocessor would leave it out."""
        plain = _ANNOTATIONS.sub(lambda found: b" " * len(found[0]), self.text)
        found = {f.body.start_byte: f for f in self._in(parse(plain))}
        # Where conditions of the preprocessor part a block, what follows is lost: the functions there, one by one.
        for brace in _OPENED.finditer(plain):
            start, end = self._head(brace.start()), plain.find(b"\n}", brace.end())
            if brace.start() not in found and end > 0:
                alone = _blank(plain[:start]) + plain[start : end + 2]
                found |= {f.body.start_byte: f for f in self._in(parse(alone))}
        return tuple(found[start] for start in sorted(found))

    def _in(self, root: Node) -> Iterator[Function]:
        """The functions of a tree, also in what stands in conditions of the preprocessor."""
        waiting = list(reversed(root.children))
        while waiting:
            node = waiting.pop()
            made = None
            if node.type == "function_definition":
                made = self._defined(node)
            elif node.type == "compound_statement":
                made = self._by_macro(node)
            elif node.type.startswith("preproc_") or node.type in ("ERROR", "linkage_specification"):
                waiting += reversed(node.children)
            if made is not None:
                yield made

    def named(self, name: str) -> list[Function]:
        return [function for function in self.functions if function.name == name]

    def around(self, line: int) -> Function | None:
        """The function whose head or body has that line."""
        return next((f for f in self.functions if f.first <= line <= f.last), None)

    def _head(self, start: int) -> int:
        """Where the head begins that `start` is in: behind the last thing that ended, or a blank line."""
        window = max(0, start - _LONGEST_HEAD)
        ends = [window + found.end() for found in _ENDED.finditer(self.text[window:start])]
        return max(ends, default=window)

    def _defined(self, node: Node) -> Function | None:
        body = node.child_by_field_name("body")
        declarator = node.child_by_field_name("declarator")
        while declarator is not None and declarator.type != "function_declarator":
            declarator = declarator.child_by_field_name("declarator")
        if body is None or declarator is None:
            return None
        return self._function(declared(declarator), node.start_byte, body, declarator)

    def _by_macro(self, body: Node) -> Function | None:
        """A function whose head is a macro: a system call; its body is called `__do_sys_NAME`."""
        start = self._head(body.start_byte)
        found = _SYSCALL.search(self.text[start : body.start_byte])
        if found is None:
            return None
        compat = "compat_" if found[0].startswith(b"COMPAT") else ""
        return self._function(f"__do_{compat}sys_{found[2].decode()}", body.start_byte, body, None)

    def _function(self, name: str, start: int, body: Node, declarator: Node | None) -> Function:
        start = min(self._head(start), start)
        head = self.text[start : body.start_byte].decode("utf-8", "surrogateescape")
        start += len(head) - len(head.lstrip())
        return Function(name, head.strip(), self.text.count(b"\n", 0, start) + 1, body, declarator)
