"""The signature at the end of a module: how it was made and who made it.

The module is followed by a PKCS#7 message without content or certificates, by `struct module_signature`
(include/linux/module_signature.h) and by a line that marks it (kernel/module/signing.c, scripts/sign-file.c; v6.1).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from builder.errors import InputError

MARK: Final = b"~Module signature appended~\n"
"""MODULE_SIG_STRING"""
_ROW: Final = struct.Struct(">BBBBB3xI")
"""algo, hash, id_type, signer_len, key_id_len, sig_len: all but the last two are zero, but for id_type"""
_PKCS7: Final = 2
"""PKEY_ID_PKCS7, the only kind that v4.3 and later take"""


@dataclass(frozen=True, slots=True)
class ModuleSignature:
    """A signature: the `issuer` and `serial` of the key's certificate (or its `key_id`), and how it was made.

    `size` is that of the whole in bytes, from where the module ends; `value` the PKCS#7 message.
    """

    issuer: str
    serial: int
    key_id: str
    digest: str
    algorithm: str
    size: int
    value: bytes = field(repr=False)

    def as_json(self) -> dict[str, object]:
        names = ("issuer", "key_id", "digest", "algorithm", "size")
        return {name: getattr(self, name) for name in names} | {"serial": f"{self.serial:x}"}


def is_signed(data: bytes) -> bool:
    """Whether a module ends with the mark of a signature."""
    return data.endswith(MARK)


def split(data: bytes, *, where: str = "module") -> tuple[bytes, ModuleSignature | None]:
    """A module without its signature, and that; None where it has none.

    Raises InputError for one that the kernel would not take for a signature (mod_verify_sig, mod_check_sig).
    """
    if not is_signed(data):
        return data, None
    rest = data[: -len(MARK)]
    if len(rest) < _ROW.size:
        raise InputError("its signature is cut off", where=where)
    algorithm, digest, kind, signer, key, size = _ROW.unpack(rest[-_ROW.size :])
    rest = rest[: -_ROW.size]
    if kind != _PKCS7 or algorithm or digest or signer or key:
        raise InputError(f"its signature is of kind {kind}, not PKCS#7", where=where)
    if size > len(rest):
        raise InputError("its signature is longer than the module", where=where)
    content, message = rest[: len(rest) - size], rest[len(rest) - size :]
    return content, _read(message, len(data) - len(content), where)


def appended(module: bytes, message: bytes) -> bytes:
    """A module followed by a signature, which is a PKCS#7 message in DER."""
    return module + message + _ROW.pack(0, 0, _PKCS7, 0, 0, len(message)) + MARK


def verified(content: bytes, signature: ModuleSignature, certificates: Iterable[bytes]) -> bool | None:
    """Whether the signature is that of `content` (a module without it) by one of the X.509 `certificates` in DER.

    None where none of them is that of the signer, as pkcs7_find_key() looks for it (crypto/asymmetric_keys, v6.1), or
    where the signature is of a kind that cannot be checked here.
    """
    from asn1crypto import cms, x509

    signer = cms.ContentInfo.load(signature.value)["content"]["signer_infos"][0]
    for data in certificates:
        certificate = x509.Certificate.load(data)
        if _names(signer["sid"]) & _names_of(certificate):
            return _fits(content, signer, data)
    return None


def _names(sid: Any) -> set[object]:
    """What a signature says of its signer."""
    if sid.name == "issuer_and_serial_number":
        return {(sid.chosen["issuer"].dump(), sid.chosen["serial_number"].native)}
    return {sid.chosen.native}


def _names_of(certificate: Any) -> set[object]:
    """What a signature may call the holder of a certificate."""
    key = certificate.key_identifier_value
    return {(certificate.issuer.dump(), certificate.serial_number), *([key.native] if key else [])}


def _fits(content: bytes, signer: Any, certificate: bytes) -> bool | None:
    """Whether one signer's signature is that of the content."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    kinds: dict[str, Callable[[], hashes.HashAlgorithm]] = {
             "sha1": hashes.SHA1, "sha224": hashes.SHA224, "sha256": hashes.SHA256, "sha384": hashes.SHA384,
             "sha512": hashes.SHA512, "sha3_256": hashes.SHA3_256, "sha3_384": hashes.SHA3_384,
             "sha3_512": hashes.SHA3_512}  # fmt: skip
    kind = kinds.get(signer["digest_algorithm"]["algorithm"].native)
    key = x509.load_der_x509_certificate(certificate).public_key()
    if kind is None:
        return None
    attributes = signer["signed_attrs"]
    if attributes.native:
        # RFC 5652, 5.4: the attributes are signed in their place, as a SET, and hold the content's digest
        digest = hashes.Hash(kind())
        digest.update(content)
        told = [bytes(row["values"][0].native) for row in attributes if row["type"].native == "message_digest"]
        if told != [digest.finalize()]:
            return False
        content = attributes.untag().dump()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signer["signature"].native, content, padding.PKCS1v15(), kind())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signer["signature"].native, content, ec.ECDSA(kind()))
        else:
            return None
    except InvalidSignature:
        return False
    return True


def _read(message: bytes, size: int, where: str) -> ModuleSignature:
    # Here, for hardly any module is signed, and it is slow to import.
    from asn1crypto import cms

    try:
        signed = cms.ContentInfo.load(message, strict=True)["content"]
        (signer,) = signed["signer_infos"]
        sid, issuer, serial, key_id = signer["sid"], "", 0, ""
        if sid.name == "issuer_and_serial_number":
            issuer, serial = sid.chosen["issuer"].human_friendly, sid.chosen["serial_number"].native
        else:
            key_id = sid.chosen.native.hex()
        digest, algorithm = signer["digest_algorithm"]["algorithm"].native, signer["signature_algorithm"].signature_algo
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"its signature cannot be read: {error}", where=where) from None
    return ModuleSignature(issuer, serial, key_id, digest, algorithm, size, message)
