"""Places, expressions and edits of marks, on small sources; what the compiler says is in the tests with a kernel."""

from __future__ import annotations

import time

import pytest

from builder.acquire.marks.edits import applied, file_edits
from builder.acquire.marks.expressions import field_name, parse_expression, read_through
from builder.acquire.marks.place import MarkPlace, find_spots
from builder.acquire.marks.syntax import SourceText
from builder.acquire.marks.words import Mark, understood
from builder.errors import BespokeError, RefusedError

TEXT = b"""\
/* two functions */
static noinline int __sched first(struct thing *t, int n)
{
	int sum = 0, i;
	struct thing *other;

	for (i = 0; i < n; i++)
		sum += t->value;
	list_for_each_entry(other, &t->list, node)
		look(other);
	list_for_each_entry(other, &t->list, node) {
		look(other);
	}
	if (sum)
		return -EINVAL;
	else
		n = 1; // a comment
	/* and another */
again:
	wait_event(t->queue, ({ int x = 1; look(t);
		x; }));
	switch (n) {
	case 1:
		look(t);
		break;
	}
#ifdef CONFIG_THING
	if (n)
		goto again;
#endif
	return sum +
		n;
}

SYSCALL_DEFINE2(shown, const char __user *, name, int, flags)
{
	return first(NULL, flags);
}

static void __init begin(void)
{
	look(NULL);
}

void leave(struct thing *t)
{
	if (!t)
		return;
	look(t);
}
"""
SOURCE = SourceText("lib/things.c", TEXT)


def marked(*places: str, source: SourceText = SOURCE) -> str:
    """The lines of a source that change when marks are put at `places`: `{ M; }`, of several `{ M1; }`, `{ M2; }`."""
    statements = []
    for number, place in enumerate(places, 1):
        said = MarkPlace.parse(place)
        function = source.around(said.line) if said.line else source.named(said.function)[0]
        assert function is not None
        name = f"{{ M{number if len(places) > 1 else ''}; }}"
        statements += [(spot, [name]) for spot in find_spots(said, source, function)]
    text = applied(source.text, file_edits(statements)[source.path])[0]
    assert text.count(b"\n") == source.text.count(b"\n")  # no line moves
    return "\n".join(
        new.decode().strip() for old, new in zip(source.lines, text.split(b"\n"), strict=True) if old != new
    )


def test_the_functions_of_a_file_are_found_by_name_with_what_is_in_scope() -> None:
    assert [(f.name, f.first, f.last) for f in SOURCE.functions] == [
        ("first", 2, 33),
        ("__do_sys_shown", 35, 38),
        ("begin", 40, 43),
        ("leave", 45, 50),
    ]
    first, shown, _, leave = SOURCE.functions
    assert first.parameters == ("t", "n") and shown.parameters == ("name", "flags")
    assert first.locals_before(first.body.end_byte - 1) == ("sum", "i", "other")
    assert leave.is_void and not first.is_void and not shown.is_void


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("first", "{ M; } for (i = 0; i < n; i++)"),
        ("first+6", "{ { M; } sum += t->value; }"),  # all that the loop has
        ("lib/things.c:10", "{ { M; } look(other); }"),  # and that of a macro, which the parser takes for a call
        ("lib/things.c:11", "{ M; } list_for_each_entry(other, &t->list, node) {"),
        ("lib/things.c:12", "{ M; } look(other);"),
        ("first:'n = 1'", "{ { M; } n = 1; } // a comment"),
        ("lib/things.c:20", "{ M; } wait_event(t->queue, ({ int x = 1; look(t);"),
        ("lib/things.c:24", "{ M; } look(t);"),  # behind the label of a case
        ("lib/things.c:29", "{ { M; } goto again; }"),
        ("leave+5", "{ M; } }"),  # the end
    ],
)  # fmt: skip
def test_a_statement_is_put_where_it_changes_nothing_else(place: str, line: str) -> None:
    assert marked(place) == line


def test_every_return_is_marked_and_its_value_is_computed_once() -> None:
    kind = "__typeof__(first(t, n))"
    assert marked("first%return").split("\n") == [
        f"{{ {kind} __bespoke_retval = (-EINVAL); {{ M; }} return __bespoke_retval; }}",
        f"{{ {kind} __bespoke_retval = (sum +",
        "n); { M; } return __bespoke_retval; }",
    ]
    assert marked("__do_sys_shown%return") == (
        "{ long __bespoke_retval = (first(NULL, flags)); { M; } return __bespoke_retval; }"
    )
    assert marked("leave%return").split("\n") == ["{ { M; } return; }", "{ M; } }"]


@pytest.mark.parametrize(
    ("place", "message", "advice"),
    [
        ("lib/things.c:4", "is a declaration", "lib/things.c:7 (for (i = 0; i < n; i++))"),
        ("lib/things.c:2", "is the head of first()", "lib/things.c:7"),
        ("lib/things.c:16", "is 'else', where no statement begins", "lib/things.c:17"),
        ("lib/things.c:18", "is a comment", "lib/things.c:20"),
        ("lib/things.c:6", "is empty", "lib/things.c:7"),
        ("lib/things.c:27", "is for the preprocessor", "lib/things.c:28"),
        ("lib/things.c:13", "is '}', where no statement begins", "lib/things.c:14"),
        ("first:'a comment'", "stands in a comment", "say the text of a statement"),
        ("lib/things.c:32", "is in the middle of a statement that begins at line 31", "lib/things.c:31"),
        ("lib/things.c:21", "is inside the arguments of a macro or call", "lib/things.c:20"),
        ("begin", "is __init", "mark a function that calls it"),
        ("first+99", "has 31 lines behind its first", "say a smaller number"),
        ("first:'look'", "4 lines of first() have the text 'look'", "say more of the line"),
        ("first:'nothing'", "no line of first()", "say more of the line"),
    ],
)
def test_a_place_that_cannot_be_marked_is_refused_with_the_nearest_that_can(
    place: str, message: str, advice: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        marked(place)
    (row,) = refused.value.refusals
    assert row.code == "mark-place" and message in row.message and advice in row.advice


@pytest.mark.parametrize(
    "text",
    ["", "17", "a b", "fs/open.c:", "f%leave", "f+", "../x.S:3", "f+-1", "fs/open.c:0", "f:''", "f:' '", "f" * 5000],
)
def test_what_is_no_place_is_bad_usage_that_says_the_forms(text: str) -> None:
    with pytest.raises(BespokeError, match="FUNCTION%return"):
        MarkPlace.parse(text)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("a = 1 + (b = 2)",), "mark-side-effect", "assigns"),
        (("x += 1",), "mark-side-effect", "assigns"),
        (("a++",), "mark-side-effect", "changes a variable"),
        (("--p->n",), "mark-side-effect", "changes a variable"),
        (("kfree(p)",), "mark-side-effect", "kfree() is called"),
        (("p->ops->get(p)",), "mark-side-effect", "p->ops->get() is called"),
        (("({ int z = 3; z; })",), "mark-expression", "is no C expression"),
        (("*(volatile int *)p",), "mark-side-effect", "may be a device"),
        (("x); panic(\"a\"",), "mark-expression", "is no C expression"),
        (("a; b",), "mark-expression", "is no C expression"),
        (("a /* b",), "mark-expression", "is no C expression"),
        (("a // b",), "mark-expression", "is no C expression"),
        (("a +",), "mark-expression", "is no C expression"),
        (("",), "mark-expression", "is no C expression"),
        (("int y",), "mark-expression", "is no C expression"),
        (("a\n#define b",), "mark-expression", "is no C expression"),
        (("__bespoke_on",), "mark-expression", "are the marks' own"),
        (("$retval",), "mark-expression", "is there at a return only"),
        (("%d %d", "a"), "mark-format", "2 conversions, and 1 expression follows"),
        (("%y", "a"), "mark-format", "is no conversion"),
        (("%n %d", "a", "b"), "mark-format", "is no conversion"),
        (("at %pQz", "a"), "mark-format", "%pQz is not known"),
        (("%*d", "a"), "mark-format", "takes its width from an argument"),
        (("%.2f", "a"), "mark-format", "no floating point"),
        (("%d %", "a"), "mark-format", "is no conversion"),
        (("%d\\n%d", "a", "b"), "mark-format", "has several lines"),
        (("%d \\x41", "a"), "mark-format", "is no escape here"),
        (("100%%", "b"), "mark-format", "0 conversions, and 1 expression follows"),
        (("opens %d %s", "a"), "mark-format", "2 conversions, and 1 expression follows"),
        (("opens %d",), "mark-format", "1 conversion, and 0 expressions follow"),
        (("%d " * 400, *(["a"] * 400)), "mark-format", "has 1200 characters"),
        (("+a" * 5000,), "mark-expression", "has 10000 characters"),
        (("größe=a",), "mark-expression", "'größe' is no name of a field"),
        (("a, b",), "mark-expression", "several expressions with commas"),
        (("a ? b, c : d",), "mark-expression", "several expressions with commas"),
        (("a * 1.5",), "mark-expression", "no floating point"),
        (("(float)a",), "mark-expression", "no floating point"),
        (("1e3",), "mark-expression", "no floating point"),
        (("&&out",), "mark-expression", "address of a label"),
        (("$ret",), "mark-expression", "is no name of C"),
        (("a\\b",), "mark-expression", "is no C expression"),
        (("a ?? b",), "mark-expression", "is no C expression"),
        (("x)) + ((y",), "mark-expression", "is no C expression"),
        (("goto out",), "mark-expression", "is no C expression"),
        (("struct foo",), "mark-expression", "is no C expression"),
        (("(kfree)(p)",), "mark-side-effect", "(kfree)() is called"),
        (("(*p->get)(p)",), "mark-side-effect", "is called"),
        (("READ_ONCE(a = 3)",), "mark-side-effect", "assigns"),
        (("READ_ONCE(*get(p))",), "mark-side-effect", "get() is called"),
        (("a ? 1 : get(p)",), "mark-side-effect", "get() is called"),
        (("sizeof(int[get(p)])",), "mark-side-effect", "get() is called"),
        (("a <<= 1",), "mark-side-effect", "assigns"),
        (("(struct point){ .x = 1 }.x",), "mark-side-effect", "makes an object"),
        (("asm(\"nop\")",), "mark-side-effect", "holds assembler"),
    ],
)  # fmt: skip
def test_words_that_are_no_mark_are_refused_in_the_users_own_words(
    words: tuple[str, ...], code: str, message: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        understood(Mark("f", words))
    (row,) = refused.value.refusals
    assert row.code == code and message in row.message and row.advice


def test_a_format_is_told_from_an_expression() -> None:
    said = understood(Mark("f", ("size %lu of %-10s", "p->n", "p->name")))
    assert (
        said.format is not None
        and said.format.text == "size %lu of %-10s"
        and [f.name for f in said.fields] == ["p_n", "p_name"]
    )
    for divided in ("a % b", "a % d", "a%d", "a %size"):
        assert understood(Mark("f", (divided, "c", "e"))).format is None
    assert said.format.parts == ("size ", " of ", "")
    here = understood(Mark("f", ('"here it is"',))).format
    assert here is not None and here.plain == "here it is"
    named = understood(Mark("f", ("size=p->n", "p->n", "q->n == 3")))
    assert named.format is None and [(f.name, f.code) for f in named.fields] == [
        ("size", "p->n"),
        ("p_n", "p->n"),
        ("q_n", "q->n == 3"),
    ]
    assert field_name("ntohs(sk->__sk_common.skc_dport)") == "__sk_common_skc_dport"
    unsafe = understood(Mark("f", ("get(p)",), unsafe=True))
    assert unsafe.fields[0].code == "get(p)"


@pytest.mark.parametrize(
    "text",
    ["(u64)(a)", "(pid_t)(a + 1)", "(typeof(a))(b)", "a ?: b", "-a", "!!p->n", "*&a", "&p->n", "'a' + a", "p->t[i].n",
     "container_of(p, struct thing, list)->n", "list_first_entry(&p->list, struct thing, node)->n",
     "min_t(unsigned long, a, 3)", "sizeof(struct thing)", "offsetof(struct thing, node)", "a % b", "0x1e5",
     "strcmp(p->name, \"a // b;\") == 0", "((struct thing *)p)->n", "__builtin_expect(a, 0)", "a ? b : c"],
)  # fmt: skip
def test_what_only_reads_is_an_expression(text: str) -> None:
    (field,) = understood(Mark("f", (text,))).fields
    assert field.code == text and field.name.isidentifier()


@pytest.mark.parametrize(("text", "message"), [("a=5", "assigns"), ("a = 5", "assigns"), ("a, b", "commas")])
def test_a_condition_compares_and_names_nothing(text: str, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        understood(Mark("f", condition=text))
    assert message in refused.value.refusals[0].message


def test_percent_signs_and_escapes_of_a_format_stay_what_they_are() -> None:
    said = understood(Mark("f", ("%%d %d\\t100%%\\n", "a"))).format
    assert said is not None and said.parts == ("%d ", "\t100%") and [c.text for c in said.conversions] == ["%d"]
    assert said.plain == "%%d %d\t100%%"


def test_each_field_has_a_name_of_its_own() -> None:
    names = [field.name for field in understood(Mark("f", ("a_2=a", "a", "a", "comm=a", "p->comm"))).fields]
    assert names == ["a_2", "a", "a_3", "comm_", "p_comm"]


def test_times_have_two_places() -> None:
    timed = understood(Mark("f", aggregate="time", value="p", until="g%return", until_value="$retval"))
    assert timed.value is not None and timed.until_value is not None and timed.until_value.code == "__bespoke_retval"
    with pytest.raises(RefusedError) as refused:
        understood(Mark("f", aggregate="time", value="p", until="g", until_value="$retval"))
    assert "g: $retval" in refused.value.refusals[0].message
    for mark in (Mark("f", aggregate="time", value="p"), Mark("f", aggregate="count", until="g")):
        with pytest.raises(BespokeError, match="belong together"):
            understood(mark)


def test_what_is_nested_deeply_is_read_in_a_moment() -> None:
    (field,) = understood(Mark("f", (f"{'(' * 400}*p{')' * 400}",))).fields
    started = time.process_time()
    assert list(read_through(parse_expression(field.code))) == [("p", "*p")]
    assert time.process_time() - started < 1


def test_a_head_with_an_annotation_names_its_function() -> None:
    source = SourceText("f.c", b"asmlinkage __visible void __softirq_entry __do_it(void)\n{\n\trun();\n}\n")
    assert [f.name for f in source.functions] == ["__do_it"] and source.functions[0].is_void


def test_a_place_is_the_same_however_its_file_is_written() -> None:
    assert MarkPlace.parse("./fs/../fs/open.c:17").file == MarkPlace.parse("fs/open.c:17").file == "fs/open.c"
