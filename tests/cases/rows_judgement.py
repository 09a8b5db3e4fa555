"""Judgement: what can be built, and would not do what it is for, or never come to an end."""

from __future__ import annotations

from tests.cases.written import Edit, Row

_THREAD = """
typedef int (*thread)(void *);
extern void *kthread_create_on_node(thread, void *, int, const char *, ...);
extern int kthread_should_stop(void), begin(void *, thread);
extern void schedule(void), kthread_complete_and_exit(void *, long), __module_put_and_kthread_exit(long);
"""
_MAIN = "static int work(void *d) { while (!kthread_should_stop()) { schedule(); sink(1, d); } return 0; }\n"
_ENDLESS = "static int work(void *d) { for (;;) { schedule(); sink(1, d); } }\n"
_ENDS = "static int work(void *d) { while (sink(1, d)) schedule(); kthread_complete_and_exit(d, 0); return 0; }\n"


def _thread(name: str, source: str, right: str) -> Row:
    return Row(name, _THREAD + source, (("sink(1, d)", "sink(2, d)"),), right)


_NEVER = "refused never-returns:work"
_STATE = "int f(int a) { return sink(a); } WHERE int start(int a) { return sink(a, 2); }"
_INIT = _STATE.replace("WHERE", "__init")


def _new(declared: str, used: str, sets: str) -> tuple[Edit, ...]:
    """A new variable that `f` uses (a value) and `start` sets."""
    return (
        ("int f(int a) { return sink(a)", f"{declared}; int f(int a) {{ return sink(a + ({used}))"),
        ("int start(int a) {", f"int start(int a) {{ {sets};"),
    )


_LEFT_OUT = "refused init-changed:start never-set:state, travels state"
_WARNED = "refused init-changed:start, travels state, warned never-set"
_FINE = "refused init-changed:start, travels state"

ROWS = (
    _thread(
        "main function by a function of the file that starts threads",
        _MAIN + 'noinline void *start(void *d, thread fn) { return kthread_create_on_node(fn, d, -1, "x"); }'
        "void *f(void *d) { return start(d, work); } void *g(void *d) { return start(d + 1, work); }",
        _NEVER,
    ),
    _thread(
        "main function in a structure",
        _MAIN + "static const struct { thread fn; const char *name; } all[] = { { work, 0 } };"
        "void *f(void *d, int i) { return kthread_create_on_node(all[i].fn, d, -1, all[i].name); }",
        _NEVER,
    ),
    _thread(
        "main function by another file that starts threads",
        _MAIN + "int f(void *d) { return begin(d, work); }",
        _NEVER,
    ),
    _thread("main function without an end", _ENDLESS + "int f(void *d) { return begin(d, work); }", _NEVER),
    _thread("main function that ends its thread", _ENDS + "int f(void *d) { return begin(d, work); }", _NEVER),
    _thread(
        "main function that ends its thread and puts its module",
        _ENDS.replace("kthread_complete_and_exit(d, 0)", "__module_put_and_kthread_exit(0)")
        + "int f(void *d) { return begin(d, work); }",
        _NEVER,
    ),
    _thread(
        "main function in the file that defines how threads are started",
        _ENDLESS.replace("for (;;)", "while (sink(1, d))").replace("} }", "} return 0; }")
        + "noinline void *kthread_create_on_node(thread fn, void *d, int n, const char *x, ...)"
        ' { return begin(d, fn) ? d : 0; } void *f(void *d) { return kthread_create_on_node(work, d, 0, "x"); }',
        _NEVER,
    ),
    _thread(
        "loop without an end that nothing starts",
        _ENDLESS.replace("static int", "__attribute__((noreturn)) void"),
        _NEVER,
    ),
    _thread(
        "what ends its task, and the loop before that",
        # behind the call stands what the call is led to from
        "void do_task_dead(void) __attribute__((noreturn)); void finish(void *d);"
        "void work(void *d) { if (__builtin_expect(sink(1, d), 0)) goto late; end: finish(d); do_task_dead();"
        " late: schedule(); finish(d + 1); goto end; }",
        "changed work",
    ),
    _thread(
        "loop of a machine that is dead",
        "void panic(const char *why, void *d) { sink(0, why); for (;;) { schedule(); sink(1, d); } }",
        "changed panic",
    ),
    _thread(
        "what ends its task, with another loop that is never left",
        "void do_task_dead(void) __attribute__((noreturn));"
        "void work(void *d) { if (sink(0, d)) do_task_dead(); for (;;) { schedule(); sink(1, d); } }",
        _NEVER,
    ),
    _thread(
        "loop without an end that warns",
        _ENDLESS.replace(
            "schedule();",
            'schedule(); if (sink(3)) __asm__ volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n.balign 4\\n'
            '.long 1b-.\\n.word 2305, 0\\n.popsection");',
        )
        + "int f(void *d) { return begin(d, work); }",
        _NEVER,
    ),
    _thread(
        "what a main function calls",
        "static noinline int work(void *d) { return kthread_should_stop() ? 1 : sink(1, d); }"
        "static int loop(void *d) { while (!work(d)) schedule(); return 0; }"
        "int f(void *d) { return begin(d, loop); }",
        "changed work",
    ),
    _thread(
        "function that is called again and again",
        "static void work(void *d) { while (sink(1, d)) schedule(); } struct { void (*fn)(void *); } item = { work };",
        "changed work",
    ),
    _thread(
        "way that does not come back",
        "extern __attribute__((noreturn)) void die(int); int work(void *d) { if (sink(1, d)) die(1); die(2); }",
        "changed work",
    ),
    _thread(
        "machine that is dead",
        'void work(void *d) { if (sink(1, d)) for (;;) ASM("hlt"); sink(4); }',
        "changed work",
    ),
    Row(
        "variable that only the start sets, by what it calls",
        "extern void setup(int *);" + _INIT,
        _new("static int state", "state", "setup(&state)"),
        _LEFT_OUT,
    ),
    Row(
        "variable that only the start sets, one of many",
        _INIT,
        _new("static int state[8]", "state[a & 7]", "for (int i = 0; i < 8; i++) state[i] = a"),
        _LEFT_OUT,
    ),
    Row(
        "variable that only the start sets, by an array's address",
        "extern void fill(void *, int);" + _INIT,
        _new("static struct { int a, b[6]; } state", "state.b[a & 3]", "fill(state.b + 1, a)"),
        _LEFT_OUT,
    ),
    Row(
        "variable of each CPU that only the start sets",
        _INIT,
        _new(
            'int state __section(".data..percpu")',
            '({ int r; __asm__ volatile("movl %%gs:state, %0" : "=r"(r)); r; })',
            '__asm__ volatile("movl %0, %%gs:state" : : "r"(a))',
        ),
        _LEFT_OUT,
    ),
    Row(
        "variable for after the start that only the start sets",
        _INIT,
        _new('static int state __section(".data..ro_after_init")', "state", "state = a"),
        _LEFT_OUT,
    ),
    Row(
        "variable that is read by a pointer",
        _INIT,
        _new("static int state; static int *volatile const where = &state", "*where", "state = a"),
        _LEFT_OUT,
    ),
    Row(
        "variable that only the end sets",
        _STATE.replace("WHERE", '__section(".exit.text")'),
        _new("static int state", "state", "state = 1"),
        "refused exit-changed:start never-set:state",
    ),
    Row(
        "lock that the start initializes",
        "extern int __mutex_init(void *, const char *, void *), mutex_lock(void *); static char key;" + _INIT,
        _new("static long state[4]", "mutex_lock(state)", '__mutex_init(state, "state", &key)'),
        _WARNED,
    ),
    Row(
        "variable whose address is handed on, and that the start sets",
        "extern int look(const int *);" + _INIT,
        _new("static int state[4]", "look(state)", "state[2] = a"),
        _WARNED,
    ),
    Row(
        "lock that the start takes too",
        "extern int lock(void *);" + _INIT,
        _new("static long state[4]", "lock(state)", "lock(state)"),
        _FINE,
    ),
    Row(
        "variable that shipped code sets as well",
        _INIT + " int k(int a) { return sink(a, 3); }",
        (*_new("static int state", "state", "state = a"), ("return sink(a, 3)", "return state = sink(a, 4)")),
        _FINE,
    ),
    Row(
        "variable that is the file's own now",
        "extern int v; int f(int x) { return sink(v); }",
        (("extern int v;", "static int v = 4; int *p = &v;"),),
        "changed f, travels v",
    ),
    Row(
        "things that the start throws away, used later",
        "int f(int x) { return sink(x); }",
        (
            (
                "int f(int x) { return sink(x)",
                'static int t __section(".init.data") = 3; int f(int x) { return sink(x, t++)',
            ),
        ),
        "refused init-reference:t",
    ),
    Row(
        "error injection of another kind",
        "int f(int x) { return sink(x); } struct site { void *at; int kind; };"
        ' static const struct site site __used __section("_error_injection_whitelist") = { f, 0 };',
        (("{ f, 0 }", "{ f, 2 }"),),
        "refused unregistered:site",
    ),
)
