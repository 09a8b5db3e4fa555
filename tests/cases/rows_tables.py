"""Tables beside the code: known ones whose fields change, unknown ones, exports, parameters, what runs at start."""

from __future__ import annotations

from tests.cases.written import Row, asm


def _table(section: str, entry: str, *, code: str = "nop", flags: str = "a") -> str:
    """A function with one entry in a table; `1:` is its place, `2:` the place behind."""
    return (
        f'int f(int x) {{ __asm__ volatile("1: {code}\\n2: .pushsection {section},\\"{flags}\\"\\n'
        f'{entry}\\n.popsection" : : "i"(4)); return sink(x); }}'
    )


_KEY = "struct key { long state; void *type; } key = { 1 }; struct key other;"
_JUMP = (
    _KEY + "int f(int x) {"
    ' __asm__ goto(".byte 0x0f,0x1f,0x44,0,0\\n1: .pushsection __jump_table,\\"aw\\"\\n.balign 8\\n'
    '.long 1b-5-., %l[yes]-.\\n.quad KEY-.\\n.popsection" : : : : yes, no);'
    " return sink(x, 1); yes: return sink(x, 2); no: return sink(x, 3); }"
)
_BUG = _table("__bug_table", ".balign 4\\n.long 1b-., file-.\\n.word 12, 2307", code="ud2", flags="aw")
_FORMAT = (
    'int f(int x) { __asm__ volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n.balign 4\\n.long 1b-., %c0-.\\n'
    '.word 2307, 0\\n.popsection" : : "i"("bad %d")); return sink(x); }'
)
_FILES = 'static const char file[] __used = "a.h"; static const char header[] __used = "b.h";'
_ALT = _table(
    ".altinstructions",
    '.long 1b-., 3f-.\\n.word 9\\n.byte 5, 2\\n.popsection\\n.pushsection .altinstr_replacement,\\"ax\\"\\n3: REPL',
    code=".byte 0x0f,0x1f,0x44,0,0",
)
_EXPORT_61 = (
    asm(
        '.section "___ksymtab+f","a"',
        ".balign 4",
        "__ksymtab_f: .long f-., __kstrtab_f-., __kstrtabns_f-.",
        '.section "__ksymtab_strings","aMS",@progbits,1',
        '__kstrtab_f: .asciz "f"',
        '__kstrtabns_f: .asciz "ONE"',
    )
    + "int f(int x) { return sink(x); }"
)
_EXPORT_612 = (
    asm('.section .export_symbol,"a"', '__export_symbol_f: .asciz "GPL"', '.asciz "ONE"', ".balign 8", ".quad f")
    + "int f(int x) { return sink(x); }"
)
_PARAM = (
    "struct param { const char *name; int *arg; unsigned short perm; signed char level; };"
    'static int bump; static const struct param __param_bump __section("__param") __used = { "bump", &bump, 0444, -1 };'
    "int f(int x) { return sink(bump); }"
)

ROWS = (
    Row("branch of a jump label", _JUMP.replace("KEY", "key"), (("key-.", "key + 1 -."),), "changed f"),
    Row("key of a jump label", _JUMP.replace("KEY", "key"), (("key-.", "other-."),), "changed f"),
    Row("target of a jump label", _JUMP.replace("KEY", "key"), (("%l[yes]", "%l[no]"),), "changed f"),
    Row("default of a key", _JUMP.replace("KEY", "key"), (("key = { 1 }", "key = { 0 }"),), "refused data-changed:key"),
    Row("line of a warning", _FILES + _BUG, (("12, 2307", "13, 2307"),), "same, ignored bug-line"),
    Row("flags of a warning", _FILES + _BUG, (("12, 2307", "12, 2305"),), "changed f"),
    Row("file of a warning", _FILES + _BUG, (("file-.", "header-."),), "changed f"),
    Row("bit of an alternative", _ALT.replace("REPL", "pause"), ((".word 9", ".word 10"),), "changed f"),
    Row("content of an alternative", _ALT.replace("REPL", "pause"), (("3: pause", "3: cli\\nsti"),), "changed f"),
    Row(
        "place where a fault goes on",
        _table("__ex_table", ".balign 4\\n.long 1b-., 2b-.\\n.long 1", code="movl (%%rdi), %%eax\\nnop\\n3: pause"),
        (("2b-.", "3b-."),),
        "changed f",
    ),
    Row(
        "way how a fault is handled",
        _table("__ex_table", ".balign 4\\n.long 1b-., 2b-.\\n.long 1", code="movl (%%rdi), %%eax"),
        ((".long 1\\n", ".long 3\\n"),),
        "changed f",
    ),
    Row(
        "static call that is a jump now",
        _KEY + _table(".static_call_sites", ".balign 4\\n.long 1b-., key-.", code="call sink", flags="aw"),
        (("key-.", "key + 1-."),),
        "changed f",
    ),
    Row(
        "trampoline of a static call",
        "int one(int x) { return sink(x, 1); } int two(int x) { return sink(x, 2); }"
        + asm(
            '.section .static_call.text,"ax"',
            ".globl __SCT__call",
            ".type __SCT__call, @function",
            "__SCT__call: jmp one",
            ".byte 0x0f, 0xb9, 0xcc",
            ".size __SCT__call, . - __SCT__call",
        ),
        (("jmp one", "jmp two"),),
        "refused no-fentry:__SCT__call",
    ),
    Row(
        "unknown table whose entries have names",
        asm('.section .my_hooks,"a"', "hook_f: .quad f", ".long 3") + "int f(int x) { return sink(x); }",
        ((".long 3", ".long 4"),),
        "refused rodata-changed:hook_f unregistered:hook_f",
    ),
    Row(
        "unknown table that can be written",
        _table(".my_table", ".quad 1b\\n.long 3", flags="aw"),
        ((".long 3", ".long 4"),),
        "refused unknown-table:f",
    ),
    Row(
        "text that an unknown table leads to",
        asm('.section .rodata.str1.1,"aMS",@progbits,1', '.Lsay: .asciz "one"', '.section .my_says,"a"', ".quad .Lsay")
        + "int f(int x) { return sink(x); }",
        (("one", "two"),),
        "refused unknown-table:.my_says",
    ),
    Row(
        "constants without a name that an unknown table leads to",
        asm('.section .rodata.mine,"a"', ".Lmine: .long 1, 2", '.section .my_says,"a"', ".quad .Lmine")
        + "int f(int x) { return sink(x); }",
        (("1, 2", "1, 3"),),
        "refused unknown-table:.my_says",
    ),
    Row(
        "room without a name grows",
        asm('.section .bss.zone,"aw",@nobits', ".skip 64") + "int f(int x) { return sink(x); }",
        ((".skip 64", ".skip 128"),),
        "refused unknown-table:.bss.zone",
    ),
    Row(
        "bytes without a name that code writes",
        asm('.section .data.cnt,"aw"', ".Lcnt: .long 1") + 'int f(int x) { ASM("incl .Lcnt(%rip)"); return sink(x); }',
        ((".long 1", ".long 2"),),
        "refused unknown-table:.data.cnt",
    ),
    Row(
        "bytes without a name that code reads",
        asm('.section .rodata.tab,"a"', ".Ltab: .long 1, 2, 3")
        + 'int f(int x) { ASM("movl .Ltab(%rip), %eax"); return sink(x); }',
        (("1, 2, 3", "1, 2, 4"),),
        "changed f",
    ),
    Row("namespace of an export", _EXPORT_61, (("ONE", "TWO"),), "refused export-changed:f"),
    Row("namespace of an export, as newer kernels list it", _EXPORT_612, (("ONE", "TWO"),), "refused export-changed:f"),
    Row("licence of an export, as newer kernels list it", _EXPORT_612, (("GPL", ""),), "refused export-changed:f"),
    Row(
        "export of another function",
        _EXPORT_61 + "int g(int x) { return sink(x, 7); }",
        ((".long f-.", ".long g-."),),
        "refused export-changed:f",
    ),
    Row("permission of a parameter", _PARAM, (("0444", "0644"),), "same, ignored discarded, warned param-left-out"),
    Row(
        "alias of a module",
        'static const char info[] __section(".modinfo") __used = "alias=pci:v00001"; int f(int x) { return sink(x); }',
        (("v00001", "v00002"),),
        "same, ignored discarded",
    ),
    Row(
        "level of an initcall",
        "__init int start(int x) { return sink(x); }"
        'static void *const call __section(".initcall6.init") __used = start;',
        ((".initcall6", ".initcall4"),),
        "same, ignored start-only",
    ),
    Row(
        "order of constructors",
        "__attribute__((constructor(101))) void a(void) { sink(1); }"
        "__attribute__((constructor(102))) void b(void) { sink(2); }",
        (("101", "103"),),
        "same, ignored start-only",
    ),
    Row(
        "type in a sanitizer's datum",
        "int row[8]; long f(int i) { return row[i]; }",
        (("int row[8]", "unsigned row[8]"), ("long f", "int f")),
        "changed f",
        flags=("-fsanitize=bounds",),
    ),
    Row(
        "line in a sanitizer's datum",
        "int row[8]; int f(int i) { return row[i]; }",
        (("int f", "\n\n/* the row */ int f"),),
        "same",
        flags=("-fsanitize=bounds",),
    ),
    Row(
        "unwinding alone",
        'int f(int x) { x = sink(x); ASM("nop\\n.cfi_remember_state\\n.cfi_restore_state"); return sink(x); }',
        (("\\n.cfi_remember_state\\n.cfi_restore_state", ""),),
        "same",
        flags=("-fasynchronous-unwind-tables",),
    ),
    Row(
        "two alternatives of one place the other way round",
        _ALT.replace("REPL", 'pause\\n4: cli\\n.popsection\\n.pushsection .altinstructions,\\"a\\"\\n').replace(
            "\\n\\n.popsection", "\\n.long 1b-., 4b-.\\n.word 11\\n.byte 5, 1\\n.popsection"
        ),
        (
            ("3f-.", "XX"),
            ("4b-.\\n.word 11\\n.byte 5, 1", "3b-.\\n.word 9\\n.byte 5, 2"),
            ("XX\\n.word 9\\n.byte 5, 2", "4f-.\\n.word 11\\n.byte 5, 1"),
        ),
        "changed f",
    ),
    Row(
        "entry for a lock comes",
        'int f(int *p) { ASM("1: lock; incl (%rdi)"); return sink(*p); }',
        (("1: lock", '.pushsection .smp_locks,\\"a\\"\\n.balign 4\\n.long 1f-.\\n.popsection\\n1: lock'),),
        "refused unaccounted:f",
    ),
    Row(
        "unknown section that can be written now",
        _table(".my_table", ".quad 1b\\n.long 3"),
        (('.my_table,\\"a\\"', '.my_table,\\"aw\\"'),),
        "refused unaccounted:.my_table",
    ),
    Row(
        "data that others share",
        asm(
            '.section .data.shared,"awG",@progbits,shared,comdat',
            ".weak shared",
            ".type shared, @object",
            "shared: .long 1",
            ".size shared, 4",
        )
        + "extern int shared; int f(int x) { return sink(x, shared); }",
        ((".long 1", ".long 2"),),
        "refused data-changed:shared",
    ),
    Row(
        "operations of a parameter",
        _PARAM.replace(
            "signed char level; };",
            "signed char level; int (*set)(int); };"
            "static int one(int x) { return sink(x); } static int two(int x) { return sink(x, 2); }",
        ).replace("0444, -1 }", "0444, -1, one }")
        + "void *keep[] = { one, two };",
        (("-1, one", "-1, two"),),
        "same, ignored discarded, warned param-left-out",
    ),
    Row(
        "table for unwinding",
        'int f(int x) { ASM("1: nop\\n.pushsection .orc_unwind_ip,\\"a\\"\\n.long 1b-.\\n.popsection\\n'
        '.pushsection .orc_unwind,\\"a\\"\\n.word 8, 0, 5\\n.popsection"); return sink(x); }',
        (("8, 0, 5", "16, 0, 5"),),
        "refused unaccounted:f",
    ),
    Row(
        "flags of a warning that has no file",
        _table("__bug_table", ".balign 4\\n.long 1b-.\\n.word 2307", code="ud2", flags="aw"),
        (("2307", "2305"),),
        "changed f",
    ),
    Row("flags of a warning that has a format and no file", _FORMAT, (("2307", "2305"),), "changed f"),
    Row("format of a warning", _FORMAT, (("bad %d", "worse %d"),), "changed f"),
)
