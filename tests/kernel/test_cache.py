"""The cache of decoded facts: found again, made again when it is damaged, safe for two at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from builder.binary import Address
from builder.binary.kernel import Kernel, StaticImage, facts, modules, target
from builder.binary.kernel.kaslr import read_relocations
from builder.binary.kernel.places import module_places
from builder.binary.kernel.survey import FACTS, survey
from builder.errors import InputError, KernelError
from tests.kernel.synthetic import BASE, PACKERS, TEXT, bzimage, vmlinux


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(vmlinux(), "zstd"))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def count_surveys(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counted(path: Path, folder: Path) -> None:
        seen.append(path)
        survey(path, folder)

    monkeypatch.setattr(target, "survey", counted)
    return seen


def names(kernel: Kernel) -> list[tuple[str, int]]:
    return [(symbol.name, symbol.address) for symbol in kernel.all_symbols()]


def facts_of(kernel: Kernel, cache: Path) -> Path:
    return cache / "kernels" / kernel.sha256 / FACTS


def test_a_feature_more_or_another_probe_is_decoded_anew() -> None:
    """Else what an older version wrote would be read as if it said something of the new feature."""
    known = [("orc", ("__start_orc_unwind",)), ("btf", ())]
    others = ([*known, ("ibt", ())], [("orc", ("__orc",)), known[1]], known[:1])
    assert facts.facts_name(known) not in {facts.facts_name(other) for other in others}


def test_decoded_once(image: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_surveys(monkeypatch)
    first = Kernel.open(image, cache=cache)
    again = Kernel.open(image, cache=cache)
    copy = image.with_name("copy")
    copy.write_bytes(image.read_bytes())
    third = Kernel.open(copy, cache=cache)
    assert seen == [image]
    assert names(first) == names(again) == names(third)
    assert first.vmlinux == third.vmlinux
    assert not list(cache.rglob(".*")), "temporary files are left"


def test_changed_image_is_another(image: Path, cache: Path) -> None:
    first = Kernel.open(image, cache=cache)
    image.write_bytes(bzimage(vmlinux(release="6.2.0-other"), "zstd"))
    second = Kernel.open(image, cache=cache)
    assert (first.release, second.release) == ("6.1.0-test", "6.2.0-other")
    assert first.sha256 != second.sha256


Damage = Callable[[Path], None]


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)


def damage_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8192])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_schema(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192:] = bytes(len(content) - 8192)
    path.write_bytes(content)


def damage_first_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:8192] = bytes(8092)
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_header, damage_tail, damage_empty, damage_schema, damage_pages, damage_first_page, remove],
)
def test_damaged_facts_are_made_again(damage: Damage, image: Path, cache: Path) -> None:
    first = Kernel.open(image, cache=cache)
    wanted = names(first)
    first.close()
    damage(facts_of(first, cache))
    again = Kernel.open(image, cache=cache)
    assert names(again) == wanted
    assert again.export("_stext") == first_export(image, cache)


def first_export(image: Path, cache: Path) -> object:
    return Kernel.open(image, cache=cache / "fresh").export("_stext")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, folder_instead])
@pytest.mark.parametrize("part", ["facts", "vmlinux", "memo"])
def test_what_is_damaged_is_made_again_and_said(
    damage: Damage, part: str, image: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever its size says: one bit, or a directory in the place of a file."""
    first = Kernel.open(image, cache=cache)
    wanted, content = names(first), first.vmlinux.read_bytes()
    [memo] = (cache / "kernels/hashes-2").iterdir()
    damaged = {"facts": facts_of(first, cache), "vmlinux": first.vmlinux, "memo": memo}[part]
    first.close()
    damage(damaged)
    again = Kernel.open(image, cache=cache)
    assert (names(again), again.vmlinux.read_bytes()) == (wanted, content)
    said = [f"the cache was damaged: {damaged} is made again"]
    assert [record.message for record in caplog.records] == said
    caplog.clear()
    assert names(Kernel.open(image, cache=cache)) == wanted and not caplog.records and damaged.is_file()


@pytest.mark.parametrize("damage", [remove, damage_header])
def test_damaged_vmlinux_is_made_again(damage: Damage, image: Path, cache: Path) -> None:
    first = Kernel.open(image, cache=cache)
    content = first.vmlinux.read_bytes()
    damage(first.vmlinux)
    again = Kernel.open(image, cache=cache)
    assert again.vmlinux.read_bytes() == content


def test_damaged_memo_is_ignored(image: Path, cache: Path) -> None:
    first = Kernel.open(image, cache=cache)
    [memo] = (cache / "kernels" / "hashes-2").iterdir()
    for content in (b"", b"[]", b'{"state": null}', b"\xff\xfe"):
        memo.write_bytes(content)
        assert Kernel.open(image, cache=cache).sha256 == first.sha256


def open_and_count(image: str, cache: str) -> int:
    return len(names(Kernel.open(image, cache=Path(cache))))


def test_two_processes_at_once(image: Path, cache: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        counts = list(pool.map(open_and_count, [str(image)] * 6, [str(cache)] * 6))
    assert set(counts) == {len(names(Kernel.open(image, cache=cache)))}


def test_failed_survey_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(vmlinux(texts=False), "zstd"))
    with pytest.raises(KernelError):
        Kernel.open(image, cache=cache)
    assert [path.parent.name for path in cache.rglob("*") if path.is_file()] == ["hashes-2"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written(image: Path, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(KernelError, match="the cache cannot be written"):
        Kernel.open(image, cache=cache)


def test_cache_that_is_a_file(image: Path, cache: Path) -> None:
    cache.write_text("")
    with pytest.raises(KernelError, match="the cache cannot be written"):
        Kernel.open(image, cache=cache)


def test_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), facts.cache_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def tree(root: Path, release: str, *files: str) -> Path:
    for file in files:
        path = root / "lib/modules" / release / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root / "lib/modules" / release


def test_release_in_an_unpacked_package(cache: Path) -> None:
    release = "6.1.0-test"
    root = cache / "unpacked" / "linux-image_1"
    found = tree(root, release, "kernel/fs/some-fs.ko.xz")
    (root / "boot").mkdir()
    (root / "boot" / f"vmlinuz-{release}").write_bytes(bzimage(vmlinux()))
    kernel = Kernel.open(release, cache=cache)
    assert kernel.path == root / "boot" / f"vmlinuz-{release}"
    assert kernel.modules_root == found
    assert kernel.find_module("some_fs") == kernel.find_module("some-fs") == found / "kernel/fs/some-fs.ko.xz"
    assert kernel.find_module("other") is None


def test_image_beside_its_modules(cache: Path) -> None:
    root = tree(cache / "unpacked" / "linux-binary_1", "6.1.0-test", "kernel/a.ko")
    (root / "vmlinuz").write_bytes(bzimage(vmlinux()))
    kernel = Kernel.open("6.1.0-test", cache=cache)
    assert (kernel.path, kernel.modules_root) == (root / "vmlinuz", root)
    assert kernel.find_module("a") == root / "kernel/a.ko"


def test_no_modules(image: Path, cache: Path) -> None:
    kernel = Kernel.open(image, cache=cache)
    assert kernel.modules_root is None
    assert kernel.find_module("a") is None


def test_lists_of_a_tree(tmp_path: Path) -> None:
    root = tree(tmp_path, "r", "kernel/one.ko.zst", "kernel/two-parts.ko.gz", "updates/one.ko", "kernel/three.ko")
    (root / "build").symlink_to(root / "kernel")
    (root / "modules.order").write_text("kernel/one.ko\nkernel/two-parts.ko\nkernel/gone.ko\n")
    finder = modules.ModuleFinder(root)
    assert finder.find("two_parts") == root / "kernel/two-parts.ko.gz"
    assert finder.find("three") == root / "kernel/three.ko"
    assert finder.find("gone") is None
    assert finder.find("one") == root / "kernel/one.ko.zst"
    (root / "modules.dep").write_text("updates/one.ko: kernel/three.ko\n")
    assert modules.ModuleFinder(root).find("one") == root / "updates/one.ko"
    assert modules.list_modules(root) == {
        "one": "updates/one.ko",
        "two_parts": "kernel/two-parts.ko.gz",
        "three": "kernel/three.ko",
    }


def test_a_tree_is_walked_once_however_many_names_are_asked_for(
    image: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`depends=` of a module may name 20,000 that are not there."""
    root = tree(image.parent, "6.1.0-test", "kernel/a.ko")
    (root / "modules.dep").write_text("kernel/a.ko:\n")
    image = image.rename(root / "vmlinuz")
    walked: list[Path] = []

    def counted(place: Path, folder: Path | None = None) -> Iterator[tuple[str, str]]:
        walked.append(place)
        yield from places(place, folder)

    places = module_places
    monkeypatch.setattr(modules, "module_places", counted)
    kernel = Kernel.open(image, cache=cache)
    assert [kernel.find_module(f"absent{i}") for i in range(20_000)] == [None] * 20_000
    assert kernel.find_module("a") == root / "kernel/a.ko" and walked == [root]


@pytest.mark.parametrize("kind", [None, "xz", "zstd", "gzip"])
def test_module_bytes(kind: str | None, tmp_path: Path) -> None:
    content = b"\x7fELF" + os.urandom(1000)
    path = tmp_path / "a.ko"
    path.write_bytes(PACKERS[kind](content) if kind else content)
    assert modules.read_module_bytes(path) == content


def test_module_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ko"
    with pytest.raises(InputError, match=r"a\.ko: cannot be read: No such file"):
        modules.read_module_bytes(path)
    path.write_bytes(PACKERS["xz"](b"text"))
    with pytest.raises(InputError, match="no ELF file, no module"):
        modules.read_module_bytes(path)
    path.write_bytes(PACKERS["xz"](b"\x7fELF" + os.urandom(1000))[:-30])
    with pytest.raises(InputError, match="xz stream is damaged"):
        modules.read_module_bytes(path)


def test_bytes_by_address(image: Path, cache: Path) -> None:
    kernel = Kernel.open(image, cache=cache)
    [segment] = kernel.segments
    assert segment.address == BASE and segment.size > segment.file_size
    assert kernel.read(segment.address, segment.file_size) == vmlinux()[segment.offset :]
    end = segment.address + segment.size
    assert kernel.read(end - 8, 8) == bytes(8)
    edge = segment.address + segment.file_size
    assert kernel.read(edge - 4, 8) == kernel.read(edge - 4, 4) + bytes(4)
    for address, size in ((end - 4, 8), (end, 1), (BASE - 1, 1), (Address(0), 1), (BASE + TEXT, -1)):
        with pytest.raises(KernelError, match="static image"):
            kernel.read(address, size)
    assert kernel.image.string(kernel.symbol("vermagic").address) == kernel.vermagic
    with pytest.raises(KernelError, match="no terminated text"):
        kernel.image.string(end - 1)


@pytest.mark.parametrize("inverse", [False, True])
def test_relocations_for_another_address(inverse: bool) -> None:
    lists = [[0x81000100, 0x81000200], [0x81000300], [0x81000400, 0x7FFFFFFF]]
    words = [word for one in (lists if inverse else [lists[0], lists[2]]) for word in (0, *one)]
    tail = b"".join(word.to_bytes(4, "little") for word in words)
    found = read_relocations(StaticImage(vmlinux(tail=tail), where="image"), inverse=inverse)
    assert found.add64 == (0xFFFFFFFF81000100, 0xFFFFFFFF81000200)
    assert found.subtract32 == ((0xFFFFFFFF81000300,) if inverse else ())
    assert found.add32 == (0xFFFFFFFF81000400, 0x7FFFFFFF)


@pytest.mark.parametrize("tail", [b"", b"\1\0\0\0", bytes(4), bytes(16)])
def test_no_relocations(tail: bytes) -> None:
    with pytest.raises(KernelError, match="no KASLR relocations behind the ELF"):
        read_relocations(StaticImage(vmlinux(tail=tail), where="image"), inverse=False)
