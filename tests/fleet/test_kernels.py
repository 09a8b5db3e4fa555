"""What the words of a fleet's kernels mean, by what the archives offer today."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.errors import InputError
from builder.fleet.kernels import resolve
from tests.conftest import needed

pytestmark = pytest.mark.kernel


def test_a_release_is_pinned_and_a_pattern_finds_it(release_61: str) -> None:
    with needed():
        version = fetch_kernel(release_61).version
    (kernel,) = resolve([release_61])
    assert (kernel.name, kernel.release, kernel.version) == (release_61, release_61, version)
    series = release_61.rpartition("-")[0].rpartition("-")[0]
    found = resolve([f"{series}-*"])
    names = [kernel.release for kernel in found]
    assert release_61 in names and any("-cloud-" in name for name in names) and any("-rt-" in name for name in names)
    assert not any("-dbg" in name or "unsigned" in name for name in names)
    plain = resolve([f"{series}-*[0-9]-amd64"])
    assert plain[-1].release == release_61 and not any("-cloud-" in kernel.release for kernel in plain)


def test_the_newest_of_a_suite() -> None:
    newest = resolve(["newest 1 of bookworm", "newest 1 *-cloud-amd64 of bookworm"])
    assert len(newest) == 2 and "-cloud-" in newest[1].release and "-cloud-" not in newest[0].release
    whole = resolve(["bookworm"])
    assert {kernel.name for kernel in newest} < {kernel.name for kernel in whole}
    assert resolve(["bookworm", "bookworm"]) == whole


def test_an_image_is_its_content(release_61: str, tmp_path: Path) -> None:
    with needed():
        tree = fetch_kernel(release_61)
    image = Path(shutil.copy(tree.image, tmp_path / "image"))
    with pytest.raises(InputError, match=f"its configuration is not beside it: config-{release_61}"):
        resolve([str(image)])
    shutil.copy(tree.config, tmp_path / f"config-{release_61}")
    (kernel,) = resolve([str(image)])
    assert kernel.release == release_61 and kernel.name == f"{release_61}-{kernel.sha256[:8]}"
    assert kernel.files is not None and kernel.files.image == image.read_bytes()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("6.12.0+deb12-amd64", "no kernel of that name; offered are: .*6.1"),  # one that names its suite
        ("9.9.*", "fits no release that is offered"),
        ("nothing/here", "no such file"),
        ("newest of bookworm", r"newest N \[PATTERN\] of SUITE"),
        ("newest 1 9.9.* of bookworm", "names no kernel"),
        ("warty", "neither a release nor a file, and is no suite that is known"),
    ],
)
def test_a_word_that_names_none(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve([word])
