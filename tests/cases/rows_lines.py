"""Line numbers: what is proven to be one that moved, and what only looks like one."""

from __future__ import annotations

from tests.cases.written import HEAD, Edit, Row

_TAKERS = """#define TEXT1(x) #x
#define TEXT(x) TEXT1(x)
#define warning_on(x) ({ if (x) _printk("[%s:%d] no\\n", __func__, __LINE__); })
extern void __might_sleep(const char *, int, int), _printk(const char *, ...), stop(void);
extern void xfs_corruption_error(const char *, int, void *, const void *, long, const char *, int, void *);
static noinline void __warn(const char *, int, int), __ext4_ext_dirty(const char *, int, int);
"""
_PLACE = "/* here */\n"
_FUNCTION = "int f(int x)\n{\n    if (x > 77)\n        STATEMENT;\n    return sink(x);\n}\n"
_STATEMENT = (HEAD + _TAKERS + _PLACE).count("\n") + 4
"""The line of the statement in the old version."""
_MOVED = 3
"""By how many lines it moves, and by how much a number becomes more."""


def _row(
    name: str, statement: str, right: str, *flags: str, number: int = 0, patched: bool = False, behind: str = ""
) -> Row:
    """A statement that moves; `N` in it is a number that is no line, and becomes more by as much as it moves."""
    source = (
        _TAKERS + _PLACE + "int f(int x)\n{\n    if (x > 77)\n        STATEMENT;\n    return sink(x);\n}\n" + behind
    )
    edits: tuple[Edit, ...] = ((_PLACE, _PLACE + "\n" * _MOVED),)
    if number:
        first, second = (statement.replace("N", str(value)) for value in (number, number + _MOVED))
        statement, edits = first, (*edits, (first, second))
    return Row(name, source.replace("STATEMENT", statement), edits, right, flags=flags, patched=patched)


_PRINT = '_printk("%s:%d\\n", __func__, __LINE__)'
_TWICE = '{ int l = __LINE__; if (sink(1) > l) __might_sleep("unit.c", l, 0); }'
_TEXT = 'note(__FILE__ ":" TEXT(__LINE__))'
_LIMIT = '_printk("%s: limit %d\\n", __func__, N)'
_STATIC = (
    "static void NAME(const char *p, int l, int x) { if (sink(x) > l) note(p); } void k(int x) { NAME(0, x, 3); }\n"
)

ROWS = (
    _row("line beside its function", _PRINT, "same, lines f", "-g"),
    _row("line beside its function, with its patch", _PRINT, "same, lines f", patched=True),
    _row("line beside its function, without any proof", _PRINT, "changed f"),
    _row("line on the stack", 'xfs_corruption_error("t", 1, 0, 0, 8, __FILE__, __LINE__, 0)', "same, lines f", "-g"),
    _row(
        "line in the middle of a call",
        '_printk("%s: at %d\\n", __func__,\n\n            __LINE__)',
        "same, lines f",
        "-g",
        patched=True,
    ),
    _row("line by a macro", "warning_on(sink(x))", "same, lines f", "-g"),
    _row("line and one more", '__might_sleep("unit.c", __LINE__ + 1, 0)', "changed f", "-g"),
    _row("line that is compared too", _TWICE, "changed f", "-g"),
    _row("line that is compared too, with its patch", _TWICE, "changed f", patched=True),
    _row("line in a text", _TEXT, "same, lines f", "-g"),
    _row("line in a text, with its patch", _TEXT, "same, lines f", patched=True),
    _row("text with the own file and no line", 'note("unit.c:N")', "changed f", "-g", number=80),
    _row("text with the own file and no line, by a patch", 'note("unit.c:N")', "changed f", number=80, patched=True),
    _row("text with a header and no line", 'note("linux/a.h:N")', "changed f", "-g", number=80),
    _row("number that moves as the lines do", _LIMIT, "changed f", "-g", number=100, patched=True),
    _row("number that a patch changes by what it moves", _LIMIT, "changed f", number=100, patched=True),
    _row("number in front of all that moved", _LIMIT, "changed f", number=5, patched=True),
    _row(
        "static function called like another one that takes a line",
        '__warn("fs/a.c", N, x)',
        "changed f",
        "-g",
        number=_STATEMENT,
        behind=_STATIC.replace("NAME", "__warn"),
    ),
    _row(
        "static function that takes a line",
        "__ext4_ext_dirty(__func__, __LINE__, x)",
        "same, lines f",
        "-g",
        behind=_STATIC.replace("NAME", "__ext4_ext_dirty"),
    ),
    Row(
        "lines of the last calls of a function",
        _TAKERS + _PLACE + 'void f(int x)\n{\n    if (x > 77)\n        __might_sleep("unit.c", __LINE__, 0);\n}\n',
        ((_PLACE, _PLACE + "\n"),),
        "same, lines f",
        flags=("-g",),
    ),
    Row(
        "number for a last call that is in front of one that takes a line",
        _TAKERS
        + "extern void report(const char *, int, int);\nvoid f(int x)\n{\n    if (x > 77)\n"
        + '        report("unit.c", __LINE__, 0);\n    else\n        __might_sleep("unit.c", 3, 0);\n}\n',
        (("extern void report", "\nextern void report"),),
        "changed f",
        flags=("-g",),
    ),
    Row(
        "text with the own file and no line that a variable leads to",
        'const char *where = "unit.c:80"; int f(int x) { return note(where); }',
        ((":80", ":81"),),
        "refused data-changed:where",
        flags=("-g",),
    ),
    Row(
        "text with the own file and no line in a record",
        "struct record { const char *where; int level; }; extern int use(const struct record *);"
        'int f(void) { static const struct record r = { "unit.c:80", 3 }; return use(&r); }\n',
        ((":80", ":81"),),
        "changed f",
        patched=True,
    ),
)
