"""What may differ in the encoding without a change, and the nearest difference that is one.

Of builder/compare/code.py (NOPs, relaxed branches, relocation types), builder/compare/view.py (padding, labels,
bytes without a symbol), and the special tables: what an entry says counts, its line and its place do not, and a table
that follows from the instructions counts through them alone.
"""

from __future__ import annotations

import pytest

from builder.errors import BespokeError
from builder.pipeline import diff_objects
from tests.compare.rules import Judgement, Rule, judge_rules, rows
from tests.support.compiling import Build


def function(body: str, *, before: str = "", behind: str = "", data: str = "") -> str:
    """`f~` in a section of its own; `before` and `behind` it bytes of the same section, `data` elsewhere."""
    return f"""
        .section .text.f~,"ax",@progbits
        .globl f~
        .type f~,@function
        {before}
f~:     {body}
.Lend~: .size f~, .Lend~ - f~
        {behind}
        {data}
    """


def table(name: str, flags: str, entries: str) -> str:
    return f'.section {name},"{flags}",@progbits\n{entries}\n'


ENTRIES = ".long .Lone~ - ., .Lfile~ - .\n.word 10, 0x901\n.long .Ltwo~ - ., .Lfile~ - .\n.word 20, 0x907"
EXCHANGED = ".long .Lone~ - ., .Lfile~ - .\n.word 10, 0x907\n.long .Ltwo~ - ., .Lfile~ - .\n.word 20, 0x901"
BUG = table("__bug_table", "aw", ENTRIES) + '.section .rodata.str1.1,"aMS",@progbits,1\n.Lfile~: .string "unit~.c"'
ROW = function("leaq .Lr~(%rip), %rax\nret", data='.section .rodata.rows~,"a",@progbits\n.Lr~: .quad 1, 2, there~')
LITERAL = function(
    "movq .Lc~(%rip), %rax\nret",
    data='.section .rodata.cst8,"aM",@progbits,8\n.Lc~: .quad 0x1122334455667701',
)
GAP = function(
    "incl %eax\njmp .Lgap~",
    behind=".p2align 4\n.Lgap~: incl %edx\nret\n.globl g~\n.type g~,@function\ng~: ret\n.size g~, . - g~",
)

CODE = (
    Rule("nop", function("incl %eax\nnop\nret"), ("nop", ".nops 9"), ("nop", "decl %ecx")),
    Rule(
        "alignment_in_a_loop",
        function("xorl %eax, %eax\n.p2align 2\n1: incl %eax\njne 1b\nret"),
        (".p2align 2", ".p2align 5"),
        (".p2align 2", "cltq"),
    ),
    Rule(
        "nop_that_a_branch_leads_to",
        function("je 1f\nincl %eax\n1: nop\ndecl %ecx\nret"),
        ("1: nop\n", "nop\n1: "),
        ("1: nop\ndecl %ecx\n", "nop\ndecl %ecx\n1: "),
    ),
    Rule("relaxed", function("je 1f\nincl %eax\n1: decl %ecx\nret"), ("je 1f", "{disp32} je 1f"), ("je 1f", "jne 1f")),
    Rule(
        "relaxed_and_led_elsewhere",
        function("je 1f\nincl %eax\n1: decl %ecx\n2: ret"),
        None,
        ("je 1f", "{disp32} je 2f"),
    ),
    Rule(
        "backwards",
        function("1: incl %eax\n2: decl %ecx\njne 1b\nret"),
        ("jne 1b", "{disp32} jne 1b"),
        ("jne 1b", "{disp32} jne 2b"),
    ),
    Rule(
        "jump_to_itself",
        function("incl %eax\n1: jmp 1b"),
        ("jmp 1b", "{disp32} jmp 1b"),
        ("1: jmp 1b", "1: decl %eax; jmp 1b"),
    ),
    Rule(
        "call_by_another_type",
        function("incl %eax\ncall there~\nret"),
        ("call there~", ".byte 0xe8; .long there~ - . - 4"),
        ("call there~", ".byte 0xe8; .long there~ - . - 3"),
    ),
    Rule("call_of_another", function("call there~\nret"), None, ("call there~", "call where~")),
    Rule("call_or_jump", function("call there~\nret"), None, ("call there~", "jmp there~")),
    Rule("width_of_an_address", function("movq $there~, %rax\nret"), None, ("movq $", "movabsq $")),
    Rule("segment", function("movl there~(%rip), %eax\nret"), None, ("movl there", "movl %gs:there")),
    Rule("lock", function("lock incl (%rdi)\nret"), None, ("lock incl", "incl")),
    Rule("register", function("movl %esi, %eax\nret"), None, ("%esi", "%edx")),
    Rule("constant", function("movl $100, %eax\nret"), None, ("$100", "$101")),
    Rule("constant_with_a_wider_encoding", function("addl $100, %eax\nret"), None, ("$100", "$1000")),
    Rule("encoding_of_one_operation", function("addl $5, %ecx\nret"), None, ("addl $5", "addl $6")),
    Rule("unnamed_constant", LITERAL, (".Lc~: .quad", ".quad 77\n.Lc~: .quad"), ("667701", "667702")),
    Rule("unnamed_row", ROW, (".rodata.rows~", ".rodata.other~"), ("1, 2, there~", "1, 2, where~")),
    Rule("unnamed_row_in_another_order", ROW, None, ("1, 2, there~", "2, 1, there~")),
    Rule("label_without_size", function("incl %eax\nlabel~: decl %ecx\nret"), ("label~: ", ""), ("decl", "incl")),
    Rule("local_label_that_stays", function("incl %eax\n.Lx~: decl %ecx\nret"), (".Lx~: ", ".L0~: "), ("decl", "incl")),
    Rule(
        "more_padding_before",
        function("incl %eax\nret", before=".fill 16, 1, 0x90"),
        (".fill 16", ".fill 32"),
        ("incl", "decl"),
    ),
    Rule(
        "name_of_the_padding",
        function("incl %eax\nret", before=".fill 16, 1, 0x90"),
        (".fill 16", "__pfx_f~: .fill 16"),
        ("incl %eax\nret", "ret"),
    ),
    Rule(
        "hash_before",
        function("incl %eax\nret", before="__cfi_f~: movl $0x1234567, %eax\n.fill 11, 1, 0x90"),
        None,
        ("0x1234567", "0x1234568"),
        wrong="what stands before a function's entry and is no NOP is not compared",
    ),
    Rule(
        "fill_behind",
        function("incl %eax\nret", behind=".p2align 4"),
        (".p2align 4", ".p2align 6"),
        (".p2align 4", "incl %ecx"),
    ),
    Rule(
        "code_that_no_symbol_covers",
        GAP,
        None,
        ("incl %edx", "decl %edx"),
        wrong="code between functions that no symbol covers is not compared",
    ),
)

BUGS = function("je 1f\n.Lone~: ud2\n1: jne 2f\n.Ltwo~: ud2\n2: ret", data=BUG)
FIXUP = function(
    "incl %edx\n1: movl (%rdi), %eax\n2: movl (%rsi), %ecx\n3: incl %eax\n4: ret",
    data=table("__ex_table", "a", ".long 1b - ., 3b - ., 4\n.long 2b - ., 4b - ., 4"),
)
LABEL = function(
    "1: jmp 2f\nincl %eax\n2: decl %ecx\n3: ret",
    data=table("__jump_table", "aw", ".long 1b - ., 2b - .\n.quad key~ - ."),
)
TWO_NOPS = function(
    "je 4f\nincl %ecx\n1: .byte 0x0f, 0x1f, 0x44, 0, 0\n4: .byte 0x0f, 0x1f, 0x44, 0, 0\nincl %eax\n2: ret",
    data=table("__jump_table", "aw", ".long 1b - ., 2b - .\n.quad key~ - ."),
)
ALTERNATIVE = function(
    "incl %eax\n1: .nops 5\nret",
    data=table(".altinstructions", "a", ".long 1b - ., 3f - .\n.word 9, 0\n.byte 5, 5")
    + table(".altinstr_replacement", "ax", "3: movl $1, %eax"),
)
EMPTY = function(
    "incl %eax\n1: .nops 5\nret",
    data=table(".altinstructions", "a", ".long 1b - ., 3f - .\n.word 9, 1\n.byte 5, 0")
    + table(".altinstr_replacement", "ax", "3: "),
)
CALL = function("incl %eax\n1: call tramp~\nret", data=table(".static_call_sites", "aw", ".long 1b - ., key~ - ."))
TAIL_CALL = CALL.replace("1: call tramp~\nret", "1: jmp tramp~").replace("key~ - .", "key~ + 1 - .")
PARAVIRT = function(
    "incl %eax\n1: call *there~(%rip)\nret",
    data=table(".parainstructions", "a", ".balign 8\n.quad 1b\n.byte 84, 6\n.balign 8"),
)
LOCKS = function(
    "1: lock incl (%rdi)\n2: lock decl (%rsi)\nret", data=table(".smp_locks", "a", ".long 1b - .\n.long 2b - .")
)
UNWIND = function(
    "pushq %rax\n1: popq %rax\nret",
    data=table(".orc_unwind_ip", "a", ".long f~ - .\n.long 1b - .")
    + table(".orc_unwind", "a", ".byte 8, 0, 0, 0, 5, 0\n.byte 16, 0, 0, 0, 5, 0"),
)
MOVED = ("incl %eax\n1:", "incl %eax\nnop\n1:")

TABLES = (
    Rule("bug_line", BUGS, ("20, 0x907", "21, 0x907"), ("20, 0x907", "20, 0x905")),
    Rule("bug_flags_exchanged", BUGS, None, (ENTRIES, EXCHANGED)),
    Rule("bug_file", BUGS, None, ("unit~.c", "unix~.c")),
    Rule("bug_place", BUGS, None, (".long .Lone~ - .", ".long 1b - .")),
    Rule("fixup", FIXUP, ("2: movl", "nop\n2: movl"), (", 3b - .", ", 2b - .")),
    Rule("fixup_place", FIXUP, ("4: ret", "nop\n4: ret"), (".long 1b", ".long 3b")),
    Rule("fixup_kind", FIXUP, ("1: movl", "nop\n1: movl"), ("3b - ., 4", "3b - ., 5")),
    Rule("fixups_exchanged", FIXUP, None, (", 3b - ., 4\n.long 2b - ., 4b", ", 4b - ., 4\n.long 2b - ., 3b")),
    Rule("fixup_gone", FIXUP, None, ("\n.long 2b - ., 4b - ., 4", "")),
    Rule("jump_label_target", LABEL, ("2: decl", "nop\n2: decl"), (", 2b - .", ", 3b - .")),
    Rule("jump_label_key", LABEL, ("1: jmp 2f", "1: {disp32} jmp 2f"), ("key~", "lock~")),
    Rule("jump_label_default", LABEL, ("decl", "nop\ndecl"), ("key~ - .", "key~ + 1 - .")),
    Rule(
        "jump_label_told_twice",
        LABEL.replace("key~ - .", "key~ - .\n.long 1b - ., 2b - .\n.quad key~ - ."),
        ("key~ - .\n.long 1b - ., 2b - .\n.quad key~ - .", "key~ - ."),
        ("key~ - .\n.long", "lock~ - .\n.long"),
    ),
    Rule("jump_label_on_another_nop", TWO_NOPS, ("incl %ecx", "nop\nincl %ecx"), (".long 1b", ".long 4b")),
    Rule(
        "jump_label_past_a_branch",
        TWO_NOPS,
        None,
        ("1: .byte 0x0f, 0x1f, 0x44, 0, 0\n4:", "nop\n.byte 0x0f, 0x1f, 0x44, 0, 0\n4: 1:"),
        wrong="a jump label that moves to the NOP behind its own, where a branch leads, is not seen if the code moved",
    ),
    Rule("static_call_key", CALL, MOVED, ("key~ - .", "lock~ - .")),
    Rule("static_call_in_the_tail", TAIL_CALL, MOVED, ("key~ + 1 - .", "key~ - .")),
    Rule("alternative", ALTERNATIVE, ("3: movl", "nop\n3: movl"), ("movl $1", "movl $2")),
    Rule("alternative_for_a_feature", ALTERNATIVE, MOVED, (".word 9, 0", ".word 8, 0")),
    Rule("alternative_of_another_length", ALTERNATIVE, None, (".byte 5, 5", ".byte 5, 3")),
    Rule("alternative_of_nothing", EMPTY, ("3: ", "nop\n3: "), (".word 9, 1", ".word 9, 0")),
    Rule("paravirt", PARAVIRT, MOVED, (".byte 84", ".byte 85")),
    Rule("lock_prefix", LOCKS, (".long 1b - .\n.long 2b", ".long 2b - .\n.long 1b"), ("2: lock decl", "2: decl")),
    Rule(
        "where_ftrace_calls",
        function("1: call __fentry__\nincl %eax\nret", data=table("__mcount_loc", "a", ".quad 1b")),
        None,
        ("1: call __fentry__\n", "1: "),
    ),
    Rule(
        "unwinding",
        UNWIND,
        None,
        (".byte 16", ".byte 24"),
        wrong="how the stack is unwound may differ where the instructions do not, unseen",
    ),
    Rule(
        "return_site",
        function("incl %eax\n1: jmp __x86_return_thunk", data=table(".return_sites", "a", ".long 1b - .")),
        MOVED,
        (".long 1b", ".long f~"),
        wrong="an entry of a table that follows from the code may lead elsewhere, unseen",
    ),
)


@pytest.fixture(scope="module")
def code(build_once: Build) -> Judgement:
    return judge_rules(CODE, build_once, language="assembler")


@pytest.fixture(scope="module")
def tables(build_once: Build) -> Judgement:
    return judge_rules(TABLES, build_once, language="assembler")


@pytest.mark.parametrize("rule", rows(CODE, "excused"))
def test_it_is_excused(code: Judgement, rule: Rule) -> None:
    assert code.of(rule, code.excused) == ""


@pytest.mark.parametrize("rule", rows(CODE, "real"))
def test_the_nearest_change_is_not(code: Judgement, rule: Rule) -> None:
    assert code.sees(rule)


@pytest.mark.parametrize("rule", rows(TABLES, "excused"))
def test_an_entry_may_move(tables: Judgement, rule: Rule) -> None:
    assert tables.of(rule, tables.excused) == ""


@pytest.mark.parametrize("rule", rows(TABLES, "real"))
def test_what_an_entry_says_counts(tables: Judgement, rule: Rule) -> None:
    assert tables.sees(rule)


def test_a_relocation_that_a_kernel_does_not_apply_is_a_difference_or_named(build: Build) -> None:
    """Through the global offset table the address is read, not the variable."""
    old, new = (
        build(function(f"movq there{how}(%rip), %rax\nret").replace("~", ""), language="assembler")
        for how in ("", "@GOTPCREL")
    )
    try:
        assert diff_objects(old, new).changed == ("f",)
    except BespokeError as error:
        assert "relocation" in str(error) and ".text.f" in str(error)
