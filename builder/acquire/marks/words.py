"""What a mark says: its expressions and format, as the user wrote them, and what they may not do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tree_sitter import Node

from builder.acquire.marks.syntax import parse, spelled, walk
from builder.errors import Refusal, RefusedError, UsageError

Aggregate = Literal["", "count", "sum", "hist", "time"]

RETVAL: Final = "$retval"
RETVAL_NAME: Final = "__bespoke_retval"

#: functions and macros that change nothing and may be called from anywhere
PURE: Final = frozenset(
    """READ_ONCE smp_load_acquire rcu_dereference rcu_dereference_raw rcu_access_pointer container_of list_entry
    list_first_entry list_last_entry list_empty hlist_entry likely unlikely min max min_t max_t clamp abs ARRAY_SIZE
    sizeof typeof __typeof__ offsetof BIT BIT_ULL IS_ERR IS_ERR_OR_NULL PTR_ERR ERR_PTR IS_ENABLED
    atomic_read atomic64_read atomic_long_read refcount_read kref_read
    test_bit hweight32 hweight64 hweight_long ilog2 fls fls64 ffs __ffs
    ntohs ntohl htons htonl be16_to_cpu be32_to_cpu be64_to_cpu le16_to_cpu le32_to_cpu le64_to_cpu
    cpu_to_be16 cpu_to_be32 cpu_to_be64 cpu_to_le16 cpu_to_le32 cpu_to_le64
    smp_processor_id raw_smp_processor_id task_pid_nr task_tgid_nr task_pid_vnr current_uid from_kuid
    d_inode d_backing_inode file_inode i_size_read inode_get_ctime dev_name netdev_name page_count page_mapcount
    page_to_pfn pfn_to_page virt_to_page page_address PageLocked PageDirty PageUptodate
    MAJOR MINOR S_ISREG S_ISDIR S_ISLNK in_interrupt in_task in_softirq in_nmi irqs_disabled
    skb_headlen skb_network_header skb_transport_header ip_hdr ipv6_hdr tcp_hdr udp_hdr sock_net dev_net
    ktime_get_ns local_clock jiffies_to_msecs ktime_to_ns strlen strcmp strncmp memcmp spin_is_locked
    mutex_is_locked rwsem_is_locked per_cpu per_cpu_ptr this_cpu_read __this_cpu_read raw_cpu_read""".split()  # noqa: SIM905
)

_CHANGES: Final = {
    "assignment_expression": "assigns",
    "update_expression": "changes a variable",
    "compound_statement": "holds statements",
    "gnu_asm_expression": "holds assembler",
    "initializer_list": "makes an object",
}
_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\d+)?(?:\.(?P<precision>\d+))?(?P<length>hh|h|ll|l|z|t|L)?"
    r"(?P<kind>[diouxXcsp%])(?P<more>(?<=p)[A-Za-z0-9]*)?"
)
#: forms of %p that print what a pointer leads to (Documentation/core-api/printk-formats.rst, v6.1): said at the hit
_POINTED: Final = re.compile(r"([IiMmUdDEhRrbgtaVOfsSBN]\w*)")


@dataclass(frozen=True, slots=True)
class Conversion:
    """One `%` of a format: its whole `text`, the letter `kind`, and for `%p` the `more` that the kernel knows."""

    text: str
    kind: str
    more: str = ""

    @property
    def at_hit(self) -> bool:
        """Whether it prints what a pointer leads to, so that it has to be printed when the mark is hit."""
        return self.kind == "p" and self.more not in ("", "x", "K")


@dataclass(frozen=True, slots=True)
class Expression:
    """A C expression: `text` as written, `name` of its field in the records, the `$retval` in it replaced in `code`."""

    text: str
    name: str
    code: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark as it was asked for.

    `words` are a format and expressions, or expressions alone. `aggregate` counts instead of recording, `value` is
    what is summed or sorted into a histogram; for `time` it is the key, the same at the place `until`. `every` records
    each n-th hit, `limit` so many in a second (0: all).
    """

    place: str
    words: tuple[str, ...] = ()
    condition: str = ""
    every: int = 1
    limit: int = 0
    aggregate: Aggregate = ""
    value: str = ""
    stack: bool = False
    unsafe: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a mark, understood: a format (None: by the types) with its conversions, and the expressions."""

    format: str | None
    conversions: tuple[Conversion, ...]
    fields: tuple[Expression, ...]
    condition: Expression | None
    value: Expression | None


def understood(mark: Mark) -> Said:
    """The words of `mark`; RefusedError for an expression that is none, or that would change something."""
    if mark.every < 1:
        raise UsageError(f"--every takes a number from 1 on, not {mark.every}")
    if mark.limit < 0:
        raise UsageError(f"--limit takes a number of records in a second, not {mark.limit}")
    format_, rest = _split(mark.words)
    conversions = read_format(mark.place, format_) if format_ is not None else ()
    if format_ is not None and len(conversions) != len(rest):
        raise _refused(
            mark.place,
            f"the format {format_!r} has {len(conversions)} conversions, and {len(rest)} expressions follow",
            "say one expression for each %, and %% for a percent sign",
            code="mark-format",
        )
    taken: dict[str, int] = {}
    fields = tuple(read_expression(mark, text, taken) for text in rest)
    condition = read_expression(mark, mark.condition, {}) if mark.condition else None
    value = read_expression(mark, mark.value, {}) if mark.value else None
    return Said(format_, conversions, fields, condition, value)


def _split(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """A format stands in double quotes, or has a % and is no expression, or as many conversions as words follow."""
    if not words:
        return None, words
    first = words[0]
    if len(first) > 1 and first[0] == first[-1] == '"':
        return first[1:-1], words[1:]
    count = sum(found["kind"] != "%" for found in _CONVERSION.finditer(first))
    if (count and count == len(words) - 1) or ("%" in first and not _parsed(_renamed(_named(first)[1]))):
        return first, words[1:]
    return None, words


def read_format(place: str, text: str) -> tuple[Conversion, ...]:
    """The conversions of a format; RefusedError for one that the kernel's printf has not."""
    found, at = [], 0
    while (at := text.find("%", at)) >= 0:
        match = _CONVERSION.match(text, at)
        if match is None:
            what = f"the format {text!r}: {text[at : at + 4]!r} is no conversion"
            advice = "the kernel's are in Documentation/core-api/printk-formats.rst: %d %u %x %lld %s %p %pI4 %pS"
            raise _refused(place, what, advice, code="mark-format")
        more = match["more"] or ""
        if match["kind"] == "p" and more and more not in ("x", "K") and not _POINTED.fullmatch(more):
            raise _refused(
                place, f"the format {text!r}: %p{more} is not known", "write a space behind %p, or a form of printk",
                code="mark-format",
            )  # fmt: skip
        if match["kind"] != "%":
            found.append(Conversion(match[0], match["kind"], more))
        at = match.end()
    return tuple(found)


_NAME = re.compile(r"([A-Za-z_]\w*)=(?!=)(.+)", re.DOTALL)


def _named(text: str) -> tuple[str, str]:
    """`NAME=EXPR`: the name of the field, and the expression."""
    found = _NAME.fullmatch(text)
    return (found[1], found[2]) if found else ("", text)


def _renamed(text: str) -> str:
    return text.replace(RETVAL, RETVAL_NAME)


def _parsed(code: str) -> Node | None:
    """The expression's node, None for what is no single expression."""
    if re.search(r"[#;]|/\*|//|\\\n|\n", re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "", code)):
        return None
    root = parse(f"void f(void) {{ __bespoke = ({code}); }}".encode())
    if root.has_error:
        return None
    wanted = next((n for n in walk(root) if n.type == "assignment_expression"), None)
    right = wanted.child_by_field_name("right") if wanted is not None else None
    if right is None or right.type != "parenthesized_expression" or spelled(right) != f"({code})":
        return None
    return right


def read_expression(mark: Mark, text: str, taken: dict[str, int]) -> Expression:
    """One expression, refused where it is none, or has side effects without `unsafe`."""
    name, expression = _named(text)
    code = _renamed(expression.strip())
    if RETVAL in expression and not mark.place.endswith("%return"):
        raise _refused(
            mark.place, f"{RETVAL} in {text!r} is there at a return only", "say FUNCTION%return for the place",
            code="mark-expression",
        )  # fmt: skip
    if "__bespoke" in expression:
        raise _refused(mark.place, f"{text!r}: names that begin with __bespoke are the marks' own",
                       "say it without them", code="mark-expression")  # fmt: skip
    node = _parsed(code)
    if node is None:
        raise _refused(
            mark.place, f"{text!r} is no C expression", "say one expression, as you would write it on that line",
            code="mark-expression",
        )  # fmt: skip
    if not mark.unsafe:
        for found, why in side_effects(node):
            raise _refused(
                mark.place,
                f"{text!r}: {found} {why}, and a mark must not change what the function computes",
                "say an expression without it; --unsafe takes it all the same",
                code="mark-side-effect",
            )
    return Expression(text, _unique(name or field_name(expression), taken), code)


def side_effects(node: Node) -> Iterable[tuple[str, str]]:
    """What in an expression may change something, and how."""
    for found in walk(node):
        if found.type in _CHANGES:
            yield repr(spelled(found)), _CHANGES[found.type]
        elif found.type == "call_expression":
            function = found.child_by_field_name("function")
            name = spelled(function) if function is not None else "?"
            if name not in PURE:
                yield f"{name}()", "is called, and is not known to change nothing"
        elif found.type == "pointer_expression" and "volatile" in spelled(found):
            yield repr(spelled(found)), "reads what may be a device"


def field_name(expression: str) -> str:
    """A name for the field of an expression: its identifiers, joined, the last two at most."""
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"\([a-z_ ]+\*?\)|\"[^\"]*\"|\b(?:struct|unsigned|const)\b", " ",
                                               expression.replace(RETVAL, "retval")))  # fmt: skip
    words = [word for word in words if word not in PURE] or words or ["value"]
    return "_".join(words[-2:])[:40]


#: fields that every record has (kernel/trace/trace_events.c), and names of C that a field must not have
_OWN = frozenset(
    ("common_type", "common_flags", "common_preempt_count", "common_pid", "comm", "stack", "ent", "int", "char", "long")
)


def _unique(name: str, taken: dict[str, int]) -> str:
    name = f"{name}_" if name in _OWN else name
    count = taken[name] = taken.get(name, 0) + 1
    return name if count == 1 else f"{name}_{count}"


def _refused(place: str, what: str, advice: str, *, code: str) -> RefusedError:
    return RefusedError([Refusal(code, place, "", f"{place}: {what}", advice)])
