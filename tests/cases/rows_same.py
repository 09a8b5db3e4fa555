"""Pairs in which nothing matters, or only one thing among much that moved."""

from __future__ import annotations

from tests.cases.written import Row

_SHARED = ("-fno-function-sections", "-fno-data-sections")
_MANY = """
static int one = 1;
static int two = 2;
static int sum[4];
static const char *const names[] = { "red", "green", "blue" };
static noinline int h(int x) { static int n; n += x; return sink(n); }
static noinline int k(int x) { static int n; n -= x; return sink(n, "text"); }
int f(int x) { sum[x & 3]++; return h(x + one++) + k(x + two++) + sum[1]; }
int g(int x) { return note(names[x & 1], __func__); }
"""
_LINES = _MANY.splitlines()
_REORDERED = "\n".join(["", _LINES[3], _LINES[2], _LINES[1], _LINES[4], _LINES[6], _LINES[5], _LINES[8], _LINES[7], ""])

ROWS = (
    Row(
        "comments and lines", _MANY, (("int f(", "/* f */\n\n\nint f("), ("int g(", "\nint g(")), "same", flags=("-g",)
    ),
    Row("all in another order", _MANY, ((_MANY, _REORDERED),), "same"),
    Row("all in another order, in shared sections", _MANY, ((_MANY, _REORDERED),), "same", flags=_SHARED),
    Row(
        "one function grows in a shared section",
        _MANY,
        (("{ sum[x & 3]++;", "{ sum[x & 3]++; if (x > 99) sink(x, sum[2], 3);"),),
        "changed f, bound one sum two",
        flags=_SHARED,
    ),
    Row(
        "new things in front of all, in shared sections",
        _MANY,
        (("static int one", 'static int zero = 7; int z(int x) { return sink(x, zero++, "new"); }\nstatic int one'),),
        "new z, travels zero",
        flags=_SHARED,
    ),
    Row(
        "names of what is local to a function",
        "int f(int first) { int second = sink(first); return second * first; }",
        (("first", "a"), ("second", "b")),
        "same",
        flags=("-g",),
    ),
    Row(
        "types of the same form",
        "typedef int number; struct old { number a; }; int f(struct old *p) { return sink(p->a); }",
        (("number", "figure"), ("struct old", "struct fresh")),
        "same",
        flags=("-g",),
    ),
    Row("empty barrier", "int f(int x) { return sink(x); }", (("{ return", '{ ASM(""); return'),), "same"),
    Row(
        "statics of one name in functions that change places",
        "int f(int x) { static int n; n += x; return sink(n); } int k(int x) { static int n; n -= x; return sink(n); }",
        (
            ("int f(int x) { static int n; n += x; return sink(n); } ", ""),
            ("return sink(n); }", "return sink(n); } int f(int x) { static int n; n += x; return sink(n); }"),
        ),
        "same",
    ),
    Row(
        "texts with a zero in another order",
        'int f(void) { return note("one\\0two"); } int k(void) { return note("red\\0green"); }',
        (
            ('int f(void) { return note("one\\0two"); } ', ""),
            ('green"); }', 'green"); } int f(void) { return note("one\\0two"); }'),
        ),
        "same",
    ),
    Row(
        "constants of the floating-point unit in another order",
        "int f(int x) { return x * 1.3L; } int k(int x) { return x * 2.7L; }",
        (("int f(int x) { return x * 1.3L; } ", ""), ("2.7L; }", "2.7L; } int f(int x) { return x * 1.3L; }")),
        "same",
    ),
    Row(
        "vectors in another order",
        "typedef int v4 __attribute__((vector_size(16))); void f(v4 *p) { *p += (v4){ 1, 2, 3, 4 }; }\n"
        "void k(v4 *p) { *p += (v4){ 5, 6, 7, 8 }; }\n",
        (
            ("void f(v4 *p) { *p += (v4){ 1, 2, 3, 4 }; }\n", ""),
            ("8 }; }\n", "8 }; }\nvoid f(v4 *p) { *p += (v4){ 1, 2, 3, 4 }; }\n"),
        ),
        "same",
        flags=("-msse2",),
    ),
    Row(
        "local tables in another order",
        "int f(int x) { const int t[8] = { 3, 1, 4, 1, 5, 9, 2, 6 }; return sink(t[x & 7]); }\n"
        "int k(int x) { const int t[8] = { 2, 7, 1, 8, 2, 8, 1, 8 }; return sink(t[x & 7]); }\n",
        (
            ("int f(int x) { const int t[8] = { 3, 1, 4, 1, 5, 9, 2, 6 }; return sink(t[x & 7]); }\n", ""),
            (
                "8, 1, 8 }; return sink(t[x & 7]); }\n",
                "8, 1, 8 }; return sink(t[x & 7]); }\n"
                "int f(int x) { const int t[8] = { 3, 1, 4, 1, 5, 9, 2, 6 }; return sink(t[x & 7]); }\n",
            ),
        ),
        "same",
    ),
    Row(
        "line of a warning moves with the lines",
        'static const char file[] = "a.h";\n'
        'int f(int x)\n{\n    __asm__ volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n.balign 4\\n"'
        ' ".long 1b-., %c0-.\\n.word %c1, 2305\\n.popsection" : : "i"(file), "i"(__LINE__)); return sink(x);\n}\n',
        (("int f", "\n\nint f"),),
        "same, ignored bug-line",
    ),
    Row(
        "common symbols in another order",
        "int one[2]; int two[4]; int f(int x) { return sink(one[x], two[x]); }",
        (("int one[2]; int two[4];", "int two[4]; int one[2];"),),
        "same",
        flags=("-fcommon",),
    ),
    Row(
        "constants that are called otherwise",
        "static const int mine[2] = { 1, 2 }, yours[2] = { 1, 2 }; const int *f(int x) { return x ? mine : yours; }",
        (("mine", "first"), ("yours", "second")),
        "same",
    ),
)
