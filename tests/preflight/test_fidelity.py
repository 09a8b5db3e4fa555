"""Byte for byte what a stock kernel's loader makes, livepatches included; and the comparison can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.binary.module import ModuleFile
from builder.load.passes import PASSES
from builder.preflight import fidelity

pytestmark = [pytest.mark.kernel, pytest.mark.guest, pytest.mark.slow]
NAMES = ("kvm", "btrfs", "libata", "snd_pcm", "nf_tables", "8021q", "aesni_intel", "dm_crypt", "xhci_hcd", "i915")


def chosen(kernel: Kernel) -> list[Path]:
    return [path for name in NAMES if (path := kernel.find_module(name)) is not None]


def ours(patches: Mapping[str, Path]) -> list[ModuleFile]:
    return [ModuleFile.read(patches[name]) for name in ("guest_target", "guest_patch", "guest_patch_vmlinux")]


@pytest.mark.parametrize(
    ("cpu", "smp", "kaslr", "cmdline"),
    [
        pytest.param("max", 1, False, "", marks=pytest.mark.long),
        pytest.param("Nehalem", 2, False, "", marks=pytest.mark.long),
        pytest.param("EPYC-Milan", 1, False, "", marks=pytest.mark.long),
        pytest.param("max", 2, True, "", marks=pytest.mark.long_for(release="6.12")),
        # Counts calls (6.2 and later): stubs in other modules too. No model has IBT: the guest is told.
        pytest.param(*("Skylake-Client,+ibt", 1, False, "retbleed=stuff"), marks=pytest.mark.long_for(release="6.1")),
    ],
)
def test_every_byte_is_the_kernels(
    kernel: Kernel, patches: Mapping[str, Path], cpu: str, smp: int, kaslr: bool, cmdline: str
) -> None:
    machine = replace(fidelity.CONFIG, cpu=cpu, smp=smp, kaslr=kaslr, cmdline=cmdline)
    captured, derived = fidelity.compare(kernel, chosen(kernel), machine, extra=ours(patches))
    assert captured.modules >= len(NAMES) + 1
    assert (captured.failed, captured.state_differences, captured.differences) == ({}, (), ())
    assert captured.identical == captured.modules
    assert captured.whole.text_bytes > 1 << 20
    assert (derived.failed, derived.state_differences) == ({}, ())
    assert [d for d in derived.differences if not d.cause.startswith("static ")] == []
    assert derived.exact


@pytest.mark.long_for(release="6.12")
def test_a_pass_left_out_is_seen(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.load.loader.PASSES", tuple(p for p in PASSES if p.name != "apply_returns"))
    captured, derived = fidelity.compare(kernel, chosen(kernel)[-3:-2])
    for outcome in (captured, derived):
        assert not outcome.exact
        assert outcome.identical == 0
        assert {d.section for d in outcome.differences} >= {".text"}
        assert outcome.as_json()["exact"] is False
