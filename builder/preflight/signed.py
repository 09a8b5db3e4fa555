"""What a kernel makes of a module's signature (module_sig_check, kernel/module/signing.c, v6.1).

A signature that does not fit is refused by every kernel that looks at signatures; one whose key the kernel does not
have, or none at all, only where signatures are enforced (`module.sig_enforce=1`, lockdown), and taints it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from builder.binary.kernel import Kernel
from builder.binary.kernel.certificates import built_in
from builder.binary.module import ModuleFile
from builder.binary.signature import split, verified
from builder.errors import InputError
from builder.load.accept import Finding, verifies

EBADMSG, EKEYREJECTED = 74, 129


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """The signer of a module, and whether its key is `trusted`: "built in", "given", or "" where it is none of these.

    `refusal` is what stands against the signature itself.
    """

    signer: str = ""
    trusted: str = ""
    refusal: Finding | None = None

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"refusal": self.refusal.as_json() if self.refusal else None}


def check_signature(module: ModuleFile, kernel: Kernel, given: Sequence[bytes] = ()) -> SignatureCheck | None:
    """The signature of a module, checked by the kernel's built-in certificates and those `given`; None without one."""
    try:
        content, signature = split(module.data)
    except InputError as error:
        return SignatureCheck(refusal=Finding("signature", error.message, EBADMSG) if verifies(kernel) else None)
    if signature is None:
        return None
    signer = f"{signature.issuer or signature.key_id}, {signature.algorithm} over {signature.digest}"
    for word, certificates in (("built in", built_in(kernel)), ("given", given)):
        fits = verified(content, signature, certificates)
        if fits is False and (verifies(kernel) or given):
            said = "its signature is not that of its content: it was changed after it was signed"
            return SignatureCheck(signer, word, Finding("signature", said, EKEYREJECTED))
        if fits:
            return SignatureCheck(signer, word)
    return SignatureCheck(signer)
