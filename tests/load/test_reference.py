"""The example in the package's own words runs as it stands."""

from __future__ import annotations

import re
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
    code = example.replace("6.1.0-50-amd64", str(kernel.path)).replace("fix.ko", str(patches["guest_patch_gcd"]))
    exec(compile(code, "example", "exec"), {})
    old, new, both = capsys.readouterr().out.splitlines()
    assert (old, new) == ("6", "30")
    assert re.match(r"SideBySide\(old=Result\(value=6,.*new=Result\(value=30,", both)
