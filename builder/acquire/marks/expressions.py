"""C expressions in the user's own words: whether they are one, and what in them would change something."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tree_sitter import Node

from builder.acquire.marks.syntax import parse, spelled, walk, without_types

#: functions and macros that change nothing and may be called from anywhere
PURE: Final = frozenset(
    """READ_ONCE smp_load_acquire rcu_dereference rcu_dereference_raw rcu_access_pointer container_of list_entry
    list_first_entry list_last_entry list_next_entry list_prev_entry list_first_entry_or_null list_empty
    list_is_singular list_is_last hlist_entry hlist_empty rb_entry
    likely unlikely min max min3 max3 min_t max_t clamp clamp_t clamp_val abs ARRAY_SIZE round_up round_down roundup
    rounddown DIV_ROUND_UP ALIGN PAGE_ALIGN IS_ALIGNED PTR_ALIGN offset_in_page upper_32_bits lower_32_bits div_u64
    sizeof typeof __typeof__ __alignof__ offsetof offsetofend sizeof_field BIT BIT_ULL GENMASK FIELD_GET
    IS_ERR IS_ERR_OR_NULL IS_ERR_VALUE PTR_ERR PTR_ERR_OR_ZERO ERR_PTR ERR_CAST IS_ENABLED IS_BUILTIN IS_MODULE
    __builtin_expect __builtin_constant_p __builtin_popcount __builtin_clz __builtin_ctz __builtin_ffs
    __builtin_object_size __builtin_types_compatible_p __builtin_choose_expr __builtin_offsetof __same_type
    atomic_read atomic64_read atomic_long_read refcount_read kref_read percpu_counter_read static_key_enabled
    test_bit hweight8 hweight16 hweight32 hweight64 hweight_long ilog2 fls fls64 ffs __ffs ffz is_power_of_2
    ntohs ntohl htons htonl be16_to_cpu be32_to_cpu be64_to_cpu le16_to_cpu le32_to_cpu le64_to_cpu
    cpu_to_be16 cpu_to_be32 cpu_to_be64 cpu_to_le16 cpu_to_le32 cpu_to_le64 swab16 swab32 swab64
    smp_processor_id raw_smp_processor_id numa_node_id cpu_to_node cpu_online task_cpu task_nice get_current
    task_pid_nr task_tgid_nr task_pid_vnr task_tgid_vnr pid_nr pid_vnr current_cred current_uid current_gid
    from_kuid from_kgid from_kuid_munged __kuid_val __kgid_val uid_eq gid_eq capable_noaudit fatal_signal_pending
    signal_pending need_resched d_inode d_backing_inode d_is_dir d_is_reg d_is_symlink d_unlinked d_unhashed
    file_inode file_count file_dentry i_size_read i_uid_read i_gid_read inode_get_ctime inode_is_locked
    dev_name netdev_name page_count page_mapcount page_to_pfn pfn_to_page virt_to_page virt_to_phys page_address
    page_to_nid folio_nr_pages folio_size folio_pos folio_order compound_order
    PageLocked PageDirty PageUptodate PageWriteback PageAnon folio_test_locked folio_test_dirty folio_test_uptodate
    MAJOR MINOR MKDEV S_ISREG S_ISDIR S_ISLNK S_ISBLK S_ISCHR in_interrupt in_task in_softirq in_hardirq in_nmi
    irqs_disabled preempt_count bio_op bio_sectors bio_end_sector bio_data_dir op_is_write bdev_nr_sectors
    req_op rq_data_dir blk_rq_bytes blk_rq_pos blk_rq_sectors
    skb_headlen skb_network_header skb_transport_header skb_mac_header skb_is_gso skb_is_nonlinear skb_shinfo
    ip_hdr ipv6_hdr tcp_hdr udp_hdr eth_hdr tcp_sk inet_sk sock_net dev_net read_pnet nla_len nla_type
    ktime_get_ns ktime_get_mono_fast_ns local_clock get_cycles time_after time_before jiffies_to_msecs
    jiffies_to_usecs msecs_to_jiffies ktime_to_ns ktime_to_us ktime_to_ms
    strlen strnlen strcmp strncmp strcasecmp strchr strrchr strstr memcmp spin_is_locked
    mutex_is_locked rwsem_is_locked per_cpu per_cpu_ptr this_cpu_read __this_cpu_read raw_cpu_read
    EXT4_SB EXT4_I XFS_I BTRFS_I""".split()  # noqa: SIM905
)

_CHANGES: Final = {
    "assignment_expression": "assigns",
    "update_expression": "changes a variable",
    "compound_statement": "holds statements",
    "gnu_asm_expression": "holds assembler",
    "initializer_list": "makes an object",
    "generic_expression": "chooses by a type",
}

#: types of the kernel without a word of C in them, so that `(u64)(x)` is no call of `u64`
_TYPE_NAME: Final = re.compile(
    r"(?:__)?[us](?:8|16|32|64)|__(?:be|le)(?:16|32|64)|u?int(?:8|16|32|64)_t|uintptr_t|bool|uint|ulong|ushort|"
    r"(?:s?size|loff|off|pid|uid|gid|kuid|kgid|dev|ino|mode|umode|nlink|sector|blkcnt|gfp|fmode|ktime|time64|"
    r"dma_addr|phys_addr|resource_size|pgoff|clock|key_serial|atomic|atomic64|atomic_long|ptrdiff|errseq|"
    r"vm_fault|blk_status|blk_opf|poll|__poll|cycles|daddr|swp_entry|spinlock)_t"
)
_LITERALS: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_FLOAT: Final = re.compile(r"(?!0[xX])(?:\d+\.\d*|\.\d+|\d+[eE][+-]?\d)[\w.]*")
LONGEST: Final = 1000
"""Characters of an expression or format: more is a mistake, and takes parsers long."""
ONE_EXPRESSION: Final = "say one expression, as you would write it on that line"


class NoExpressionError(Exception):
    """What is no expression: `what` is wrong, and `advice`."""

    def __init__(self, what: str, advice: str = ONE_EXPRESSION) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


def parse_expression(code: str) -> Node:
    """The node of one expression, in parentheses. Raises NoExpressionError."""
    if len(code) > LONGEST:
        raise NoExpressionError(f"has {len(code)} characters, more than {LONGEST}", "say less of it")
    plain = _LITERALS.sub("", code)
    if "??" in plain or not code.strip():
        raise NoExpressionError("is no C expression")
    if (found := re.search(r"\(\s*\{", plain)) is not None and not re.search(r"\)\s*\(\s*\{", plain):
        raise NoExpressionError("is no C expression: it holds statements", "say it without ({ and })")
    if (found := re.search(r"[#;]|/\*|//|\\|\n|&&\s*&&", plain)) is not None:
        raise NoExpressionError(f"is no C expression ({found[0].strip() or 'a new line'!r})")
    root = parse(without_types(f"void f(void) {{ __bespoke = ({code}); }}".encode("utf-8", "surrogateescape")))
    wanted = next((n for n in walk(root) if n.type == "assignment_expression"), None)
    right = wanted.child_by_field_name("right") if wanted is not None else None
    if root.has_error or right is None or right.type != "parenthesized_expression":
        raise NoExpressionError("is no C expression")
    if len(spelled(right)) != len(code) + 2:  # it ends before the text does
        raise NoExpressionError("is no C expression")
    for node in walk(right):
        if node.type == "comma_expression":
            first = node.child_by_field_name("left")
            told = f"{spelled(first)} ..." if first is not None else "A B"
            raise NoExpressionError("is several expressions with commas", f"say each as a word of its own: {told}")
        if _is_float(node):
            raise NoExpressionError(
                f"has {spelled(node)}: the kernel computes with no floating point", "say it in whole numbers"
            )
        if _is_label(node):
            raise NoExpressionError(f"{spelled(node)!r} is the address of a label", "say a value")
    return right


def _is_float(node: Node) -> bool:
    if node.type == "number_literal":
        return bool(_FLOAT.fullmatch(spelled(node)))
    return node.type == "primitive_type" and spelled(node) in ("float", "double")


def _is_label(node: Node) -> bool:
    """`&&label`, which the parser takes for the address of an address."""
    inner = node.child_by_field_name("argument")
    return (
        node.type == "pointer_expression"
        and inner is not None
        and inner.type == "pointer_expression"
        and spelled(node).replace(" ", "").startswith("&&")
    )


def side_effects(node: Node) -> Iterable[tuple[str, str]]:
    """What in an expression may change something, and how."""
    for found in walk(node):
        if found.type in _CHANGES:
            yield repr(spelled(found)), _CHANGES[found.type]
        elif found.type == "call_expression":
            name = called(found)
            if name not in PURE and not _is_cast(found):
                yield f"{name}()", "is called, and is not known to change nothing"
        elif found.type in ("pointer_expression", "cast_expression") and re.search(r"\bvolatile\b", spelled(found)):
            yield repr(spelled(found)), "reads what may be a device"


def called(node: Node) -> str:
    """What a call calls, as written."""
    function = node.child_by_field_name("function")
    return spelled(function) if function is not None else "?"


def _is_cast(node: Node) -> bool:
    """Whether what looks like a call is a conversion to a type that is known by its name."""
    name = re.sub(r"\s", "", called(node))
    return bool(re.fullmatch(rf"\((?:{_TYPE_NAME.pattern}|(?:__)?typeof(?:__)?\(.*\))\)", name))


def read_through(node: Node) -> Iterable[tuple[str, str]]:
    """(name, what is read) of each pointer that is a plain name and that the expression reads through."""
    for found in walk(node):
        base = None
        if (
            found.type == "subscript_expression"
            or (found.type == "pointer_expression" and spelled(found).startswith("*"))
            or (found.type == "field_expression" and any(child.type == "->" for child in found.children))
        ):
            base = found.child_by_field_name("argument")
        while base is not None and base.type in ("parenthesized_expression", "cast_expression", "binary_expression"):
            base = base.child_by_field_name("value") or base.child_by_field_name("left") or base.named_child(0)
        if base is not None and base.type == "identifier" and not _is_address(found):
            yield spelled(base), spelled(found)


def _is_address(node: Node) -> bool:
    """Whether only the address of what is named is taken."""
    outer = node.parent
    while outer is not None and outer.type in ("parenthesized_expression", "field_expression"):
        if any(child.type == "->" for child in outer.children):
            return False
        outer = outer.parent
    return outer is not None and outer.type == "pointer_expression" and spelled(outer).startswith("&")


def field_name(expression: str) -> str:
    """A name for the field of an expression: its identifiers, joined, the last two at most."""
    plain = re.sub(r"\([a-z_ ]+\*?\)|\"[^\"]*\"|'[^']*'|\b(?:struct|union|enum|unsigned|const)\b", " ", expression)
    plain = plain.replace("$retval", "retval")
    words = re.findall(r"[A-Za-z_]\w*", plain)
    words = re.findall(r"[A-Za-z_]\w*\b(?!\s*\()", plain) or words or ["value"]
    return "_".join(words[-2:])[:40]
