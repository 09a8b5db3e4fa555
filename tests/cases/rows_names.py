"""Names that lead to other things: aliases, statics of one name, names like the compiler's, storage that moved."""

from __future__ import annotations

from tests.cases.written import Row, asm

_BLOCKS = """
int f(int x, int y) { int r = 0;
  { static int n = 1; n += x; r += sink(n); }
  { static int n = 2; n -= y * 5; r ^= sink(n + 7); }
  return r; }
"""
_ALIAS = """
int one(int x) { return sink(x) + 1; }
int two(int x) { return sink(x) * 3; }
"""
_CLONES = """
static noinline int work(int x, int k) { if (k > 7) return sink(x, k); return sink(x * k) + k; }
int (*kept)(int, int) = work;
"""
_THREE = "int f1(int x) { return work(x, 3) + 1; } int f2(int x) { return work(x, 3) + 6; }"
_FOUR = "int g1(int x) { return work(x, 4) + 2; } int g2(int x) { return work(x, 4) + 5; }"

ROWS = (
    Row(
        "initial values of two statics swapped",
        _BLOCKS,
        (("n = 1;", "n = 3;"), ("n = 2;", "n = 1;"), ("n = 3;", "n = 2;")),
        "refused data-changed:n.0 data-changed:n.1",
        "refused data-changed:f.n data-changed:f.n.1",
    ),
    Row(
        "static moves to another function",
        "int f(int x) { static int n; n += x; return sink(n); } int k(int x) { return sink(x, 2); }",
        (
            ("static int n; n += x; return sink(n);", "return sink(x);"),
            ("return sink(x, 2);", "static int n; n += x; return sink(n);"),
        ),
        "refused static-ambiguous:n.0 static-removed:n.0",
        "refused static-removed:f.n",
    ),
    Row(
        "second static that does the same",
        "int f(int x) { { static int n; n += sink(x); } return 1; }",
        (("return 1;", "{ static int n; n += sink(x); } return 1;"),),
        "refused static-ambiguous:n.0 static-ambiguous:n.1",
        "refused static-ambiguous:f.n static-ambiguous:f.n.1",
    ),
    Row(
        "static of a function becomes the file's",
        "int f(int x) { static int n; n += x; return sink(n); }",
        (("int f(int x) { static int n;", "static int n; int f(int x) {"),),
        "refused static-removed:n.0",
        "refused static-removed:f.n",
    ),
    Row(
        "counter called like a message's record",
        "int f(int x) { static int _entry; _entry += x; return sink(_entry); }",
        (("sink(_entry)", "sink(_entry + 1)"),),
        "changed f, bound _entry.0",
        "changed f, bound f._entry",
    ),
    Row(
        "counter called like a switch's table",
        "int f(int x) { static int CSWTCH; CSWTCH += x; return sink(CSWTCH); }",
        (("sink(CSWTCH)", "sink(CSWTCH + 1)"),),
        "changed f, bound CSWTCH.0",
        "changed f, bound f.CSWTCH",
    ),
    Row(
        "counter with a name that a macro numbers",
        "static int __UNIQUE_ID_hits12; int f(int x) { __UNIQUE_ID_hits12 += x; return sink(__UNIQUE_ID_hits12); }",
        (("hits12", "hits13"), ("return sink(", "return 1 + sink(")),
        "changed f, bound __UNIQUE_ID_hits12",
    ),
    Row(
        "weak alias of another function",
        _ALIAS + 'int pub(int) __attribute__((weak, alias("one")));',
        (('alias("one")', 'alias("two")'),),
        "refused alias-changed:pub",
    ),
    Row(
        "alias of another variable",
        'int one = 1, two = 1; extern int pub __attribute__((alias("one")));',
        (('alias("one")', 'alias("two")'),),
        "refused alias-changed:pub",
    ),
    Row(
        "alias that becomes a function",
        _ALIAS + 'int pub(int) __attribute__((alias("one")));',
        (('int pub(int) __attribute__((alias("one")));', "int pub(int x) { return sink(x) + 9; }"),),
        "refused alias-changed:pub",
    ),
    Row(
        "function that becomes an alias",
        _ALIAS + "int pub(int x) { return sink(x) + 9; }",
        (("int pub(int x) { return sink(x) + 9; }", 'int pub(int) __attribute__((alias("one")));'),),
        "refused alias-changed:pub",
    ),
    Row(
        "absolute value of a name",
        asm(".globl limit", ".set limit, 5") + "int f(int x) { return sink(x); }",
        (("limit, 5", "limit, 6"),),
        "refused unaccounted:limit",
    ),
    Row(
        "constant of two users becomes two",
        "static const int tag = 0; const void *f(void) { return &tag; } int k(const void *p) { return p == &tag; }",
        (
            ("static const int tag = 0;", "static const int mine = 0, yours = 0;"),
            ("return &tag", "return &mine"),
            ("== &tag", "== &yours"),
        ),
        "changed f k",
    ),
    Row(
        "one of two users gets a constant of its own",
        "static const int tag = 3; const void *f(void) { return &tag; } int k(const void *p) { return p == &tag; }",
        (("static const int tag = 3;", "static const int tag = 3, mine = 3;"), ("return &tag", "return &mine")),
        "changed f, travels mine",
    ),
    Row(
        "bodies of two functions swapped",
        "static noinline int a(int x) { return sink(x) + 1; } static noinline int b(int x) { return sink(x) + 2; }"
        "int f(int x) { return a(x) * b(x); }",
        (("+ 1;", "+ 3;"), ("+ 2;", "+ 1;"), ("+ 3;", "+ 2;")),
        "changed a b",
    ),
    Row(
        "function that is the same as another now",
        "static noinline int a(int x) { return sink(x) + 1; } static noinline int b(int x) { return sink(x) + 2; }"
        "int f(int x) { return a(x) * b(x + 1); }",
        (("+ 2;", "+ 1;"),),
        "changed f, removed b",
        "changed b",
    ),
    Row(
        "only the clone for a constant changed",
        "struct ops { int (*call)(int, int); }; static noinline int work(int x, int k) {"
        " if (k > 7) return sink(x, k); return sink(x * k) + k; } const struct ops table = { work };"
        "int f(int x) { return work(x, 3) + 1; } int g(int x) { return work(x, 3) + 2; }",
        (("work(x, 3)", "work(x, 4)"),),
        "changed work.constprop.0",
        clang="",
        flags=("-fipa-cp-clone",),
    ),
    Row(
        "helper with its own name in a message renamed",
        "static inline int helper(int x) { return note(__func__) + x; } int f(int x) { return helper(x); }",
        (("helper", "assistant"),),
        "changed f",
    ),
    Row(
        "live function becomes one of the start, and changes",
        "noinline int f(int x) { return sink(x) + 1; } __init int start(int x) { return f(x); }",
        (("noinline int f(int x) { return sink(x) + 1;", "__init noinline int f(int x) { return sink(x) + 2;"),),
        "refused init-changed:f init-changed:start",
        "refused init-changed:f",
    ),
    Row(
        "function goes",
        "int f(int x) { return sink(x) + 1; } int k(int x) { return sink(x) + 2; }",
        (("int k(int x) { return sink(x) + 2; }", ""),),
        "same, removed k, ignored removed",
    ),
    Row(
        "weak, hidden, global and static",
        "__attribute__((weak)) int f(int x) { return sink(x) + 1; } int v = 1; static int w = 2; int *p = &w;"
        '__attribute__((visibility("hidden"))) int k(int x) { return sink(v); }',
        (
            ("__attribute__((weak)) int f", "int f"),
            ("static int w", "int w"),
            ('__attribute__((visibility("hidden"))) int k', "int k"),
        ),
        "same, ignored linkage",
    ),
    Row(
        "entry moves to another set",
        "struct entry { int (*call)(int); }; static int h(int x) { return sink(x); }"
        'static const struct entry e __section("set_of_hooks") __used = { h };',
        (("set_of_hooks", "set_of_probes"),),
        "refused storage-changed:e",
    ),
    Row(
        "state in a literal without a name",
        "static int *const state = (int[]){ 1, 2 }; int f(int x) { state[0] += x; return sink(state[0]); }",
        (("sink(state[0])", "sink(state[0] + 1)"),),
        "changed f, bound __compound_literal.0",
        "changed f, bound .compoundliteral.0",
    ),
    Row(
        "state in a literal without a name, which other code sets",
        "static int *const state = (int[]){ 1, 2 }; int f(int x) { return sink(state[0]); }"
        "void set(int x) { state[0] = x; }",
        (("sink(state[0])", "sink(state[0] + 1)"),),
        "changed f, bound __compound_literal.0",
        "changed f, bound .compoundliteral.0",
    ),
    Row(
        "two variables used the other way round",
        "static int one, two; int f(int x) { one += x; two -= x; return sink(x); }"
        "int k(void) { return one++ - two++; }",
        (("one += x; two -= x;", "two += x; one -= x;"),),
        "changed f, bound one two",
    ),
    Row(
        "name that is another kind of thing now",
        "int step = 3; int f(int x) { return sink(x, &step); }",
        (("int step = 3;", "int step(void) { return 3; }"),),
        "refused unaccounted:step",
    ),
    Row(
        "variable of the file hidden by one of the function",
        "static int n; int f(int x) { n += x; return sink(n); } int k(void) { return n--; }",
        (("int f(int x) {", "int f(int x) { static int n;"),),
        "changed f, travels n.0",
        "changed f, travels f.n",
    ),
    Row(
        "static of an outer block hidden by one of an inner",
        "int f(int x) { static int n = 1; n += x; { x = sink(n++); } return n; }",
        (("{ x = sink(n++); }", "{ static int n = 1; x = sink(n++); }"),),
        "refused static-ambiguous:n.0 static-ambiguous:n.1",
        "refused static-ambiguous:f.n static-ambiguous:f.n.1",
    ),
    Row(
        "only the annotation for the start was missing",
        "noinline int f(int x) { return sink(x) + 1; } int k(int x) { return sink(x, 2); }",
        (("noinline int f", "__init noinline int f"),),
        "same",
    ),
    Row(
        "clones for constants change and change their numbers",
        _CLONES + _THREE + _FOUR,
        ((_THREE + _FOUR, _FOUR + _THREE), ("sink(x * k) + k", "sink(x * k) - k")),
        "changed f1 f2 g1 g2 work, new work.constprop.0 work.constprop.1",
        clang="",
        flags=("-O3",),
    ),
    Row(
        "statics of one name that change places, of other sizes",
        "int f(int x) { int r; { static int n; n += x; r = sink(n); } { static long n; n -= x; r += sink(n, 3); }"
        " return r; }",
        (
            ("{ static int n; n += x; r = sink(n); } ", "FIRST "),
            ("{ static long n; n -= x; r += sink(n, 3); }", "{ static int n; n += x; r = sink(n); }"),
            ("FIRST", "{ static long n; n -= x; r += sink(n, 3); }"),
        ),
        "changed f",
    ),
)
