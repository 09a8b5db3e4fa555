"""`module.sig_enforce=1`: what a stock kernel refuses, and what one loads that trusts our key.

A kernel takes modules of the keys in its image, and no boot parameter gives it another. So the image is copied, and in
the copy our certificate stands where that of the kernel's own build was (certs/system_certificates.S: a list, and its
size behind it). The stock image has no room for a second one: that takes CONFIG_SYSTEM_EXTRA_CERTIFICATE, for which
scripts/insert-sys-cert does the same.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.binary.kernel.certificates import built_in
from builder.compose.owner import Objects
from builder.emit.signing import SigningKey, read_certificate
from builder.image.guest import Guest, MachineConfig
from builder.image.transition import PatchState
from builder.pipeline import ModulePlan, build, diff
from builder.preflight.check import Checker
from samples.objects import vmlinux_objects
from tests.conftest import need
from tests.support.kernels import opened

pytestmark = [pytest.mark.kernel, pytest.mark.guest, pytest.mark.long]

#: what a kernel's image has room for: 6.1 has an RSA key of its own, 6.12 one of ECDSA
KEYS = {"6.1": ["rsa:2048"], "6.12": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]}
REFUSED = {"unsigned": "Loading of unsigned module is rejected",
           "signed": "Loading of module with unavailable key is rejected"}  # fmt: skip


@dataclass(frozen=True)
class Signed:
    """A livepatch of fs/proc/version.c, as it was built and signed, and the certificate of its signer in DER."""

    kernel: Kernel
    forms: dict[str, bytes]
    certificate: bytes


@pytest.fixture(scope="module", params=KEYS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    need("openssl")
    release, place = (
        request.getfixturevalue(f"release_{request.param.replace('.', '')}"),
        tmp_path_factory.mktemp("key"),
    )
    kernel, pair = opened(release), vmlinux_objects(release)
    module = build([diff(pair.old, pair.new)], Objects(kernel), ModulePlan("fix"))
    assert module is not None
    key, certificate = place / "key.pem", place / "key.crt"
    words = ["req", "-x509", "-nodes", "-newkey", *KEYS[request.param], "-subj", "/CN=Our livepatches"]
    command = ["openssl", *words, "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    signed = SigningKey.read(key, certificate).sign(module.content)
    return Signed(kernel, {"unsigned": module.content, "signed": signed}, read_certificate(certificate))


def trusting(kernel: Kernel, certificate: bytes, place: Path) -> Kernel:
    """A copy of the kernel whose only built-in certificate is this one."""
    image, before = bytearray(kernel.vmlinux.read_bytes()), built_in(kernel)
    room = sum(map(len, before))
    assert len(certificate) <= room
    sizes = kernel.symbols_named("system_certificate_list_size"), kernel.symbols_named("module_cert_size")
    rows = [(kernel.symbols_named("system_certificate_list"), certificate)]
    rows += [(symbols, len(certificate).to_bytes(8, "little")) for symbols in sizes]
    for (symbol,), content in rows:
        (segment,) = (s for s in kernel.segments if s.address <= symbol.address < s.address + s.file_size)
        at = segment.offset + symbol.address - segment.address
        image[at : at + len(content)] = content
    (place / "vmlinux").write_bytes(image)
    copy = Kernel.open(place / "vmlinux", cache=place)
    assert built_in(copy) == (certificate,)
    return copy


@contextmanager
def enforcing(kernel: Kernel) -> Iterator[Guest]:
    with Guest(kernel, MachineConfig(cmdline="module.sig_enforce=1")) as guest:
        assert guest.check("cat /sys/module/module/parameters/sig_enforce").strip() == "Y"
        yield guest


def test_a_stock_kernel_refuses_both(made: Signed) -> None:
    """And says of each why; where signatures are not enforced, it takes both, with a taint."""
    with enforcing(made.kernel) as guest:
        for form, reason in REFUSED.items():
            answer = guest.insmod(made.forms[form], "fix")
            assert not answer.ok and "Key was rejected by service" in answer.output, answer.output
            assert reason in guest.log().records[-1].text
        assert guest.livepatch_state("fix") is None
    report = Checker(made.kernel).check(made.forms["signed"])
    assert report.signature is not None and report.signature.trusted == "" and "E" in report.taints


def test_a_kernel_that_trusts_the_key_loads_what_it_signed(made: Signed, tmp_path: Path) -> None:
    kernel = trusting(made.kernel, made.certificate, tmp_path)
    report = Checker(kernel).check(made.forms["signed"])
    assert report.signature is not None and report.signature.trusted == "built in" and "E" not in report.taints
    with enforcing(kernel) as guest:
        assert "Our livepatches" in guest.check("dmesg | grep 'Loaded X.509 cert'")
        before = guest.check("cat /proc/version")
        assert not guest.insmod(made.forms["unsigned"], "fix").ok
        answer = guest.insmod(made.forms["signed"], "fix")
        assert answer.ok, answer.output
        guest.wait_transition("fix")
        assert guest.livepatch_state("fix") == PatchState(enabled=True, transition=False)
        assert guest.check("cat /proc/version") != before
        assert not int(guest.check("cat /proc/sys/kernel/tainted")) >> 13 & 1, "TAINT_UNSIGNED_MODULE"
        changed = made.forms["signed"].replace(b"license=GPL\0", b"license=MIT\0", 1)
        assert "Key was rejected by service" in guest.insmod(changed, "fix").output
