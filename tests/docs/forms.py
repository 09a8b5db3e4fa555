"""Modules that something is wrong with, and that no form of tests/preflight/broken.py shows, each with its checker."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

from builder.binary.module import ModuleFile
from builder.emit.signing import SigningKey, read_certificate
from builder.load import accept
from builder.preflight.check import Checker, CheckReport
from samples.objects import TARGET_NAME, target_objects
from tests.preflight.acceptance import Subject
from tests.preflight.broken import Editor
from tests.preflight.test_broken import of_a_module
from tests.support.kernels import opened
from tests.support.modules import compiled_modules

broken_livepatch: Callable[[str], Subject] = cache(of_a_module)
"""Of the sample module, for a kernel's release."""
KLP_TEXT = f".klp.rela.{TARGET_NAME}..text"


@dataclass(frozen=True)
class WrongModules:
    """A place for files, the releases of the newest kernels by series, and the page's C source, if it has one.

    Each method checks one module.
    """

    place: Path
    releases: dict[str, str]
    source: str

    def check(self, form: str, release: str) -> CheckReport:
        """What is said of the module in a form: one of FORMS, or of broken.py."""
        if form in FORMS:
            return FORMS[form](self, release)
        subject = broken_livepatch(release)
        return subject.checker().check(subject.forms[form])

    def _edited(self, release: str, edit: Callable[[Editor], object]) -> CheckReport:
        """Of the livepatch of the sample module after a change."""
        subject = broken_livepatch(release)
        editor = Editor(subject.forms["intact"])
        edit(editor)
        return subject.checker().check(editor.done())

    def two_modinfo(self, release: str) -> CheckReport:
        return self._edited(release, lambda e: e.rename("__versions", ".modinfo"))

    def a_table_of_calls(self, release: str) -> CheckReport:
        """`.call_sites` came with call depth tracking (6.2)."""
        return self._edited(release, lambda e: e.rename(".return_sites", ".call_sites"))

    def a_late_table(self, release: str) -> CheckReport:
        def edit(e: Editor) -> None:
            e.rename(".return_sites", "__jump_table").set(KLP_TEXT, info=e.index(".return_sites"))

        return self._edited(release, edit)

    def no_livepatches(self, release: str) -> CheckReport:
        """A kernel like this one, without CONFIG_LIVEPATCH."""
        subject, kernel = broken_livepatch(release), opened(release)
        without = copy.copy(kernel)
        without.features = replace(kernel.features, livepatch=False)
        return Checker(without, subject.objects).check(subject.forms["intact"])

    def versions_of_nothing(self, release: str) -> CheckReport:
        """A kernel like this one, without CONFIG_MODULE_FORCE_LOAD."""
        with mock.patch.object(accept, "force_load", lambda kernel: False):
            return self._edited(release, lambda e: e.rename("__versions", "__versionX"))

    def an_import_taken_away(self, release: str) -> CheckReport:
        data = _own(release, "drm").data
        return Checker(opened(release)).check(data.replace(b"import_ns=", b"imporT_ns="))

    def of_612(self, release: str) -> CheckReport:
        return Checker(opened(release)).check(_own(self.releases["6.12"], "cdrom"))

    def changed_after_signing(self, release: str) -> CheckReport:
        subject = broken_livepatch(release)
        key, certificate = self.place / "key.pem", self.place / "key.crt"
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Tester", "-days", "2"]
        subprocess.run(["openssl", *words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        read = SigningKey.read(key, certificate)
        module = read.sign(subject.forms["intact"])
        given = Checker(subject.kernel, subject.objects, certificates=[read_certificate(certificate)])
        return given.check(module.replace(b"license=GPL\0", b"license=MIT\0", 1))

    def without_its_target(self, release: str) -> CheckReport:
        subject = broken_livepatch(release)
        return Checker(subject.kernel).check(subject.forms["intact"])

    def a_target_that_does_not_fit(self, release: str) -> CheckReport:
        subject, target = broken_livepatch(release), self.place / "target.ko"
        target.write_bytes(target_objects(release).module.read_bytes().replace(b"_printk\0", b"_prinXX\0"))
        return Checker(subject.kernel, {TARGET_NAME: target}).check(subject.forms["intact"])

    def two_tables_for_one_place(self, release: str) -> CheckReport:
        source = self.place / "twice.c"
        source.write_text(self.source)
        made = compiled_modules("overlap", release, [source], "obj-m := twice.o\n")
        return Checker(opened(release)).check(made["twice"])


def _own(release: str, name: str) -> ModuleFile:
    """A module of the kernel's own."""
    path = opened(release).find_module(name)
    assert path is not None
    return ModuleFile.read_named(path)


FORMS: Mapping[str, Callable[[WrongModules, str], CheckReport]] = {
    "two .modinfo": WrongModules.two_modinfo,
    "a table of calls": WrongModules.a_table_of_calls,
    "a late table": WrongModules.a_late_table,
    "no livepatches": WrongModules.no_livepatches,
    "versions of nothing": WrongModules.versions_of_nothing,
    "an import taken away": WrongModules.an_import_taken_away,
    "of 6.12": WrongModules.of_612,
    "changed after signing": WrongModules.changed_after_signing,
    "without its target": WrongModules.without_its_target,
    "a target that does not fit": WrongModules.a_target_that_does_not_fit,
    "two tables for one place": WrongModules.two_tables_for_one_place,
}
"""What the comments of docs/codes/module.md call them."""
