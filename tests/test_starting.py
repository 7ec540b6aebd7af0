"""What can go wrong before the packages are loaded is one line, in every program. A stand-in for MindSpore makes it happen."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ["fpl.py", *(f"lab/{name}.py" for name in ("compare", "page", "repeat", "fetch", "bench", "mutants"))]
STOPPED = "\nStopped while starting; nothing was begun.\n"


def program(path, folder, stand_in="", before="", **environment):
    """A program of the project, started with a mindspore of these lines in the place of the real one, if there are any."""
    if stand_in:
        (folder / "mindspore").mkdir()
        (folder / "mindspore" / "__init__.py").write_text(f"import os, signal, sys, time, warnings\n{stand_in}\nos._exit(0)\n")
    paths = os.pathsep.join([str(folder), str(ROOT)])
    words = [sys.executable, str(ROOT / path), "digits", "--tau", "0"]
    return subprocess.run(["sh", "-c", f'{before}exec "$@"', "sh", *words], cwd=folder, capture_output=True, text=True,
                          timeout=120, env={**os.environ, "PYTHONPATH": paths, **environment})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("path", PROGRAMS)
def test_a_signal_while_mindspore_loads_is_one_line(path, number, tmp_path):
    done = program(path, tmp_path, f"os.kill(os.getpid(), {number:d}); time.sleep(20)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", STOPPED)


def test_a_signal_while_mindspore_loads_ends_a_program_without_standard_error_too(tmp_path):
    done = program("fpl.py", tmp_path, "os.close(2); os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("path", PROGRAMS)
def test_a_working_folder_that_was_removed_is_one_line(path, tmp_path):
    done = program(path, tmp_path, "print('loaded', flush=True)", "mkdir gone; cd gone; rmdir ../gone; ")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("fpl: the working folder cannot be found (No such file or directory); go into one that is there and "
                           "give the same command again\n")


@pytest.mark.parametrize("given, kept", [("1", "1"), ("64", "64"), ("999", "999"), *((text, None) for text in (
    "", "0", "-1", "abc", "1000", "9" * 20, "9" * 5000, "1.5", "٣", "2,4"))])
def test_threads_that_are_no_number_of_threads_count_as_not_given(given, kept, tmp_path):
    done = program("fpl.py", tmp_path, "print(os.environ.get('OMP_NUM_THREADS'), flush=True)", OMP_NUM_THREADS=given)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{kept}\n", "")


@pytest.mark.parametrize("rule", ["error", "error::DeprecationWarning", "ignore,e"])
@pytest.mark.parametrize("path", PROGRAMS)
def test_warnings_of_packages_are_no_errors(path, rule, tmp_path):
    done = program(path, tmp_path, "warnings.warn('old', DeprecationWarning); print(os.environ.get('PYTHONWARNINGS'), flush=True)",
                   PYTHONWARNINGS=rule)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_the_real_packages_load_in_an_odd_environment_without_a_line_of_their_own(tmp_path):
    done = program("fpl.py", tmp_path, OMP_NUM_THREADS="abc", PYTHONWARNINGS="error")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "fpl: --tau is 0.0; it must be more than 0\n")


def test_fpl_is_imported_whatever_the_number_of_threads(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import fpl"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "9" * 20})
    assert done.returncode == 0 and "Traceback" not in done.stderr
