"""Code: encodings that are nearly the same, places inside functions, labels and jump tables."""

from __future__ import annotations

from tests.cases.written import Row, asm


def _bytes(was: str, becomes: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f'int f(int x) {{ ASM(".byte {was}"); return sink(x); }}', ((f".byte {was}", f".byte {becomes}"),)


_LABELS = """
int f(unsigned i, int x)
{
    KIND table[] = { ENTRIES };
    goto *WHERE;
a:  return sink(x, 1);
b:  return sink(x, 2) + 7;
c:  return sink(x, 3) * 5;
}
"""
_DISTANCES = (
    _LABELS.replace("KIND", "static const int")
    .replace("ENTRIES", "&&a - &&a, &&b - &&a, &&c - &&a")
    .replace("WHERE", "(&&a + table[i])")
)
_WRITABLE = (
    _LABELS.replace("KIND", "static void *")
    .replace("ENTRIES", "&&a, &&b, &&c")
    .replace("WHERE", "table[i]")
    .replace("    goto", "    table[x & 1] = &&c;\n    goto")
)
_SWITCH = """
int NAME(int x) { switch (x) { case 0: return sink(1); case 1: return sink(2) + 1; case 2: return sink(3) * 3;
 case 3: return sink(4) ^ 4; case 4: return sink(5) - 5; case 5: return sink(6) | 6; default: return 0; } }
"""

ROWS = (
    Row("pause and no operation", *_bytes("0xf3, 0x90", "0x90"), "changed f"),
    Row("exchange of a high register and no operation", *_bytes("0x41, 0x90", "0x90"), "changed f"),
    Row("exchange that clears half a register", *_bytes("0x87, 0xc0", "0x90"), "changed f"),
    Row("address of half a register in itself", *_bytes("0x67, 0x8d, 0x76, 0x00", "0x8d, 0x76, 0x00"), "changed f"),
    Row("landing pad and no operation", *_bytes("0xf3, 0x0f, 0x1e, 0xfa", "0x0f, 0x1f, 0x40, 0x00"), "changed f"),
    Row("breakpoint and no operation", *_bytes("0xcc", "0x90"), "changed f"),
    Row("add of a signed and an unsigned byte", *_bytes("0x83, 0xc0, 0xff", "0x05, 0xff, 0, 0, 0"), "changed f"),
    Row(
        "move with a sign and without", *_bytes("0x48, 0xc7, 0xc0, -1, -1, -1, -1", "0xb8, -1, -1, -1, -1"), "changed f"
    ),
    Row("push of a signed byte and of a word", *_bytes("0x6a, 0xff", "0x68, 0xff, 0, 0, 0"), "changed f"),
    Row("another segment", *_bytes("0x65, 0x8b, 0x07", "0x64, 0x8b, 0x07"), "changed f"),
    Row("lock goes", *_bytes("0xf0, 0xff, 0x07", "0xff, 0x07"), "changed f"),
    Row("displacement of one byte with a sign", *_bytes("0x8b, 0x47, 0xff", "0x8b, 0x87, 0xff, 0, 0, 0"), "changed f"),
    Row("other no operations", *_bytes("0x90", "0x66, 0x90, 0x0f, 0x1f, 0x40, 0x00"), "same"),
    Row(
        "address with a sign and without",
        'int v; int f(int x) { ASM("movq $v, %rax"); return sink(x, v); }',
        (("movq $v, %rax", "movl $v, %eax"),),
        "changed f",
    ),
    Row(
        "other register of an indirect call",
        'int f(int x) { ASM("call __x86_indirect_thunk_rax"); return sink(x); }',
        (("thunk_rax", "thunk_rbx"),),
        "changed f",
    ),
    Row(
        "call behind the entry",
        "static noinline __used int h(int x) { return sink(x, x * 3) * 7; }"
        'int f(int x) { ASM("call h"); return h(x) + 1; }',
        (("call h", "call h + 5"),),
        "changed f",
    ),
    Row(
        "tail call of another",
        "extern int one(int), two(int); int f(int x) { return one(x); }",
        (("return one", "return two"),),
        "changed f",
    ),
    Row(
        "call of itself by another name",
        'int again(int) __attribute__((alias("f"))); int other(int x) { return sink(x); }'
        "noinline int f(int x) { return x ? sink(f(x - 1)) : 3; }",
        (("sink(f(x - 1))", "sink(other(x - 1))"),),
        "changed again f",
    ),
    Row(
        "distances of labels",
        _DISTANCES,
        (("&&b - &&a, &&c - &&a", "&&c - &&a, &&b - &&a"),),
        "changed f",
    ),
    Row(
        "label table that can be written",
        _WRITABLE,
        (("+ 7", "+ 8"),),
        "refused label-escape:table.0",
        "refused label-escape:f.table",
    ),
    Row(
        "cases of two functions exchanged",
        _SWITCH.replace("NAME", "f") + _SWITCH.replace("NAME", "k").replace("* 3", "* 5").replace("^ 4", "^ 9"),
        (("sink(3) * 5", "sink(3) * 6"), ("sink(3) * 3", "sink(3) * 5"), ("sink(3) * 6", "sink(3) * 3")),
        "changed f k",
        flags=("-fjump-tables",),
    ),
    Row(
        "jump table moves behind another",
        "int a(int x) { return sink(x); }" + _SWITCH.replace("NAME", "f"),
        (("int a(int x) { return sink(x); }", _SWITCH.replace("NAME", "a").replace("^ 4", "^ 9")),),
        "changed a",
        flags=("-fjump-tables",),
    ),
    Row(
        "assembler's function without a size",
        asm(".text", ".globl low", "low: movl $1, %eax", "ret") + "int f(int x) { return sink(x); }",
        (("$1, %eax", "$2, %eax"),),
        "refused no-fentry:low",
    ),
    Row(
        "assembler's local code without a type",
        asm('.section .text.low,"ax"', "low: movl $1, %eax", "ret")
        + "extern int low(void);int f(int x) { return sink(x) + low(); }",
        (("$1, %eax", "$2, %eax"),),
        "changed low",
    ),
    Row(
        "code without a name",
        asm('.section .text.none,"ax"', "movl $1, %eax", "ret") + "int f(int x) { return sink(x); }",
        (("$1, %eax", "$2, %eax"),),
        "refused unknown-table:.text.none",
    ),
    Row(
        "second entry of a function moves",
        'int f(int x) { x = sink(x); ASM(".globl second\\nsecond:"); x = sink(x, 1); ASM("nop"); return x * 3; }',
        (('ASM(".globl second\\nsecond:"); x = sink(x, 1);', 'x = sink(x, 1); ASM(".globl second\\nsecond:");'),),
        "refused alias-changed:second",
    ),
    Row(
        "landing pad goes",
        "int f(int x) { return sink(x) + 1; }",
        (("int f", "__attribute__((nocf_check)) int f"),),
        "changed f",
        flags=("-fcf-protection=branch",),
    ),
    Row(
        "function is no longer traced",
        "int f(int x) { return sink(x) + 1; }",
        (("int f", "notrace int f"),),
        "changed f",
    ),
    Row(
        "undo at the end of a block",
        "extern void undo(int *); int f(int x) { int y = x; return sink(y, &y); }",
        (("int y = x", "__attribute__((cleanup(undo))) int y = x"),),
        "changed f",
    ),
    Row("lock before a branch", *_bytes("0xf0, 0xeb, 0x00", "0xeb, 0x00"), "changed f"),
    Row("fence of another kind", *_bytes("0x0f, 0xae, 0xe8", "0x0f, 0xae, 0xf8"), "changed f"),
    Row("prefetch and no operation", *_bytes("0x0f, 0x18, 0x0f", "0x0f, 0x1f, 0x0f"), "changed f"),
    Row("half of a register", *_bytes("0x48, 0x01, 0xc0", "0x01, 0xc0"), "changed f"),
    Row("same register to itself", *_bytes("0x89, 0xff", "0x90"), "changed f"),
    Row("stop that fills", *_bytes("0x0f, 0x0b", "0x90"), "changed f"),
    Row(
        "place behind the end of a thing",
        "int row[4], other[4]; int f(int x) { return sink(row[x], row + 4) + other[0]; }",
        (("row + 4", "other"),),
        "changed f, bound row other",
    ),
    Row(
        "address with a distance of another sign",
        'int row[4]; int f(int x) { ASM("movl row - 4(%rip), %eax"); return sink(x, row); }',
        (("row - 4", "row + 4"),),
        "changed f",
    ),
    Row(
        "room for a tracer",
        "int f(int x) { return sink(x) + 1; }",
        (("int f", "__attribute__((patchable_function_entry(9, 0))) int f"),),
        "refused unaccounted:f",
    ),
    Row(
        "callee that does not come back",
        "extern void stop(void); int f(int x) { if (x > 7) stop(); return sink(x); }",
        (("extern void stop", "extern __attribute__((noreturn)) void stop"),),
        "changed f",
    ),
    Row(
        "order of an access to memory",
        "int v; void f(int x) { __atomic_store_n(&v, x, __ATOMIC_RELEASE); }",
        (("__ATOMIC_RELEASE", "__ATOMIC_SEQ_CST"),),
        "changed f",
    ),
    Row(
        "sign of a number",
        "int f(const signed char *p) { return sink(*p); }",
        (("const signed char", "const unsigned char"),),
        "changed f",
    ),
    Row(
        "number that is no line",
        'int f(int x)\n{\n    return note("retry %d of %d", x, 14);\n}\n',
        (("int f", "\nint f"), ("14", "15")),
        "changed f",
        flags=("-g",),
    ),
)
