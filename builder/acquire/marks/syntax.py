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
from tree_sitter import Language, Node, Parser, Point, Range

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
#: A loop of a macro is one for the parser too: it has one statement.
_LOOP = re.compile(
    rb"(?:(?<=[\t\n{)] )|(?<=[\t\n{)])|(?<=\belse ))(?P<name>\w*for_each\w*|scoped_(?:cond_)?guard)(?=[ \t]*\()"
)
#: and so is anything else that is called and has a block
_BLOCK_LOOP = re.compile(
    rb"^(?P<before>[ \t]+)(?P<name>(?!while\b|switch\b)[a-z_]\w{4,})(?=\([^;{}\n]*\)[ \t]*\{[ \t]*$)", re.MULTILINE
)
#: a type as the argument of a macro (container_of, min_t), which is no argument of a function
_TYPE_ARGUMENT = re.compile(
    rb"(?:(?<=\w\()|(?<=,))\s*(?:(?:const|volatile)\s+)*"
    rb"(?:(?:struct|union|enum)\s+\w+|(?:(?:unsigned|signed|long|short|int|char)\b\s*)+|void(?=\s*\*))(?:\s*\*+)?"
    rb"\s*(?=[,)])"
)
#: `static DEFINE_MUTEX(lock);` declares what its macro says
_STATIC_MACRO = re.compile(rb"\bstatic(?=\s+[A-Z][A-Z0-9_]+\s*\()")
_COMMENT = re.compile(rb"/\*.*?\*/|//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", re.DOTALL)
# The body of a function, in the kernel's style.
_OPENED = re.compile(rb"^\{", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Maker:
    """A macro that makes a function of its arguments and the body behind it.

    `name` is the function's, from the first argument; `returns` its type, None where it returns nothing, and
    `parameters` which words of the arguments are names (as a slice) or, as text, how the macro calls them.
    """

    macro: re.Pattern[str]
    name: str
    returns: str | None
    parameters: slice | str


#: include/linux/syscalls.h, include/linux/compat.h, arch/x86/include/asm/idtentry.h, include/linux/filter.h (v6.1)
_MAKERS = (
    _Maker(re.compile(r"SYSCALL_DEFINE\d"), "__do_sys_{}", "long", slice(2, None, 2)),
    _Maker(re.compile(r"COMPAT_SYSCALL_DEFINE\d"), "__do_compat_sys_{}", "long", slice(2, None, 2)),
    _Maker(re.compile(r"DEFINE_IDTENTRY_SYSVEC"), "__{}", None, "regs"),
    _Maker(re.compile(r"DEFINE_IDTENTRY_IRQ"), "__{}", None, "regs vector"),
    _Maker(re.compile(r"DEFINE_IDTENTRY\w*"), "{}", None, "regs"),
    _Maker(re.compile(r"BPF_CALL_\d"), "{}", "u64", slice(2, None, 2)),
    _Maker(re.compile(r"[A-Z][A-Z0-9_]*"), "{}", "__auto_type", slice(0, 0)),
)
_MADE = re.compile(r"(?:^|\s)(?P<macro>[A-Z][A-Z0-9_]*)\s*\((?P<words>[^()]*)\)\s*$")

#: words of the kernel that are no C for who does not preprocess it, and say nothing of names, types or statements
_ANNOTATIONS = re.compile(
    rb"\b(?:__(?:user|kernel|iomem|percpu|rcu|force|must_check|always_unused|maybe_unused|sched|init|exit|cold|net_init|"
    rb"net_exit|latent_entropy|visible|ref|meminit|init_memblock|init_or_module|cpuidle|weak|pure|always_inline|hot|"
    rb"kprobes|lockfunc|noreturn|used|malloc|flatten|private|bpf_kfunc|nocfi|no_kcsan|no_sanitize_or_inline|"
    rb"no_kcsan_or_inline|no_profile|no_fgcse|read_mostly|ro_after_init|initdata|"
    rb"softirq_entry|irq_entry|head|noclone|attribute_const__)|"
    rb"noinline(?:_for_stack|_for_tracing)?|asmlinkage|nokprobe_inline|INDIRECT_CALLABLE_SCOPE|notrace|noinstr)\b|"
    rb"^STATIC\b(?=[ \w\n*]*\()|\b__(?:free|counted_by|releases|acquires|must_hold|cond_acquires|printf|scanf|"
    rb"no_sanitize\w*|aligned|section|alias)\([^()\n]*\)",
    re.MULTILINE,
)


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_c.language()))


def parse(text: bytes) -> Node:
    """The root of the tree of `text`; what is no C stands in it as ERROR nodes."""
    return _parser().parse(text).root_node


def _parse_part(text: bytes, start: int, end: int) -> Node:
    """The same of the bytes [start, end) alone, at their places in `text`."""
    first, last = (Point(text.count(b"\n", 0, at), at - (text.rfind(b"\n", 0, at) + 1)) for at in (start, end))
    part = Parser(Language(tree_sitter_c.language()), included_ranges=[Range(first, last, start, end)])
    return part.parse(text).root_node


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
    """A function with a body. `head` is what stands before the body, `first` the line of the head, from 1.

    `returns` is the type of its value as an expression at each return may say it, None where it returns nothing.
    `macro` made it, "" for a function that is written out.
    """

    name: str
    head: str
    first: int
    body: Node
    parameters: tuple[str, ...]
    returns: str | None
    macro: str = ""

    @property
    def last(self) -> int:
        """The line of the closing brace."""
        return self.body.end_point[0] + 1

    @property
    def is_void(self) -> bool:
        """Whether it returns nothing."""
        return self.returns is None

    @property
    def has_head(self) -> bool:
        """Whether what stands before the body is a head and nothing else."""
        return not re.search(r"[;{}]", re.sub(r"/\*.*?\*/|//[^\n]*|(?m:^[ \t]*#.*$)", "", self.head, flags=re.DOTALL))

    @property
    def is_whole(self) -> bool:
        """Whether all of it was understood."""
        return self.has_head and not self.body.has_error

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


def _is_call(text: bytes, at: int) -> bool:
    """Whether the parentheses behind `at` are all of a statement: what looks like the head of a loop is called then."""
    depth = 0
    for sign in re.finditer(rb"[()]", text[at : at + _LONGEST_HEAD]):
        depth += 1 if sign[0] == b"(" else -1
        if not depth:
            return text[at + sign.end() :][:1] == b";"
    return False


def _plain(text: bytes) -> bytes:
    """The text as the parser understands it best, each byte at its place."""
    text = _ANNOTATIONS.sub(lambda found: b" " * len(found[0]), text)
    text = _LOOP.sub(lambda found: found[0] if _is_call(text, found.end()) else b"while".ljust(len(found[0])), text)
    text = _BLOCK_LOOP.sub(lambda found: found["before"] + b"while".ljust(len(found["name"])), text)
    return without_types(_STATIC_MACRO.sub(b"      ", text))


def without_types(text: bytes) -> bytes:
    """The text with each type that is the argument of a macro as a name, of the same length and on the same lines."""

    def named(found: re.Match[bytes]) -> bytes:
        whole = found[0]
        start = len(whole) - len(whole.lstrip())
        inner = whole[start:]
        return whole if b"\n" in inner else whole[:start] + b"_" * len(inner)

    return _TYPE_ARGUMENT.sub(named, text)


class SourceText:
    """One file of C: `text` in bytes, its functions, its lines."""

    def __init__(self, path: str, text: bytes) -> None:
        self.path = path
        self.text = text

    @cached_property
    def lines(self) -> list[bytes]:
        return self.text.split(b"\n")

    @cached_property
    def code_lines(self) -> list[bytes]:
        """The lines without comments."""
        return _COMMENT.sub(lambda f: _blank(f[0]) if f[0][:1] == b"/" else f[0], self.text).split(b"\n")

    def in_definition(self, line: int) -> bool:
        """Whether a line belongs to the definition of a macro."""
        while line > 1 and self.lines[line - 2].rstrip().endswith(b"\\"):
            line -= 1
        return bool(re.match(rb"\s*#\s*define\b", self.lines[line - 1]))

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """Every function of the file, also where the preprocessor would leave it out."""
        plain = _plain(self.text)
        found = {f.body.start_byte: f for f in self._in(parse(plain))}
        # What cannot be understood, as where conditions of the preprocessor part a block, takes what follows with it:
        # the functions there, one by one.
        for brace in _OPENED.finditer(plain):
            there = found.get(brace.start())
            if there is not None and there.is_whole:
                continue
            start, end = self._head(brace.start()), plain.find(b"\n}", brace.end())
            if end > 0:
                alone = [f for f in self._in(_parse_part(plain, start, end + 2)) if f.body.start_byte == brace.start()]
                found |= {f.body.start_byte: f for f in alone if there is None or f.is_whole}
        return tuple(found[start] for start in sorted(found) if found[start].has_head)

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
        if body is None:
            return None
        head, first = self._head_of(node.start_byte, body)
        if declarator is None or (_MADE.search(head) and not node.child_by_field_name("type")):
            return self._by_macro(body)
        name = declared(declarator)
        listed = declarator.child_by_field_name("parameters")
        names = [declared(c) for c in (listed.named_children if listed else ()) if c.type == "parameter_declaration"]
        parameters = tuple(filter(None, names))
        named = re.search(rf"\b{re.escape(name)}\s*\(", head)
        is_void = bool(re.search(r"\bvoid\b[^*]*\Z", head[: named.start()] if named else head))
        # Converted as the function converts it: its own type is that of a call, which is not made.
        returns = None if is_void else f"__typeof__({name}({', '.join(parameters)}))"
        return Function(name, head, first, body, parameters, returns)

    def _by_macro(self, body: Node) -> Function | None:
        """A function whose head is a macro, such as a system call."""
        head, first = self._head_of(body.start_byte, body)
        found = _MADE.search(head)
        if found is None:
            return None
        row = next(row for row in _MAKERS if row.macro.fullmatch(found["macro"]))
        words = [" ".join(word.split()) for word in found["words"].split(",")]
        plain = re.fullmatch(r"\w+", words[0])
        if plain is None:
            return None
        names = tuple(row.parameters.split()) if isinstance(row.parameters, str) else tuple(words[row.parameters])
        return Function(row.name.format(words[0]), head, first, body, names, row.returns, found["macro"])

    def _head_of(self, start: int, body: Node) -> tuple[str, int]:
        """The text before the body of what begins at `start`, and its line."""
        start = min(self._head(start), start)
        head = self.text[start : body.start_byte].decode("utf-8", "surrogateescape")
        start += len(head.encode("utf-8", "surrogateescape")) - len(head.lstrip().encode("utf-8", "surrogateescape"))
        return head.strip(), self.text.count(b"\n", 0, start) + 1
