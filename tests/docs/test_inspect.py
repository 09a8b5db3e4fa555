"""docs/inspect.md: what `bespoke inspect` says of three modules of others and three of ours is what the page shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.binary import write_object
from builder.cli import run
from builder.compose.owner import Objects
from builder.guide import docs
from builder.image.guest import Guest, MachineConfig, Share
from builder.pipeline import ModulePlan, build, diff
from samples.fixes import PATCHES
from samples.objects import TARGET_NAME, target_objects
from tests.docs.examples import fits
from tests.docs.test_pages import fences
from tests.operate.chroot import MOUNTS, PLACE, python
from tests.report.test_inspect import kernel_sample
from tests.support.compiling import FLAGS, builder
from tests.support.foreign import KPATCH, vendor
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel
PAGE = docs() / "inspect.md"
MARK = ("do_sys_openat2%return", "filename", "$retval", "--if", "$retval < 0")


def sample(release: str, gcc: str, path: Path) -> None:
    path.write_bytes(kernel_sample(release, "livepatch-sample").read_bytes())


def compiled(source: str) -> Callable[[str, str, Path], None]:
    def make(release: str, gcc: str, path: Path) -> None:
        text = source.replace("6.1.0-56-amd64", release)
        path.write_bytes(write_object(builder(gcc, path.parent, FLAGS)(text)))

    return make


def target(release: str, gcc: str, path: Path) -> None:
    made = target_objects(release)
    objects = Objects(opened(release), {TARGET_NAME: made.module})
    module = build([diff(made.old, made.new)], objects, ModulePlan(path.stem, replace=True))
    assert module is not None
    path.write_bytes(module.content)


def fix(release: str, gcc: str, path: Path) -> None:
    assert (
        run(["patch", str(PATCHES / "04-hostname-off-by-one.patch"), "--kernel", release, "-o", str(path), "-q"]) == 0
    )


def marked(release: str, gcc: str, path: Path) -> None:
    assert run(["mark", *MARK, "--kernel", release, "-o", str(path), "-q"]) == 0


MODULES = {
    "livepatch-sample.ko": sample,
    "kpatch_fix.ko": compiled(KPATCH),
    "vendor_fix_3.ko": compiled(vendor()),
    "hostname.ko": fix,
    "next.ko": target,
    "opens.ko": marked,
}
FROM_SOURCE = ("hostname.ko", "opens.ko")


def shown() -> dict[str, str]:
    """By the file's name, what the page says that is said of it."""
    text = PAGE.read_text()
    return {name: told for name, told in re.findall(r"^\$ bespoke inspect (\S+\.ko)\n(.*?)^```$", text, re.M | re.S)}


def test_the_page_has_all_of_them() -> None:
    assert list(shown()) == [*MODULES]
    commands = [shlex.split(line)[1:] for how, lines in fences(PAGE) for line in lines if how == "shown"]
    assert commands == [*(["inspect", name] for name in MODULES), ["status"]]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in FROM_SOURCE else ()) for name in MODULES]
)
def test_what_is_said_is_what_the_page_shows(
    name: str,
    gcc: str,
    release_61: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    MODULES[name](release_61, gcc, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    capsys.readouterr()
    assert run(["inspect", name]) == 0
    said = capsys.readouterr().out.replace(release_61, "6.1.0-50-amd64")
    assert fits(shown()[name], said), said


@pytest.mark.guest
@pytest.mark.long
def test_what_status_says_is_what_the_page_shows(gcc: str, release_61: str, tmp_path: Path) -> None:
    """One that the kernel's own tool has loaded, and two of ours."""
    first, *ours = "livepatch-sample.ko", "hostname.ko", "opens.ko"
    for name in (first, *ours):
        MODULES[name](release_61, gcc, tmp_path / name)
    with Guest(opened(release_61), MachineConfig(memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        assert guest.insmod(tmp_path / first).ok
        guest.wait_transition("livepatch_sample")
        for name in ours:
            answer = python(guest, "-m", "builder", "load", str(tmp_path / name))
            assert answer.ok, answer.output
        answer = python(guest, "-m", "builder", "status")
    (shown,) = re.findall(r"^\$ bespoke status\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert answer.ok and shown != "...\n" and fits(shown, answer.output), answer.output
