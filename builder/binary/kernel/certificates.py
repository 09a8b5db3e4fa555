"""The certificates that a kernel trusts from its start: those of its image (certs/system_certificates.S, v6.1).

More can come at run time, into the secondary and machine keyrings; the image does not tell of them.
"""

from __future__ import annotations

from builder.binary.kernel.target import Kernel
from builder.errors import KernelError

_LIST, _SIZE = "system_certificate_list", "system_certificate_list_size"


def built_in(kernel: Kernel) -> tuple[bytes, ...]:
    """X.509 certificates in DER, in the image's order; none where the kernel has no such list.

    Raises KernelError for a list that is none.
    """
    starts, sizes = kernel.symbols_named(_LIST), kernel.symbols_named(_SIZE)
    if not starts or not sizes:
        return ()
    size = int.from_bytes(kernel.read(sizes[0].address, 8), "little")  # .quad, CONFIG_64BIT
    data = kernel.read(starts[0].address, size)
    found = []
    while data:
        # load_certificate_list() (crypto/asymmetric_keys/x509_loader.c): SEQUENCE with two bytes of length
        length = int.from_bytes(data[2:4], "big") + 4
        if data[:2] != b"\x30\x82" or length > len(data):
            raise KernelError("its list of certificates is damaged", where=kernel.path)
        found.append(data[:length])
        data = data[length:]
    return tuple(found)
