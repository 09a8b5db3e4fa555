"""Modules and checksums of a fleet that has a key: openssl verifies them, and what is signed is kept as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builder.binary.signature import split
from builder.emit.signing import SigningKey
from builder.fleet.document import index_of
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult
from builder.fleet.plan import make_plan
from builder.fleet.spec import Demands, Fleet, FleetFix, PatchText, Variant
from builder.fleet.store import Store
from tests.conftest import need


def test_the_index_and_the_modules(tmp_path: Path) -> None:
    need("openssl")
    pair = ["-keyout", f"{tmp_path / 'k.pem'}", "-out", f"{tmp_path / 'k.crt'}"]
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=fleet", "-days", "2"]
    subprocess.run([*request, *pair], check=True, capture_output=True)
    key = SigningKey.read(tmp_path / "k.pem", tmp_path / "k.crt")
    fix = FleetFix("fix", (Variant("", (PatchText("fix.patch", b"x"),)),))
    kernel = FleetKernel("6.1.0-1-a", "6.1.0-1-a", "1")
    store = Store(tmp_path / "out", key)
    plan = make_plan(Fleet((fix,), ("-",), Demands(signer=key.fingerprint)), store, (kernel,))
    (order,) = plan.orders
    made = CellResult(order.key, "fix", kernel.name, "shipped", module=b"a module", manifest={})
    result = store.put(made)
    store.finish(index_of(plan, [result], 1.0))
    content, signature = split((tmp_path / "out/6.1.0-1-a/fix.ko").read_bytes())
    assert content == b"a module" and signature is not None
    assert store.get(order) == result and result.module != made.module
    unsigned = make_plan(Fleet((fix,), ("-",)), store, (kernel,))
    assert unsigned.to_do == unsigned.orders, "another signer is another order"
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=store.root, check=True, capture_output=True)
    verify = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "SHA256SUMS.p7s", "-noverify"]
    verify += ["-content", "SHA256SUMS", "-certfile", str(tmp_path / "k.crt")]
    assert subprocess.run(verify, cwd=store.root, check=False, capture_output=True).returncode == 0
    (store.root / "SHA256SUMS").write_bytes(b"")
    assert subprocess.run(verify, cwd=store.root, check=False, capture_output=True).returncode != 0
