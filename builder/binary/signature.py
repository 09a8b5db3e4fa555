"""The signature at the end of a module: how it was made and who made it.

The module is followed by a PKCS#7 message without content or certificates, by `struct module_signature`
(include/linux/module_signature.h) and by a line that marks it (kernel/module/signing.c, scripts/sign-file.c; v6.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

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
