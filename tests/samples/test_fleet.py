"""The examples of a fleet: its file can be read, its pipelines are what GitLab and GitHub take."""

from __future__ import annotations

import subprocess
import sys

import pytest

from builder.fleet.spec import read_fleet
from tests.conftest import ROOT

FLEET = ROOT / "samples/fleet"


def test_the_fleet() -> None:
    fleet = read_fleet(FLEET / "fleet.toml")
    assert [fix.name for fix in fleet.fixes] == ["04_hostname_off_by_one", "sockstat"]
    assert fleet.demands.cumulative == "all_fixes" and all(fix.run for fix in fleet.fixes)


@pytest.mark.parametrize(
    ("name", "schema"), [("gitlab-ci.yml", "gitlab-ci"), ("github-workflow.yml", "github-workflows")]
)
def test_a_pipeline_by_its_schema(name: str, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, FLEET / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
