"""The example in the package's own words runs as it stands."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

import builder.load
from builder.binary.kernel import Kernel


@pytest.mark.kernel
def test_the_example_of_the_loader_runs(
    kernel: Kernel, patches: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = builder.load.__doc__ or ""
    example = textwrap.dedent(text.partition("::\n")[2].partition("\nThe listing")[0])
    lines = [line for line in example.splitlines() if "patched_function" not in line]
    code = "\n".join(lines).replace("6.1.0-50-amd64", str(kernel.path))
    code = code.replace("fix.ko", str(patches["guest_patch_vmlinux"]))
    exec(compile(code, "example", "exec"), {})
    assert f"value={0x340BC6D9}" in capsys.readouterr().out
