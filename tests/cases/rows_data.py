"""Data: what a variable is, what constants say, and where the bytes lie that code reads."""

from __future__ import annotations

from tests.cases.written import Row, asm

_SITE = "struct site { const char *file; int limit, level; long more[4]; }; extern int at(const struct site *);"

ROWS = (
    Row(
        "common symbol grows",
        "int ring[2]; int f(int x) { return sink(ring[0] + x); }",
        (("ring[2]", "ring[4]"), ("ring[0] + x", "ring[3] + x")),
        "refused unaccounted:ring",
        flags=("-fcommon",),
    ),
    Row(
        "common symbol becomes a defined one",
        "int ring[2]; int f(int x) { return sink(ring[0] + x); }",
        (("int ring[2];", "int ring[2] = { 3, 4 };"),),
        "refused unaccounted:ring",
        flags=("-fcommon",),
    ),
    Row(
        "zeros grow without new code",
        "static char buffer[100]; int f(int x) { return sink(x, buffer); }",
        (("buffer[100]", "buffer[200]"),),
        "refused data-grown:buffer",
    ),
    Row(
        "zeros shrink without new code",
        "static char buffer[200]; int f(int x) { return sink(x, buffer); }",
        (("buffer[200]", "buffer[100]"),),
        "refused data-changed:buffer",
    ),
    Row(
        "alignment of one of several in a section",
        "static int one = 1; static int two = 2; int f(int x) { return sink(one++, two++); }",
        (("static int two", "static __attribute__((aligned(64))) int two"),),
        "refused unaccounted:.data",
        flags=("-fno-data-sections",),
    ),
    Row(
        "variable leaves its page",
        'int page[1024] __section(".data..page_aligned") __attribute__((aligned(4096)));'
        "int f(int x) { return sink(x, page); }",
        ((' __section(".data..page_aligned") __attribute__((aligned(4096)))', ""),),
        "refused data-changed:page storage-changed:page",
    ),
    Row(
        "table that can be written now",
        "struct ops { int (*a)(int), (*b)(int); }; int h(int x) { return sink(x); }"
        "static const struct ops table = { h, h }; const struct ops *get(void) { return &table; }",
        (("static const struct ops table", "static struct ops table __used"),),
        "refused data-changed:table storage-changed:table",
    ),
    Row(
        "operations get another member",
        "struct ops { int (*a)(int), (*b)(int); }; static int h(int x) { return sink(x); }"
        "static const struct ops table = { .a = h }; const struct ops *get(void) { return &table; }",
        ((".a = h", ".a = h, .b = h"),),
        "refused rodata-changed:table",
    ),
    Row(
        "priority of a notifier",
        "struct block { int (*call)(int); void *next; int priority; }; static int h(int x) { return sink(x); }"
        "static struct block nb = { .call = h }; int f(void) { return sink(1, &nb); }",
        ((".call = h", ".call = h, .priority = 5"),),
        "refused data-changed:nb",
    ),
    Row(
        "pointer to another of two equal tables",
        "static const int one[2] = { 1, 2 }, two[2] = { 1, 2 }; const int *const list[] = { one, two };"
        "const int *chosen = one;",
        (("chosen = one", "chosen = two"),),
        "refused data-changed:chosen",
    ),
    Row(
        "pointer to another element",
        "static int row[4] = { 1, 2, 3, 4 }; int *const chosen[] = { row, row + 1 };",
        (("row + 1", "row + 2"),),
        "refused rodata-changed:chosen",
    ),
    Row(
        "bits of a word change places",
        "struct state { unsigned a : 3, b : 5; } st;"
        "int f(void) { return sink(st.a); } int k(void) { return sink(st.b); }",
        (("a : 3, b : 5", "b : 5, a : 3"),),
        "changed f k, bound st, warned struct-layout",
        flags=("-g",),
    ),
    Row(
        "text behind a zero",
        'int f(void) { return note("one\\0two"); }',
        (("0two", "0twe"),),
        "changed f",
    ),
    Row(
        "text in front of the place that is used",
        'int f(void) { return note("one:two" + 4); }',
        (("one:two", "ona:two"),),
        "changed f",
    ),
    Row(
        "bytes in front of the place that is used",
        'int f(void) { return note("o\\0e:two" + 4); }',
        (("e:two", "a:two"),),
        "changed f",
    ),
    Row(
        "second zero at the end of a text",
        'int f(void) { return note("a list\\0"); }',
        (('list\\0"', 'list"'),),
        "changed f",
    ),
    Row(
        "wide text that ends another",
        'extern int wide(const int *); int f(void) { return wide(L"ab") + wide(L"xab"); }',
        (('L"ab"', 'L"b"'),),
        "changed f",
    ),
    Row(
        "level of a message",
        'int f(void) { return note("\\0016" "state"); }',
        (("0016", "0014"),),
        "changed f",
    ),
    Row(
        "text that is compared and looks like a place",
        'extern int same(const char *, const char *);int f(const char *x) { return same(x, "port.c:80"); }',
        ((":80", ":81"),),
        "changed f",
    ),
    Row(
        "local record that begins with a file's name",
        _SITE + ' int f(void) { struct site s = { "unit.c", 14, 7, { 1, 2, 3, 4 } }; return at(&s); }',
        (("14, 7", "15, 7"),),
        "changed f",
    ),
    Row(
        "record without a name that begins with a file's name",
        _SITE + ' static const struct site *s = &(const struct site){ "unit.c", 14, 7 }; int f(void) { return at(s); }',
        (("14, 7", "15, 7"),),
        "changed f",
    ),
    Row(
        "constant of the floating-point unit",
        "int f(int x) { return x * 1.3L + x * 2.7L; }",
        (("1.3L", "2.8L"),),
        "changed f",
    ),
    Row(
        "two constants of the floating-point unit swapped",
        "int f(int x, int y) { return x * 1.3L + sink(y * 2.7L); }",
        (("1.3L", "2.8L"), ("2.7L", "1.3L"), ("2.8L", "2.7L")),
        "changed f",
    ),
    Row(
        "vector constant",
        "typedef int v4 __attribute__((vector_size(16))); void f(v4 *p) { *p += (v4){ 1, 2, 3, 4 }; }",
        (("3, 4 }", "4, 3 }"),),
        "changed f",
        flags=("-msse2",),
    ),
    Row(
        "values of a switch",
        "int f(int x) { switch (x) { case 0: return 17; case 1: return 4; case 2: return 99; case 3: return 5;"
        " case 4: return 61; default: return 7; } }",
        (("return 99; case 3: return 5;", "return 5; case 3: return 99;"),),
        "changed f",
    ),
    Row(
        "value of a per-CPU variable",
        'int v __section(".data..percpu") = 1;'
        ' int f(void) { int r; __asm__ volatile("movl %%gs:v, %0" : "=r"(r)); return r; }',
        (("= 1;", "= 2;"),),
        "refused data-changed:v",
    ),
    Row(
        "another per-CPU variable",
        'int v __section(".data..percpu") = 1, w __section(".data..percpu") = 1;'
        ' int f(void) { int r; __asm__ volatile("movl %%gs:v, %0" : "=r"(r)); return r; }',
        (("%%gs:v", "%%gs:w"),),
        "changed f, bound w",
    ),
    Row(
        "explicit zero",
        "int v; static int w; int f(void) { return sink(v++, w++); }",
        (("int v;", "int v = 0;"), ("static int w;", "static int w = 0;")),
        "same",
    ),
    Row(
        "table of a function counted from one",
        "int f(long x) { const int t[9] = { 3, 1, 4, 1, 5, 9, 2, 6, 5 }; return sink(t[x - 1]); }",
        (("9, 2", "2, 9"),),
        "changed f",
    ),
    Row(
        "table of a switch counted from far",
        "int f(int x) { switch (x) { case 100: return 17; case 101: return 4; case 102: return 99; case 103: return 5;"
        " case 104: return 61; default: return 7; } }",
        (("return 99;", "return 98;"),),
        "changed f",
    ),
    Row(
        "constant that stays as it is after start",
        'static int limit __section(".data..ro_after_init") = 4; __init void start(int x) { limit = x; }'
        "int f(int x) { return sink(limit + x); }",
        ((' __section(".data..ro_after_init")', ""), ("limit + x", "limit - x")),
        "refused storage-changed:limit",
    ),
    Row(
        "volatile goes",
        "volatile int flag; int f(void) { return sink(flag) + sink(flag); }",
        (("volatile int flag", "int flag"), ("sink(flag) + sink(flag)", "sink(1) + sink(2)")),
        "changed f",
    ),
    Row(
        "distance between two things",
        asm(
            '.section .rodata.apart,"a"',
            ".globl apart",
            ".type apart, @object",
            "apart: .long one - .",
            ".size apart, 4",
        )
        + "int one(int x) { return sink(x); } int two(int x) { return sink(x, 2); }",
        ((".long one", ".long two"),),
        "refused rodata-changed:apart",
    ),
    Row(
        "bytes at the end of a thing",
        asm(
            '.section .data.end,"aw"',
            ".globl end",
            ".type end, @object",
            "end: .long 1",
            ".byte 2, 0, 0, 0",
            ".size end, 8",
        )
        + "int f(int x) { return sink(x); }",
        ((".byte 2, 0, 0, 0", ".byte 2, 0, 0, 1"),),
        "refused data-changed:end",
    ),
    Row(
        "bytes behind the end of a thing",
        asm(
            '.section .data.end,"aw"',
            ".globl end",
            ".type end, @object",
            "end: .long 1",
            ".size end, 4",
            ".globl next",
            ".type next, @object",
            "next: .long 2",
            ".size next, 4",
            ".long 7",
        )
        + "int f(int x) { return sink(x); }",
        ((".long 7", ".long 8"),),
        "refused unaccounted:next",
    ),
    Row(
        "two wide texts swapped",
        'extern int wide(const int *); int f(int x) { return wide(L"left") - sink(wide(L"right")); }',
        (('L"left"', 'L"none"'), ('L"right"', 'L"left"'), ('L"none"', 'L"right"')),
        "changed f",
    ),
    Row(
        "section whose name only begins like one of the start",
        'static int v __section("__parameters") = 3; int f(void) { return sink(v++); }',
        (("= 3;", "= 4;"),),
        "refused data-changed:v unregistered:v",
    ),
    Row(
        "texts in a section that is found by its name",
        asm('.section my_names,"aMS",@progbits,1', '.asciz "one"') + "int f(int x) { return sink(x); }",
        (("one", "two"),),
        "refused unknown-table:my_names",
    ),
    Row(
        "alignment of one of several in a section that grows",
        "static int one = 1; static int two = 2; int f(int x) { return sink(one++, two++); }",
        (
            ("static int two", "static __attribute__((aligned(64))) int two"),
            ("int f(int x)", "static int three = 3; int g(int x) { return three++; } int f(int x)"),
        ),
        "refused unaccounted:.data",
        flags=("-fno-data-sections",),
    ),
    Row(
        "a new one of several in a section is aligned",
        "static int one = 1; static int two = 2; int f(int x) { return sink(one++, two++); }",
        (("int f(int x)", "static __attribute__((aligned(64))) int k = 3; int g(int x) { return k++; } int f(int x)"),),
        "new g, travels k",
        flags=("-fno-data-sections",),
    ),
)
