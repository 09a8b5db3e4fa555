"""A module signed as the kernel's own scripts/sign-file does it: a PKCS#7 message behind it.

The message holds no content, no certificate and no attributes, and names the signer by issuer and serial number
(CMS_NOCERTS, CMS_BINARY, CMS_DETACHED, CMS_NOATTR, CMS_NOSMIMECAP in scripts/sign-file.c, v6.1).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder.binary.signature import appended, is_signed
from builder.errors import InputError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

PIN: Final = "KBUILD_SIGN_PIN"
"""The environment's variable that holds the passphrase of a key (scripts/sign-file.c)."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key (RSA, or ECDSA on kernels from 5.13 on) and its certificate."""

    key: RSAPrivateKey | EllipticCurvePrivateKey = field(repr=False)
    certificate: Certificate

    @classmethod
    def read(cls, key: Path, certificate: Path) -> SigningKey:
        """From PEM (a certificate also from DER) files; the key's passphrase is that of the environment (`PIN`).

        Raises InputError for what is no key or certificate, UsageError for a missing or wrong passphrase and for two
        that do not belong together.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        pin = os.environ.get(PIN)
        try:
            private = load_pem_private_key(_content(key), pin.encode() if pin else None)
        except TypeError:
            why = "has a passphrase" if not pin else "has none"
            raise UsageError(f"the key {why}: {PIN} in the environment says it", where=key) from None
        except (ValueError, UnsupportedAlgorithm):
            raise UsageError(f"is no private key in PEM, or {PIN} is not its passphrase", where=key) from None
        if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise InputError("the kernel checks signatures by RSA and ECDSA keys only", where=key)
        found = _certificate(certificate)
        if found.public_key() != private.public_key():
            raise UsageError(f"is not the certificate of the key {key}", where=certificate)
        return cls(private, found)

    def sign(self, module: bytes) -> bytes:
        """The module with its signature, over SHA-256; the same each time with an RSA key.

        UsageError where it has one already.
        """
        if is_signed(module):
            raise UsageError("the module is signed already")
        return appended(module, self.message(module))

    def message(self, content: bytes) -> bytes:
        """The signature of any content: a PKCS#7 message (DER) that holds neither the content nor the certificate."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

        options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoAttributes,
                   pkcs7.PKCS7Options.NoCerts]  # fmt: skip
        builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
        signed: bytes = builder.add_signer(self.certificate, self.key, hashes.SHA256()).sign(Encoding.DER, options)
        return signed

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, in hexadecimal digits."""
        from cryptography.hazmat.primitives import hashes

        return self.certificate.fingerprint(hashes.SHA256()).hex()


def read_certificate(path: Path) -> bytes:
    """An X.509 certificate in DER, from a PEM or DER file; InputError for what is none."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return _certificate(path).public_bytes(Encoding.DER)


def _certificate(path: Path) -> Certificate:
    from cryptography import x509

    content = _content(path)
    try:
        load = x509.load_pem_x509_certificate if b"-----BEGIN" in content else x509.load_der_x509_certificate
        return load(content)
    except ValueError:
        raise InputError("is no X.509 certificate, neither PEM nor DER", where=path) from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path) from None
