"""The profiles of hypothesis are those of tests/conftest.py, whatever the environment holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOW = "import conftest; from hypothesis import settings as s; d = s.default; print("
SHOW += "d.max_examples, d.derandomize, d.database is not None)"


def called(*arguments, **given):
    clean = {name: value for name, value in os.environ.items() if name[:7] != "PYTEST_"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean, **given, "PYTHONPATH": str(ROOT / "tests")},
    )


def test_an_unknown_profile_is_one_line():
    done = called("-m", "pytest", "-q", "tests/lab/test_cores.py", HYPOTHESIS_PROFILE="dev")
    assert done.returncode == 4 and "Traceback" not in done.stdout + done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert len(said) == 1 and "must be default, deep, mutants" in said[0]


@pytest.mark.parametrize("ci", ["", "1"])
@pytest.mark.parametrize("profile, shown", [("deep", "10000 False"), ("default", "60 True")])
def test_a_build_server_changes_no_profile(ci, profile, shown):
    """There hypothesis itself would draw the same examples each time, and keep none."""
    given = {"CI": ci} if ci else {}
    done = called("-c", SHOW, HYPOTHESIS_PROFILE=profile, **given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown), done.stdout
    if profile == "deep":
        assert done.stdout == f"{shown} True\n"
