"""What goes wrong before the packages are loaded is one line, behind the door of all commands.

A copy of the code, with a stand-in for MindSpore beside it, makes it happen.
"""

import ast
import importlib.util
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from marks import with_deep

from lab.__main__ import COMMANDS
from lab.shell import environment

ROOT = Path(__file__).resolve().parents[2]
# Each of these stops a package from loading, or changes what it computes, draws or prints.
HOSTILE = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as notebooks export it
    "MATPLOTLIBRC": "/no/such/folder",
    "MPLCONFIGDIR": "/dev/null",
    "GLOG_v": "10",
    "GLOG_logtostderr": "0",
    "VLOG_v": "abc",
    "MS_JIT": "0",
    "MS_DEV_JIT_SYNTAX_LEVEL": "0",
    "MS_DEV_SAVE_GRAPHS": "3",
    "MS_ROLE": "MS_WORKER",
    "MS_SIMULATION_LEVEL": "1",
    "MS_KERNEL_LAUNCH_SKIP": "all",
    "MINDSPORE_DUMP_CONFIG": "/no/such.json",
    "RANK_ID": "abc",
    "RANK_TABLE_FILE": "/no/such.json",
    "OMPI_COMMAND": "python",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "ONEDNN_VERBOSE": "2",
    "OMP_NUM_THREADS": "abc",
    "OMP_DISPLAY_ENV": "verbose",
    "OMP_THREAD_LIMIT": "1",
    "KMP_AFFINITY": "verbose",
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 SSE",
    "SCIPY_ARRAY_API": "abc",
    "SKLEARN_ASSUME_FINITE": "abc",
    "TQDM_MININTERVAL": "abc",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONSAFEPATH": "1",
    "PYTHONHOME": "/no/such/folder",
    "PYTHONPATH": "/no/such/folder",
    "PYTHONOPTIMIZE": "2",
    "PYTHONIOENCODING": "ascii:strict",
    "PYTHONINSPECT": "1",
    "RAY_TMPDIR": "/no/such/folder",
    "HYPOTHESIS_PROFILE": "dev",
    "PYTEST_ADDOPTS": "--no-such-option",
}
STOPPED = "\nStopped while starting; nothing was begun.\n"


@pytest.fixture
def program(tmp_path):
    """program(the lines of a stand-in for MindSpore, ...) -> the command `digits`, ended."""
    root, caller = tmp_path / "checkout", tmp_path / "caller"
    shutil.copytree(ROOT / "lab", root / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("fpl.py", "finch.py"):
        shutil.copy(ROOT / name, root)
    caller.mkdir()

    def call(stand_in="", before="", arguments=("digits", "--tau", "0"), **given):
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
            env={**os.environ, **given},
        )

    call.caller = caller
    return call


def outcome(done):
    return done.returncode, done.stdout, done.stderr


# Where nohup began the tests SIGHUP is ignored, by all that they start too.
needs_hangup = pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="SIGHUP is ignored, as by nohup"
)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=needs_hangup)]
)
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


def test_nohup_stays_deaf_to_sighup(program):
    done = program("os.kill(os.getpid(), signal.SIGHUP); print('on', flush=True)", "trap '' HUP; ")
    assert outcome(done) == (0, "on\n", "")


ENDING = """
import sys, tempfile, time
from lab.shell import program
def wait(argv):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("ready", flush=True)
        time.sleep(60)
program.as_program(lambda: program.guarded(wait, []))
"""


@needs_hangup
def test_a_closed_terminal_ends_a_run(tmp_path):
    """The folder of temporary files goes, though nobody can be told any more."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ENDING, str(tmp_path)])
    assert os.read(terminal, 5) == b"ready"
    assert len(os.listdir(tmp_path)) == 1
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    assert os.listdir(tmp_path) == []


REAL = (2, "", "fpl: --tau is 0.0; it must be more than 0\n")


def test_the_real_packages_load_without_a_line(program):
    (program.caller / "matplotlibrc").write_bytes(b"\xff: no setting\n")
    assert outcome(program(**HOSTILE)) == REAL


@pytest.mark.slow
@with_deep
@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_variable_stops_the_packages(name, program):
    assert outcome(program(**{name: HOSTILE[name]})) == REAL


def test_what_a_run_starts_inherits_nothing_hostile(program):
    found = f"[n for n, value in {HOSTILE}.items() if os.environ.get(n) == value]"
    done = program(f"print({found}, flush=True)", **HOSTILE)
    assert outcome(done) == (0, "[]\n", "")


def test_what_the_docs_list_is_kept(program):
    given = dict.fromkeys(environment.KEPT, "7") | {"http_proxy": "http://there:1", "no_proxy": "a"}
    wanted = given | {"no_proxy": "a,127.0.0.1,localhost"}
    names = sorted(wanted)
    done = program(f"print(*[os.environ.get(n) for n in {names}], flush=True)", **given)
    assert outcome(done) == (0, " ".join(wanted[name] for name in names) + "\n", "")
    text = (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")
    assert [name for name in environment.KEPT if name not in text] == []


def test_settings_of_matplotlib_stay_unread(program, tmp_path):
    """Neither those of the working folder nor those of the home."""
    places = program.caller, tmp_path / ".config" / "matplotlib"
    places[1].mkdir(parents=True)
    for place in places:
        (place / "matplotlibrc").write_text("text.usetex: True\n")
    done = program(
        "import matplotlib; print(matplotlib.rcParams['text.usetex'], os.getcwd(), flush=True)",
        HOME=str(tmp_path),
        XDG_CONFIG_HOME=str(tmp_path / ".config"),
    )
    assert outcome(done) == (0, f"False {program.caller}\n", "")


@pytest.mark.slow
@with_deep
def test_a_hostile_environment_leaves_the_same_bytes(program):
    small = ["--rounds", "1", "--local-epochs", "1", "--width", "2", "--test-images", "50"]
    small += ["--clients", "1,1,1,1"]
    assert program(arguments=["digits", *small, "--name", "quiet"]).returncode == 0
    (program.caller / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: red\n")
    done = program(arguments=["digits", *small, "--name", "hostile"], **HOSTILE)
    assert done.returncode == 0 and "round" in done.stdout, done.stderr
    runs = program.caller / "runs"
    names = sorted(
        path.name for path in (runs / "quiet").iterdir() if path.suffix in (".png", ".safetensors")
    )
    assert "model.safetensors" in names and any(name.endswith(".png") for name in names)
    assert [
        name
        for name in names
        if (runs / "quiet" / name).read_bytes() != (runs / "hostile" / name).read_bytes()
    ] == []


def test_a_long_temporary_folder_is_shortened(monkeypatch):
    for folder, wanted in (("/var/tmp", "/var/tmp"), ("/" + 60 * "x", "/tmp")):
        monkeypatch.setattr(environment.tempfile, "gettempdir", lambda folder=folder: folder)
        assert environment.short_folder() == wanted


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
