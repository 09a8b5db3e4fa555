"""Signatures: made as the kernel's sign-file makes them, verified by openssl, by `check` and by a kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import cms

from builder.binary.module import ModuleFile
from builder.binary.signature import split
from builder.emit.signing import PIN, SigningKey, read_certificate
from builder.errors import InputError, UsageError
from builder.preflight.check import Checker
from builder.preflight.signed import check_signature
from tests.conftest import need
from tests.docs.forms import broken_livepatch
from tests.support.kernels import opened

Openssl = Callable[..., str]
KEYS = {"rsa": ("rsa:2048",), "ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")}


@pytest.fixture
def openssl(tmp_path: Path) -> Openssl:
    need("openssl")

    def run(*words: str) -> str:
        done = subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout

    return run


def made(openssl: Openssl, place: Path, kind: str = "rsa", *more: str, name: str = "k") -> SigningKey:
    """A key and its certificate, in `place`."""
    words = more or ("-nodes",)
    openssl("req", "-x509", "-newkey", *KEYS[kind], *words, "-keyout", f"{name}.pem", "-out", f"{name}.crt",
            "-subj", "/CN=Tester", "-days", "2")  # fmt: skip
    return SigningKey.read(place / f"{name}.pem", place / f"{name}.crt")


@pytest.mark.parametrize("kind", KEYS)
def test_openssl_verifies_what_is_signed_here(openssl: Openssl, tmp_path: Path, kind: str) -> None:
    key, module = made(openssl, tmp_path, kind), b"a module of " + bytes(range(256)) * 9
    content, signature = split(key.sign(module))
    assert content == module and signature is not None and signature.issuer == "Common Name: Tester"
    (tmp_path / "x.ko").write_bytes(module)
    (tmp_path / "s").write_bytes(signature.value)
    verify = "cms -verify -binary -inform DER -in s -content x.ko -certfile k.crt -CAfile k.crt -purpose any -out again"
    openssl(*verify.split())
    assert (tmp_path / "again").read_bytes() == module
    (tmp_path / "x.ko").write_bytes(module + b"!")
    with pytest.raises(subprocess.CalledProcessError):
        openssl(*verify.split())


def test_the_message_says_what_openssl_s_says(openssl: Openssl, tmp_path: Path) -> None:
    """scripts/sign-file.c makes it by these options of openssl's."""
    module = bytes(range(256)) * 5
    key = made(openssl, tmp_path)
    (tmp_path / "x.ko").write_bytes(module)
    sign = "cms -sign -binary -noattr -nocerts -nosmimecap -md sha256 -in x.ko -signer k.crt -inkey k.pem -outform DER"
    openssl(*sign.split(), "-out", "s")
    _, signature = split(key.sign(module))
    assert signature is not None
    ours, theirs = (cms.ContentInfo.load(data).native for data in (signature.value, (tmp_path / "s").read_bytes()))
    assert ours == theirs, "with or without NULL behind the digest's name"
    assert key.sign(module) == key.sign(module)
    with pytest.raises(UsageError, match="signed already"):
        key.sign(key.sign(module))


def test_a_key_with_a_passphrase(openssl: Openssl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIN, "geheim")
    assert split(made(openssl, tmp_path, "rsa", "-passout", "pass:geheim").sign(b"module"))[1] is not None
    paths = tmp_path / "k.pem", tmp_path / "k.crt"
    for pin, said in (("other", "is not its passphrase"), (None, f"has a passphrase: {PIN} in the environment")):
        monkeypatch.setenv(PIN, pin) if pin else monkeypatch.delenv(PIN)
        with pytest.raises(UsageError, match=said):
            SigningKey.read(*paths)


def test_what_does_not_fit_is_named(openssl: Openssl, tmp_path: Path) -> None:
    made(openssl, tmp_path, name="one")
    made(openssl, tmp_path, "ec", name="two")
    with pytest.raises(UsageError, match=r"two\.crt: is not the certificate of the key"):
        SigningKey.read(tmp_path / "one.pem", tmp_path / "two.crt")
    with pytest.raises(UsageError, match=r"one\.crt: is no private key"):
        SigningKey.read(tmp_path / "one.crt", tmp_path / "one.crt")
    with pytest.raises(InputError, match=r"one\.pem: is no X\.509 certificate"):
        SigningKey.read(tmp_path / "one.pem", tmp_path / "one.pem")
    with pytest.raises(InputError, match="cannot be read"):
        SigningKey.read(tmp_path / "none.pem", tmp_path / "one.crt")


@pytest.mark.kernel
def test_a_kernel_s_own_modules_are_verified_by_its_image(release: str) -> None:
    """The stock modules are signed by a key whose certificate the image has; of 6.1 by RSA, of 6.12 by ECDSA."""
    kernel = opened(release)
    path = kernel.find_module("dummy")
    assert path is not None
    module = ModuleFile.read_named(path)
    found = check_signature(module, kernel)
    assert found is not None and (found.trusted, found.refusal) == ("built in", None)
    assert "Build time autogenerated kernel key" in found.signer
    changed = bytearray(module.data)
    changed[len(changed) // 2] ^= 1
    found = check_signature(ModuleFile.read(bytes(changed), "dummy.ko"), kernel)
    assert found is not None and found.refusal is not None
    assert (found.refusal.code, found.refusal.errno) == ("signature", 129)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", KEYS)
def test_check_verifies_by_a_certificate_that_is_given(
    openssl: Openssl, tmp_path: Path, release_61: str, kind: str
) -> None:
    key, subject = made(openssl, tmp_path, kind), broken_livepatch(release_61)
    module = key.sign(subject.forms["intact"])
    report = subject.checker().check(module)
    assert report.signature is not None and report.signature.trusted == "" and "E" in report.taints
    assert report.kernel_accepts
    given = Checker(subject.kernel, subject.objects, certificates=[read_certificate(tmp_path / "k.crt")])
    report = given.check(module)
    assert report.signature is not None and report.signature.trusted == "given" and "E" not in report.taints
    at = module.index(b"livepatch=Y")
    report = given.check(module[:at] + b"livepatch=y" + module[at + 11 :])
    assert not report.kernel_accepts and "signature" in {finding.code for finding in report.refusals}
    report = subject.checker().check(module[:-29] + b"!" + module[-28:])
    assert [(f.code, f.errno) for f in report.refusals] == [("signature", 74)]
