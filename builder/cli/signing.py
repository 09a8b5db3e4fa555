"""`--sign-key` and `--sign-cert`: what makes modules signs them too, `check` verifies."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.emit.signing import PIN, SigningKey
from builder.errors import UsageError


def add_signing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sign-key",
        type=Path,
        metavar="KEY.pem",
        help=f"sign the module with this private key (its passphrase in ${PIN}), as the kernel's sign-file does",
    )
    parser.add_argument(
        "--sign-cert", type=Path, metavar="CERT", help="the key's certificate (X.509), which the kernel must trust"
    )


def signing_key(options: argparse.Namespace) -> SigningKey | None:
    """The key to sign with, None where none is given; to be asked for before any work is done."""
    if options.sign_key is None and options.sign_cert is None:
        return None
    if options.sign_key is None or options.sign_cert is None:
        raise UsageError("--sign-key and --sign-cert belong together")
    return SigningKey.read(options.sign_key, options.sign_cert)


def signed(content: bytes, key: SigningKey | None) -> bytes:
    """The module as it is to be written."""
    return content if key is None else key.sign(content)
