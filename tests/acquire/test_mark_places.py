"""Places of marks that a parser without a preprocessor may take for others, and several marks at one place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.acquire.marks.edits import applied, as_patch, file_edits
from builder.acquire.marks.place import MarkPlace, find_spots
from builder.acquire.marks.syntax import SourceText
from builder.acquire.sources import SourceTarget, find_source
from builder.errors import RefusedError
from tests.acquire.everywhere import mark_everywhere
from tests.acquire.test_marks import marked
from tests.conftest import needed
from tests.support.kernels import opened

TEXT = b"""\
#define STEP(x)	do {		\\
	look(x);		\\
} while (0)

static struct thing *
find(struct thing *t,
     int n)
{
	int i;

	for (i = 0;
		i < n;
		i++)
		look(t);
	if (n)
		return NULL;
	else if (t)
		look(t);
	do {
		n--;
	} while (n);
	switch (n) {
	case 1:
	case 2: {
		int x = 3;

		look(x);
		break;
	}
	default:
		break;
	}
	if (t)
retry:
		look(t);
	STEP(t);
	for (;;)
		break;
	n = look(t) ? 1 : /* why */
		2;
	things_for_each(t, n, ({
		look(t);
	}));
	things_for_each(t, n)
		n += look(t)->value;
	static DEFINE_THING(once, 10*HZ, 1);
	t = container_of(t, struct thing, list);
	return t;
}

static void noinline_for_stack notrace_not leave(void *p) { look(p); }

void
out(int n)
{
	if (n)
		return look(n);
}

DEFINE_IDTENTRY_SYSVEC(sysvec_thing)
{
	look(regs);
}

DEFINE_IDTENTRY_ERRORCODE(exc_thing)
{
	look(regs);
}

BPF_CALL_2(bpf_thing, u32, one, struct thing *, two)
{
	return one;
}

static MAKE_THING(made)
{
	return 3;
}

SYSCALL_DEFINE0(nothing)
{
	return 0;
}
"""
SOURCE = SourceText("lib/odd.c", TEXT)
RETURNS = "__typeof__(find(t, n)) __bespoke_retval"


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("lib/odd.c:35", "{ { M; } look(t); }"),  # `if (t) retry: look(t);`
        ("lib/odd.c:18", "{ { M; } look(t); }"),
        ("lib/odd.c:22", "{ M; } switch (n) {"),
        ("lib/odd.c:31", "{ M; } break;"),
        ("lib/odd.c:36", "{ M; } STEP(t);"),
        ("lib/odd.c:37", "{ M; } for (;;)"),
        ("lib/odd.c:38", "{ { M; } break; }"),
        ("lib/odd.c:39", "{ M; } n = look(t) ? 1 : /* why */"),
        ("lib/odd.c:41", "{ M; } things_for_each(t, n, ({"),
        ("lib/odd.c:45", "{ { M; } n += look(t)->value; }"),
        ("lib/odd.c:47", "{ M; } t = container_of(t, struct thing, list);"),
        ("leave", "static void noinline_for_stack notrace_not leave(void *p) { { M; } look(p); }"),
        ("leave%return", "static void noinline_for_stack notrace_not leave(void *p) { look(p); { M; } }"),
        ("out%return", "{ look(n); { M; } return; }\n{ M; } }"),
        ("__sysvec_thing%return", "{ M; } }"),
        ("bpf_thing%return", "{ u64 __bespoke_retval = (one); { M; } return __bespoke_retval; }"),
        ("made%return", "{ __auto_type __bespoke_retval = (3); { M; } return __bespoke_retval; }"),
        ("__do_sys_nothing", "{ M; } return 0;"),
    ],
)
def test_places_that_look_like_others(place: str, lines: str) -> None:
    assert marked(place, source=SOURCE) == lines


@pytest.mark.parametrize(
    ("places", "lines"),
    [
        (["lib/odd.c:14", "lib/odd.c:14"], ["{ { M1; } { M2; } look(t); }"]),
        (["lib/odd.c:16", "find%return"],
         [f"{{ {{ M1; }} {RETURNS} = (NULL); {{ M2; }} return __bespoke_retval; }}",
          f"{{ {RETURNS} = (t); {{ M2; }} return __bespoke_retval; }}"]),
        (["find%return", "lib/odd.c:16"],
         [f"{{ {{ M2; }} {RETURNS} = (NULL); {{ M1; }} return __bespoke_retval; }}",
          f"{{ {RETURNS} = (t); {{ M1; }} return __bespoke_retval; }}"]),
        (["lib/odd.c:17", "lib/odd.c:18"], ["else { { M1; } if (t)", "{ { M2; } look(t); } }"]),
        (["find", "lib/odd.c:11"], ["{ M1; } { M2; } for (i = 0;"]),
    ],
)  # fmt: skip
def test_several_marks_at_one_statement_all_stand_before_it(places: list[str], lines: list[str]) -> None:
    assert marked(*places, source=SOURCE).split("\n") == lines


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("lib/odd.c:6", "is the head of find()"),
        ("lib/odd.c:8", "is the head of find()"),
        ("lib/odd.c:12", "is in the head of a for that begins at line 11"),
        ("lib/odd.c:21", "'} while (n);', where no statement begins"),
        ("lib/odd.c:23", "is a label with nothing that can be marked behind it"),
        ("lib/odd.c:25", "is a declaration"),
        ("lib/odd.c:29", "'}', where no statement begins"),
        ("lib/odd.c:40", "is in the middle of a statement that begins at line 39"),
        ("lib/odd.c:42", "is inside the arguments of a macro or call"),
        ("lib/odd.c:46", "cannot be understood without its macros"),  # static DEFINE_THING(...)
        ("exc_thing", "is DEFINE_IDTENTRY_ERRORCODE: it must not be instrumented"),
        ("find:'look(t)'", "lines of find() have the text 'look(t)'"),
        ("find:'why'", "stands in a comment"),
    ],
)
def test_what_cannot_be_marked_is_refused_by_what_it_is(place: str, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        marked(place, source=SOURCE)
    (row,) = refused.value.refusals
    assert row.code == "mark-place" and message in row.message and row.advice


def test_the_patch_is_one_that_patch_takes(tmp_path: Path) -> None:
    """Also with lines that Python would part, and a last line without an end."""
    text = TEXT.replace(b"/* why */", b"/* why\f */").rstrip(b"\n")
    source = SourceText("lib/odd.c", text)
    spots = [
        spot
        for name in ("find", "out")
        for function in source.named(name)
        for spot in find_spots(MarkPlace.parse(f"{name}%return"), source, function)
    ]
    after = applied(text, file_edits((spot, ["{ M; }"]) for spot in spots)["lib/odd.c"])[0]
    for more in (b"\nint more;\n", b""):
        file = tmp_path / "lib/odd.c"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text + b"\n" * bool(more))
        before = file.read_bytes()
        patch = as_patch({"lib/odd.c": (before, after + more)}, "marks\n").encode("utf-8", "surrogateescape")
        subprocess.run(["patch", "-p1", "-s", "-F0"], input=patch, cwd=tmp_path, check=True)
        assert file.read_bytes() == after + more


@pytest.mark.kernel
@pytest.mark.slow
def test_a_mark_at_every_statement_of_a_file_leaves_its_code_as_it_is(release_61: str) -> None:
    """Two files; two dozen: `python -m tests.acquire.everywhere`."""
    kernel = opened(release_61)
    with needed("no source"):
        tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    for path, least in (("kernel/futex/waitwake.c", 200), ("lib/xarray.c", 800)):
        one = mark_everywhere(path, tree)
        assert one.places > least and one.refused == 0 and not one.changed
