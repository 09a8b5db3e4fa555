"""What counts as a change of a function, rule by rule, on objects that the compiler makes here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from builder.binary import read_object
from builder.compare import Comparison, Verdict, compare, naming
from builder.compare.comparison import is_label_table, label_owners
from tests.compare.conftest import Pair, names
from tests.support.compiling import FLAGS, Build

HEAD = "extern int sink(int, ...); extern void note(const char *, ...);\n"


def changed(comparison: Comparison) -> list[str]:
    return names(comparison.changed)


def nothing(comparison: Comparison) -> bool:
    return not (
        comparison.changed
        or comparison.line_only
        or comparison.new_functions
        or comparison.removed_functions
        or comparison.new_data
        or comparison.removed_data
        or comparison.correlation.ambiguous
        or any(d.is_changed for d in comparison.data.values())
    )


def twin_name(comparison: Comparison, name: str) -> str:
    """The old name of what the new object calls `name`."""
    return comparison.correlation.twins[comparison.new.by_name[name]].name


def test_the_same_source_is_the_same(pair: Pair) -> None:
    source = HEAD + 'static int n; int f(int x) { n += x; note("hello"); return sink(n); }'
    assert nothing(pair(source, source))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x + 5;", "return x + 6;"),
        ("if (x < 5) sink(1); return 2;", "if (x <= 5) sink(1); return 2;"),
        ("return sink(x);", "return sink(x, 1);"),
        ("return sink(p->a);", "return sink(p->b);"),
        ("return sink(one(x));", "return sink(two(x));"),
        ('note("a message"); return 0;', 'note("another message"); return 0;'),
        ("return sink(first++);", "return sink(second++);"),
        ("return table[1];", "return table[2];"),
    ],
)
def test_each_real_change_names_its_function_and_only_that(pair: Pair, old: str, new: str) -> None:
    frame = (
        HEAD
        + """
        struct s {{ int a, b; }}; int first, second; extern int table[];
        __attribute__((noinline)) int one(int x) {{ return sink(x, 1); }}
        __attribute__((noinline)) int two(int x) {{ return sink(x, 2); }}
        int f(int x, struct s *p) {{ {} }}
        int g(int x) {{ return one(x) + two(x); }}
    """
    )
    comparison = pair(frame.format(old), frame.format(new))
    assert changed(comparison) == ["f"]
    assert comparison.functions[comparison.changed[0]].reason.startswith("at f+0x")


def test_strings_compare_by_content_not_by_place(pair: Pair) -> None:
    frame = HEAD + 'void g(void) {{ {} note("zebra"); }} void f(void) {{ note("unmoved"); note("zebra"); }}'
    assert changed(pair(frame.format(""), frame.format('note("put before the others");'))) == ["g"]


def test_a_string_that_ends_another_is_told_apart(pair: Pair) -> None:
    frame = HEAD + 'void f(void) {{ note("{}"); }}'
    assert changed(pair(frame.format("prefixed"), frame.format("prefixe"))) == ["f"]


def test_static_locals_pair_by_use_when_their_numbers_are_swapped(pair: Pair) -> None:
    old = (
        HEAD
        + """
        int f(int x) { static int count; count += x; return sink(count); }
        int g(int x) { static int count; count -= x; return sink(count); }
    """
    )
    new = (
        HEAD
        + """
        int g(int x) { static int count; count -= x; return sink(count); }
        int f(int x) { static int count; count += x; return sink(count); }
    """
    )
    comparison = pair(old, new)
    assert nothing(comparison)
    renumbered = 0
    for function in ("f", "g"):
        statics = {}
        for view, atom in (
            (comparison.old, comparison.old.by_name[function]),
            (comparison.new, comparison.new.by_name[function]),
        ):
            (statics[view],) = {
                t.atom
                for r in view.relocations(atom)
                if (t := view.target(r, view.bias(atom, r))).atom and not t.atom.is_function
            }
        assert comparison.correlation.twins[statics[comparison.new]] is statics[comparison.old]
        renumbered += statics[comparison.new].name != statics[comparison.old].name
    assert renumbered == 2


def test_two_statics_of_one_name_in_one_function_pair_in_order(pair: Pair) -> None:
    frame = (
        HEAD
        + """
        int f(int x) {{
            if (x) {{ static int seen; seen += x; return sink(seen); }}
            {}
            {{ static int seen; seen -= 7; return sink(seen); }}
        }}
    """
    )
    comparison = pair(frame.format(""), frame.format("sink(99);"))
    assert changed(comparison) == ["f"]
    assert not comparison.new_data and not comparison.removed_data
    assert len({twin_name(comparison, a.name) for a in comparison.new.data}) == 2


def test_a_new_static_local_is_new_data_and_the_old_ones_stay_paired(pair: Pair) -> None:
    frame = HEAD + "int f(int x) {{ static int kept; kept += x; {} return sink(kept); }}"
    comparison = pair(frame.format(""), frame.format("static int fresh; if (!fresh++) sink(fresh);"))
    assert [n.partition(".")[0] for n in names(comparison.new_data)] == ["fresh"]
    assert changed(comparison) == ["f"] and not comparison.removed_data


def test_a_static_local_follows_the_code_out_of_an_inlined_function(pair: Pair) -> None:
    frame = (
        HEAD
        + """
        static {} int helper(int x) {{ static int state; state += x; return state; }}
        int f(int x) {{ return sink(helper(x)); }}
        int g(int x) {{ return sink(helper(x), 2); }}
    """
    )
    comparison = pair(frame.format("inline __attribute__((always_inline))"), frame.format("__attribute__((noinline))"))
    assert names(comparison.new_functions) == ["helper"]
    assert not comparison.new_data and not comparison.removed_data


def test_constants_of_another_content_are_the_function_s_own(pair: Pair) -> None:
    frame = HEAD + 'void f(void) {{ static const char msg[] = "{}"; note(msg); sink(msg[3]); }}'
    comparison = pair(frame.format("old text"), frame.format("new text"))
    assert changed(comparison) == ["f"]
    assert not any(d.is_changed for d in comparison.data.values())


def test_what_each_version_has_of_its_own_counts_by_content(pair: Pair) -> None:
    frame = (
        HEAD
        + """
        struct limit {{ int interval, burst; }}; extern int allowed(struct limit *);
        void f(void) {{ static struct limit _rs = {{ {}, 10 }}; if (allowed(&_rs)) note("x"); }}
    """
    )
    assert nothing_but_data(pair(frame.format(5), "\n" + frame.format(5)))
    assert changed(pair(frame.format(5), frame.format(6))) == ["f"]


def nothing_but_data(comparison: Comparison) -> bool:
    return not comparison.changed and not any(d.is_changed for d in comparison.data.values())


def test_a_static_local_that_nothing_refers_to_is_neither_new_nor_removed(pair: Pair) -> None:
    frame = HEAD + "{} int f(int x) {{ static int unused[4] __attribute__((used)) = {{ 1 }}; return sink(x); }}"
    old = frame.format("")
    assert nothing(pair(old, old))
    comparison = pair(old, frame.format("int g(int x) { static int unused __attribute__((used)); return sink(x, 2); }"))
    assert not comparison.removed_data and not comparison.changed
    assert [naming.family(n) for n in names(comparison.new_data)] == ["unused"]


COLD = (
    HEAD
    + """
    extern void panic(const char *, int) __attribute__((cold));
    int f(int *p, int x) {{ if (x > 100) {{ panic("{}", x); return sink(x); }} return sink(*p, x) + 1; }}
"""
)


def test_a_change_only_in_the_cold_part_changes_the_parent(pair: Pair) -> None:
    comparison = pair(COLD.format("gone"), COLD.format("lost"))
    parts = names(comparison.children[comparison.new.by_name["f"]])
    assert parts == ["f.cold"]
    assert changed(comparison) == ["f"]
    assert "f.cold" in comparison.functions[comparison.changed[0]].reason
    assert "f.cold" not in [a.name for a in comparison.functions]


@pytest.mark.parametrize("change", ["5", "6"])
def test_a_static_local_that_only_the_cold_part_refers_to_is_paired(pair: Pair, change: str) -> None:
    frame = (
        HEAD
        + """
        extern void panic(const char *, int) __attribute__((cold));
        int f(int *p, int x) {{ if (x > 100) {{ static int state; panic("x", state += {}); return sink(x); }}
                                return sink(*p, x) + 1; }}
    """
    )
    comparison = pair(frame.format(5), "static int other_2; int g(void) { return other_2++; }\n" + frame.format(change))
    assert [naming.family(n) for n in names(comparison.children[comparison.new.by_name["f"]])] == ["f.cold"]
    assert not comparison.removed_data and names(comparison.new_data) == ["other_2"]
    assert changed(comparison) == ([] if change == "5" else ["f"])


def test_a_cold_part_that_comes_or_goes_is_a_change_of_the_parent(pair: Pair) -> None:
    warm = HEAD + "int f(int *p, int x) { return sink(*p, x) + 1; }"
    assert changed(pair(warm, COLD.format("gone"))) == ["f"]
    assert changed(pair(COLD.format("gone"), warm)) == ["f"]
    assert not pair(warm, COLD.format("gone")).new_functions


def _assembly(gcc: str, place: Path, source: str, *flags: str) -> str:
    (place / "unit.c").write_text(source)
    subprocess.run([gcc, *FLAGS[1:], *flags, "-S", "unit.c", "-o", "unit.s"], cwd=place, check=True)
    return (place / "unit.s").read_text()


@pytest.mark.parametrize("suffix", ["isra", "constprop", "part"])
def test_renumbered_clones_are_the_same(gcc: str, build: Build, tmp_path: Path, suffix: str) -> None:
    source = (
        HEAD
        + """
        __attribute__((noinline)) static int h(int x) { return sink(x, 3); }
        int f(int x) { return h(x) + 1; }
    """
    )
    text = re.sub(r"\bh\b", f"h.{suffix}.0", _assembly(gcc, tmp_path, source))
    assert f"h.{suffix}.0:" in text
    old = build(text, language="assembler")
    comparison = compare(old, build(text.replace(f"h.{suffix}.0", f"h.{suffix}.7"), language="assembler"))
    assert nothing(comparison)
    assert twin_name(comparison, f"h.{suffix}.7") == f"h.{suffix}.0"
    other = text.replace(f"h.{suffix}.0", f"h.{suffix}.7").replace("$3,", "$4,")
    assert changed(compare(old, build(other, language="assembler"))) == [f"h.{suffix}.7"]


RELAX = """
    .section .text.f,"ax",@progbits
    .globl f
    .type f,@function
f:  testl %edi, %edi
    {0} je 1f
    incl %eax
2:  decl %ecx
    {0} jne 2b
    {0} jmp {1}f
1:  movl $1, %eax
3:  ret
    .size f, .-f
"""


def test_jumps_that_were_relaxed_differently_are_the_same(build: Build) -> None:
    short, long = RELAX.format("", 3), RELAX.format("{disp32}", 3)
    comparison = compare(build(short, language="assembler"), build(long, language="assembler"))
    assert comparison.old.by_name["f"].size != comparison.new.by_name["f"].size
    assert nothing(comparison)


def test_a_relaxed_jump_to_another_place_is_a_change(build: Build) -> None:
    old = build(RELAX.format("", 3), language="assembler")
    assert changed(compare(old, build(RELAX.format("{disp32}", 1), language="assembler"))) == ["f"]


LINE = (
    HEAD
    + """
extern void __might_sleep(const char *, int); extern void report(int, int);
{0}
int f(int x) {{ if (x) {1}; return sink(x); }}
"""
)


def verdict(comparison: Comparison) -> Verdict:
    return comparison.functions[comparison.new.by_name["f"]].verdict


def test_a_line_number_for_a_known_callee_needs_no_debug_information(pair: Pair) -> None:
    call = '__might_sleep("file.c", __LINE__)'
    assert verdict(pair(LINE.format("", call), LINE.format("\n" * 9, call))) is Verdict.LINES


def test_another_argument_of_a_known_callee_is_no_line_number(pair: Pair) -> None:
    frame = LINE.replace("void __might_sleep(const char *, int)", "void __might_sleep(int, const char *)")
    call = '__might_sleep(__LINE__, "file.c")'
    assert verdict(pair(frame.format("", call), frame.format("\n" * 9, call))) is Verdict.CHANGED


def test_a_line_number_for_any_callee_is_proven_by_debug_information(pair: Pair) -> None:
    call = "report(x, __LINE__)"
    old, new = LINE.format("", call), LINE.format("\n" * 9, call)
    assert verdict(pair(old, new)) is Verdict.CHANGED
    assert verdict(pair(old, new, "-g")) is Verdict.LINES
    assert verdict(pair(old, new, "-gdwarf-4")) is Verdict.LINES


def test_a_line_number_that_needs_a_wider_encoding_is_proven_too(pair: Pair) -> None:
    frame = LINE.replace("void report(int, int)", "void report(int, int, int, int, int, int, int)")
    call = "report(x, 2, 3, 4, 5, 6, __LINE__)"
    comparison = pair(frame.format("", call), frame.format("\n" * 200, call), "-g")
    assert comparison.old.by_name["f"].size != comparison.new.by_name["f"].size
    assert verdict(comparison) is Verdict.LINES


@pytest.mark.parametrize("lines", [0, 9])
def test_a_constant_that_is_no_line_number_is_a_change_with_debug_information_too(pair: Pair, lines: int) -> None:
    """Also when it changes by other than the lines that were put in."""
    old, new = LINE.format("", "report(x, 3000)"), LINE.format("\n" * lines, "report(x, 3001)")
    assert verdict(pair(old, new, "-g")) is Verdict.CHANGED


def test_a_file_and_line_inside_a_string_may_move(pair: Pair) -> None:
    frame = LINE.replace("__FILE__", "")
    old, new = frame.format("", 'note("lib/unit.c:12 check")'), frame.format("", 'note("lib/unit.c:21 check")')
    assert verdict(pair(old, new)) is Verdict.LINES
    other = frame.format("", 'note("lib/other.c:21 check")')
    assert verdict(pair(old, other)) is Verdict.CHANGED


LABELS = (
    HEAD
    + """
int f(int i, int x) {{
    static const void *const table[] = {{ &&a, &&b, &&c }};
    goto *table[i];
a:  return sink(x, {0});
b:  {1} return sink(x, 2);
c:  return sink(x, 3);
}}
"""
)


@pytest.mark.parametrize("change", [("5", ""), ("1", "sink(4);")])
def test_a_label_table_belongs_to_its_function(pair: Pair, change: tuple[str, str]) -> None:
    """With an unmoved and with a moved layout of the labels."""
    comparison = pair(LABELS.format("1", ""), LABELS.format(*change))
    assert changed(comparison) == ["f"]
    tables = [a for a in comparison.new.data if is_label_table(comparison.new, a)]
    assert [a.name.partition(".")[0] for a in tables] == ["table"]
    assert names(label_owners(comparison.new, tables[0])) == ["f"]
    assert not any(d.is_changed for d in comparison.data.values())


def test_an_unchanged_label_table_is_no_change(pair: Pair) -> None:
    assert nothing(pair(LABELS.format("1", ""), "\n" + LABELS.format("1", "")))


SWITCH = (
    HEAD
    + """
{0}
int f(int x) {{ switch (x) {{
    case 0: return sink(x, 1); case 1: return sink(x, {1}); case 2: return sink(3); case 3: return sink(x, x);
    case 4: note("four"); return 4; case {2}: note("five"); return sink(7); }} return 0; }}
"""
)
OTHER = (
    "int before(int x) { switch (x) { case 0: return sink(9); case 1: return sink(8); case 2: return sink(7);"
    ' case 3: return sink(6); case 4: return sink(5); case 5: note("q"); } return 1; }'
)


@pytest.mark.parametrize("flags", [("-fjump-tables",), ("-fno-jump-tables",)])
def test_a_switch_compares_by_where_each_case_leads(pair: Pair, flags: tuple[str, ...]) -> None:
    old = SWITCH.format("", 2, 5)
    assert nothing(pair(old, "\n" + old, *flags))
    beside = pair(old, SWITCH.format(OTHER, 2, 5), *flags)
    assert changed(beside) == [] and names(beside.new_functions) == ["before"]
    assert changed(pair(old, SWITCH.format("", 3, 5), *flags)) == ["f"]
    assert changed(pair(old, SWITCH.format("", 2, 6), *flags)) == ["f"]


def test_swapped_cases_change_only_the_table_and_are_seen(gcc: str, build: Build, tmp_path: Path) -> None:
    text = _assembly(gcc, tmp_path, SWITCH.format("", 2, 5), "-fjump-tables")
    rows = re.findall(r"^\t\.quad\t\.L\d+$", text, re.M)
    first, second = list(dict.fromkeys(rows))[:2]
    swapped = text.replace(first, "<>").replace(second, first).replace("<>", second)
    old, new = (build(t, language="assembler") for t in (text, swapped))
    assert changed(compare(old, new)) == ["f"]


def test_local_and_global_are_the_same_function(pair: Pair) -> None:
    frame = (
        HEAD
        + """
        {0} int state; {0} __attribute__((noinline, used)) int h(int x) {{ return sink(x, state++); }}
        int f(int x) {{ return h(x) + 1; }}
    """
    )
    for old, new in (("static", ""), ("", "static")):
        comparison = pair(frame.format(old), frame.format(new))
        assert changed(comparison) == [] and not comparison.new_functions and not comparison.removed_functions
        assert twin_name(comparison, "h") == "h" and twin_name(comparison, "state") == "state"


def test_a_function_that_comes_or_goes_is_named(pair: Pair) -> None:
    base = HEAD + "int f(int x) { return sink(x); }"
    more = base + "int g(int x) { return sink(x, 2); }"
    assert names(pair(base, more).new_functions) == ["g"]
    assert names(pair(more, base).removed_functions) == ["g"]


def test_a_bug_entry_s_flags_count_and_its_line_does_not(build: Build) -> None:
    frame = """
    .section .text.f,"ax",@progbits
    .globl f
    .type f,@function
f:  testl %edi, %edi
    je 2f
1:  ud2
2:  ret
    .size f, .-f
    .section __bug_table,"aw"
    .long 1b - .
    .long .Lfile - .
    .word {0}
    .word {1}
    .section .rodata.str1.1,"aMS",@progbits,1
.Lfile: .string "unit.c"
    """
    old = build(frame.format(10, 2305), language="assembler")
    assert nothing(compare(old, build(frame.format(99, 2305), language="assembler")))
    comparison = compare(old, build(frame.format(10, 2307), language="assembler"))
    assert changed(comparison) == ["f"]
    assert "__bug_table" in comparison.functions[comparison.changed[0]].reason


def test_two_files_linked_into_one_object_keep_their_own_locals(gcc: str, tmp_path: Path) -> None:
    """FILE symbols tell locals of one name apart."""

    def linked(name: str, value: int) -> Path:
        place = tmp_path / name
        place.mkdir()
        objects = []
        for file, constant in (("a", 1), ("b", value)):
            source = place / f"{file}.c"
            source.write_text(
                HEAD + f"__attribute__((noinline)) static int h(int x) {{ return sink(x, {constant}); }}"
                f"int {file}(int x) {{ return h(x) + 1; }}"
            )
            objects.append(f"{file}.o")
            subprocess.run([gcc, *FLAGS, source.name, "-o", objects[-1]], cwd=place, check=True)
        subprocess.run(["ld", "-r", *objects, "-o", "both.o"], cwd=place, check=True)
        return place / "both.o"

    comparison = compare(read_object(linked("old", 2)), read_object(linked("new", 3)))
    assert changed(comparison) == ["h"]
    (h,) = comparison.changed
    assert comparison.new.obj.symbols[h.symbol.index] is h.symbol
    assert not comparison.correlation.ambiguous and not comparison.new_functions


ALTERNATIVES = """
int one(int x) { asm volatile(
    "661: .nops 5\\n662:\\n"
    ".pushsection .altinstructions,\\"a\\"\\n .long 661b - ., 663f - .\\n .long 9\\n .byte 5, 5\\n"
    " .long 661b - ., 664f - .\\n .long 8\\n .byte 5, 0\\n.popsection\\n"
    ".pushsection .altinstr_replacement,\\"ax\\"\\n663: jmp 662b\\n664:\\n.popsection\\n"); return sink(x); }
int two(int x) { asm volatile(
    "661: .nops 5\\n662:\\n"
    ".pushsection .altinstructions,\\"a\\"\\n .long 661b - ., 663f - .\\n .long 7\\n .byte 5, 3\\n.popsection\\n"
    ".pushsection .altinstr_replacement,\\"ax\\"\\n663: .byte 0x0f, 0x1f, 0x00\\n.popsection\\n"); return sink(x) + 1; }
"""


def test_an_empty_replacement_is_not_the_one_after_it(pair: Pair) -> None:
    """It has no bytes; where its relocation leads to, the next alternative's begin."""
    comparison = pair(HEAD + ALTERNATIVES, HEAD + ALTERNATIVES.replace("0x0f, 0x1f, 0x00", "0x66, 0x66, 0x90"))
    assert changed(comparison) == ["two"]
