"""Judgement: what can be built, and would not do what it is for, or never come to an end."""

from __future__ import annotations

from tests.cases.written import Row

_THREAD = """
typedef int (*thread)(void *);
extern void *kthread_create_on_node(thread, void *, int, const char *, ...);
extern int kthread_should_stop(void), begin(void *, thread);
extern void schedule(void), kthread_complete_and_exit(void *, long);
"""
_MAIN = "static int work(void *d) { while (!kthread_should_stop()) { schedule(); sink(1, d); } return 0; }\n"
_ENDLESS = "static int work(void *d) { for (;;) { schedule(); sink(1, d); } }\n"
_ENDS = "static int work(void *d) { while (sink(1, d)) schedule(); kthread_complete_and_exit(d, 0); return 0; }\n"


def _thread(name: str, source: str, right: str) -> Row:
    return Row(name, _THREAD + source, (("sink(1, d)", "sink(2, d)"),), right)


_NEVER = "refused never-returns:work"
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
)
