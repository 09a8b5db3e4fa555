"""Livepatch modules in the forms that other tools give them, compiled here: what `bespoke inspect` has to read.

The texts are of our own making; they hold the records that the code of each tool reads (builder/binary/livepatch.py
says where that can be looked up), laid out as the tool lays them out, and no code of the tool.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = """
#define IN(name) __attribute__((__used__, __section__(name)))
#define INFO(name, text) static const char info_##name[] IN(".modinfo") __attribute__((aligned(1))) = #name "=" text
struct module { char room[64]; } __this_module IN(".gnu.linkonce.this_module");
INFO(livepatch, "Y"); INFO(license, "GPL"); INFO(name, NAME);
INFO(vermagic, "6.1.0-56-amd64 SMP preempt mod_unload modversions ");
extern int klp_enable_patch(void *), seq_printf(void *, const char *, ...);
int show(void *m, void *v) { return seq_printf(m, "%s\\n", "this one is patched"); }
int size(void *m) { return seq_printf(m, "size") + 3; }
static int before(void *object) { return seq_printf(object, "before"); }
static void after(void *object) { seq_printf(object, "after"); }
"""

KPATCH: Final = (
    '#define NAME "kpatch_fix"'
    + HEAD
    + """
struct row { void *new_addr; unsigned long new_size, old_addr, old_size, sympos; const char *name, *objname; };
struct hook { void *function; const char *objname; };
struct row rows[] IN(".kpatch.funcs") = {
    { show, 40, 0, 33, 0, "cmdline_proc_show", "vmlinux" },
    { size, 21, 0, 18, 2, "get_size", "xfs" },
};
struct hook pre[] IN(".kpatch.callbacks.pre_patch") = { { before, "xfs" } };
struct hook gone[] IN(".kpatch.callbacks.post_unpatch") = { { after, "vmlinux" } };
const char sum[] IN(".kpatch.checksum") = "5ac49bad6e7cfa5c4fb8ce2a2a9d86cf";
int init_module(void) { return klp_enable_patch(rows); }
"""
)

_EXTERNAL: Final = """
struct func { const char *old_name; void *new_func; unsigned long sympos; };
struct callbacks { void *hooks[4]; _Bool enabled; };
struct func funcs[] IN("FUNCS") = { { "cmdline_proc_show", show, 0 }, { "get_size", size, 2 }, { "put", after, 1 } };
struct object { const char *name; struct func *funcs; CALLBACKS unsigned nr_funcs; };
struct object objects[] IN("OBJECTS") = { { 0, funcs, HOOKS 1 }, { "xfs", funcs + 1, NONE 2 } };
int init_module(void) { return klp_enable_patch(objects); }
"""


def klp_build(*, funcs: str = ".init.klp_funcs", objects: str = ".init.klp_objects", callbacks: bool = True) -> str:
    """A module of klp-build; `callbacks` as its rows had them up to now, or without."""
    text = _EXTERNAL.replace("FUNCS", funcs).replace("OBJECTS", objects)
    text = text.replace("CALLBACKS", "struct callbacks callbacks;" if callbacks else "")
    text = text.replace("HOOKS", "{ { before, 0, 0, after } }," if callbacks else "")
    return '#define NAME "klp_build_fix"' + HEAD + text.replace("NONE", "{ { 0 } }," if callbacks else "")


VENDOR: Final = (
    '#define NAME "vendor_fix_3"'
    + HEAD
    + """
INFO(description, "CVE-2026-0001 and others"); INFO(author, "A Vendor");
struct func { const char *old_name; void *new_func; unsigned long old_sympos; char private[FUNC]; };
struct object { const char *name; struct func *funcs; void *callbacks[4]; char private[OBJECT]; };
struct state { unsigned long id; unsigned version; void *data; };
struct patch { struct module *mod; struct object *objs; struct state *states; _Bool replace; char private[96]; };
static struct func of_kernel[] = { { "cmdline_proc_show", show, 0 }, { "size", size, 4 }, {} };
static struct func of_xfs[] = { { "xfs_get_size", size, 0 }, {} };
static struct func of_nothing[] = { {} };
static struct object objects[] = {
    { 0, of_kernel, { before, 0, 0, after } }, { "xfs", of_xfs }, { "ext4", of_nothing, { 0, after } }, {}
};
static struct state states[] = { { 7, 1 }, { 12, 3 }, {} };
static struct patch patch = { &__this_module, objects, states, 1 };
static struct { struct module *owner; int (*open)(void *); } decoy = { &__this_module, size };
int init_module(void) { return klp_enable_patch(&patch) + !decoy.owner; }
"""
)
"""A module with struct klp_patch in its data, in two sizes of the kernel's structures."""


def vendor(func: int = 128, obj: int = 120) -> str:
    """With so many bytes that are the kernel's own in each struct klp_func and klp_object (those of 6.1)."""
    return VENDOR.replace("FUNC", str(func)).replace("OBJECT", str(obj))
