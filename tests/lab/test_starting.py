"""What goes wrong before the packages are loaded is one line, behind the door of all commands.

A copy of the code, with a stand-in for MindSpore beside it, makes it happen.
"""

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
STOPPED = "\nStopped while starting; nothing was begun.\n"


@pytest.fixture
def program(tmp_path):
    """program(the lines of a stand-in for MindSpore, ...) -> the command `digits`, ended."""
    root, caller = tmp_path / "checkout", tmp_path / "caller"
    shutil.copytree(ROOT / "lab", root / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("fpl.py", "finch.py"):
        shutil.copy(ROOT / name, root)
    caller.mkdir()

    def call(stand_in="", before="", arguments=("digits", "--tau", "0"), **environment):
        if stand_in:
            (root / "mindspore").mkdir()
            (root / "mindspore" / "__init__.py").write_text(
                f"import os, signal, sys, time, warnings\n{stand_in}\nos._exit(0)\n"
            )
        words = [sys.executable, "-I", str(root / "lab" / "__main__.py"), *arguments]
        return subprocess.run(
            ["sh", "-c", f'{before}exec "$@"', "sh", *words],
            cwd=caller,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
        )

    call.caller = caller
    return call


def outcome(done):
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_loading_is_one_line(number, program):
    done = program(f"os.kill(os.getpid(), {number:d}); time.sleep(20)")
    assert outcome(done) == (130, "", STOPPED)


def test_a_signal_without_standard_error_ends_too(program):
    done = program("os.close(2); os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)")
    assert outcome(done) == (130, "", "")


def test_a_working_folder_removed_is_one_line(program):
    done = program("print('loaded', flush=True)", "mkdir gone; cd gone; rmdir ../gone; ")
    assert outcome(done) == (
        2,
        "",
        "fpl: the working folder cannot be found (No such file or "
        "directory); go into one that is there and give the same command "
        "again\n",
    )


@pytest.mark.parametrize(
    "given, kept",
    [
        ("1", "1"),
        ("64", "64"),
        ("999", "999"),
        *(
            (text, None)
            for text in ("", "0", "-1", "abc", "1000", "9" * 20, "9" * 5000, "1.5", "٣", "2,4")
        ),
    ],
)
def test_impossible_numbers_of_threads_are_not_given(given, kept, program):
    done = program("print(os.environ.get('OMP_NUM_THREADS'), flush=True)", OMP_NUM_THREADS=given)
    assert outcome(done) == (0, f"{kept}\n", "")


@pytest.mark.parametrize("rule", ["error", "error::DeprecationWarning", "ignore,e"])
def test_warnings_of_packages_are_no_errors(rule, program):
    done = program(
        "warnings.warn('old', DeprecationWarning)\n"
        "print(os.environ.get('PYTHONWARNINGS'), flush=True)",
        PYTHONWARNINGS=rule,
    )
    assert outcome(done) == (0, "None\n", "")


def test_the_real_packages_load_without_a_line(program):
    done = program(OMP_NUM_THREADS="abc", PYTHONWARNINGS="error")
    assert outcome(done) == (2, "", "fpl: --tau is 0.0; it must be more than 0\n")


@pytest.mark.parametrize("name", ["lab", "fpl", "mindspore"])
def test_packages_of_the_same_name_stay_out(name, program, tmp_path):
    """Neither the caller's folder nor PYTHONPATH takes the place of the checkout."""
    for folder in (program.caller, tmp_path / "path"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('an odd one')")
    done = program("print('ours', flush=True)", PYTHONPATH=str(tmp_path / "path"))
    assert outcome(done) == (0, "ours\n", "")


@pytest.mark.parametrize("arguments, given", [((), ""), (("digit", "--seed", "1"), "digit")])
def test_an_unknown_command_is_one_line(arguments, given, program):
    done = program(arguments=arguments)
    assert outcome(done) == (
        2,
        "",
        f"fpl: unknown command '{given}'; it must be one of {', '.join(COMMANDS)}\n",
    )


@pytest.mark.parametrize("module", sorted(set(COMMANDS.values())))
def test_each_command_has_a_module_with_main(module):
    path = importlib.util.find_spec(module).origin
    functions = [
        part for part in ast.parse(Path(path).read_text()).body if isinstance(part, ast.FunctionDef)
    ]
    assert [len(part.args.args) for part in functions if part.name == "main"] == [1]


def test_fpl_is_imported_whatever_the_threads(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import fpl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "9" * 20},
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
