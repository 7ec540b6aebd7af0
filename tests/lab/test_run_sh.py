"""run.sh with a stand-in Python, which notes what it is asked for and installs nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.shell import mend

RUN_SH = Path(__file__).resolve().parents[2] / "run.sh"
COMMANDS = (
    "digits",
    "office",
    "folder",
    "predict",
    "compare",
    "ablate",
    "report",
    "repeat",
    "check",
    "check-device",
    "lesson",
    "bench",
    "flower",
    "test",
    "mutants",
    "fetch",
)

# Passes -c on to the real Python, makes a "venv" by copying itself, and logs all else.
FAKE_PYTHON = f"""#!/usr/bin/env bash
[[ "$1 ${{2:-}}" != "-I -m" ]] || shift
case "$1 ${{2:-}}" in
    "-I -c")
        [[ "$3" != *mindspore* || -z "${{FAKE_ELSEWHERE:-}}" ]] || exit 1
        exec "{sys.executable}" "$@"
        ;;
    "-m venv")
        [[ "$*" != *--clear* ]] || rm -rf "${{@: -1}}"
        mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python"
        ;;
    "-m pip")
        [[ "$3" != --version ]] || exit 0
        echo "pip $PWD" >>"$FAKE_LOG"
        env >"$FAKE_LOG.pip"
        exit "${{FAKE_PIP_STATUS:-0}}"
        ;;
    *)
        env >"$FAKE_LOG.last"
        printf '%s|' "$PWD" "${{HYPOTHESIS_PROFILE:-}}" "$@" >>"$FAKE_LOG"
        echo >>"$FAKE_LOG"
        ;;
esac
"""


# What would change where pip installs, which tests run, or how Python starts.
HOSTILE = {
    "PIP_TARGET": "/else",
    "PIP_PREFIX": "/else",
    "PIP_CONSTRAINT": "/no/such/file",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_REQUIRE_HASHES": "1",
    "PIP_NO_DEPS": "1",
    "PIP_DRY_RUN": "1",
    "PIP_NO_BINARY": ":all:",
    "PIP_ONLY_BINARY": ":none:",
    "PIP_PYTHON": "/no/such/python",
    "PYTHONHOME": "/no/such/folder",
    "PYTHONPATH": "/no/such/folder",
    "PYTHONSAFEPATH": "1",
    "PYTHONWARNINGS": "error",
    "PYTEST_ADDOPTS": "--no-such-option",
    "PYTEST_PLUGINS": "no_such_plugin",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "HYPOTHESIS_PROFILE": "dev",
    "CI": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "GLOG_v": "10",
    "MS_JIT": "0",
    "BASH_ENV": "/dev/null",
    "CDPATH": "/",
}
HARMLESS = {
    "PIP_INDEX_URL": "https://there/simple",
    "PIP_EXTRA_INDEX_URL": "https://there/more",
    "PIP_TRUSTED_HOST": "there",
    "PIP_CERT": "/there.pem",
    "PIP_DEFAULT_TIMEOUT": "9",
    "PIP_CONFIG_FILE": "/there.conf",
    "https_proxy": "http://there:1",
}


@pytest.fixture
def door(tmp_path):
    """door(*arguments, **environment) -> the finished call.

    door.root: the checkout; door.caller: the working folder; door.log(): what Python was asked;
    door.seen("pip" or "last"): the environment of pip, or of the last other thing asked.
    """
    root, caller = tmp_path / "a check out", tmp_path / "the caller"
    root.mkdir()
    caller.mkdir()
    shutil.copy(RUN_SH, root)
    (root / "requirements.txt").write_text("one==1\n")
    fake = tmp_path / "fake python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    log = tmp_path / "log"
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("FPL_PYTHON", "FPL_VENV", "FLWR_HOME")
    }

    def call(*arguments, script=root / "run.sh", **environment):
        return subprocess.run(
            [script, *arguments],
            cwd=caller,
            capture_output=True,
            text=True,
            timeout=60,
            env={**clean, "FAKE_LOG": str(log), "FPL_PYTHON": str(fake), **environment},
        )

    call.root, call.caller = root, caller
    call.seen = lambda step: dict(
        line.partition("=")[::2] for line in Path(f"{log}.{step}").read_text().splitlines()
    )
    call.log = lambda: log.read_text().splitlines() if log.exists() else []
    return call


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_the_door_alone_lists_the_commands(door, arguments):
    result = door(*arguments)
    assert result.returncode == 0 and not result.stderr
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout
    assert not door.log() and not (door.root / ".venv").exists()


def test_an_unknown_command_installs_nothing(door):
    result = door("digit", "--seed", "1")
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.count("\n") == 1 and "'digit'" in result.stderr
    assert f"{', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}" in result.stderr
    assert not (door.root / ".venv").exists()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_link_from_anywhere_is_the_same_door(steps, door, tmp_path):
    place = tmp_path / "my bin"
    place.mkdir()
    (place / "first").symlink_to("../a check out/run.sh")
    (place / "fpl").symlink_to("first" if steps == 2 else door.root / "run.sh")
    result = door("digits", "--seed", "1", script=place / "fpl")
    assert result.returncode == 0, result.stderr
    assert (
        door.log()[-1] == f"{door.caller}||-I|{door.root}/lab/__main__.py|digits|--seed|1|"
        and (door.root / ".venv").is_dir()
    )
    assert sorted(os.listdir(place)) == ["first", "fpl"]


def test_a_copy_without_its_checkout_makes_nothing(door, tmp_path):
    os.mkdir(tmp_path / "bin")
    shutil.copy(RUN_SH, tmp_path / "bin")
    result = door("digits", script=tmp_path / "bin/run.sh")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and not door.log()
    assert f"{tmp_path}/bin/requirements.txt is missing" in result.stderr and os.listdir(
        tmp_path / "bin"
    ) == ["run.sh"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("flower", "test")])
def test_flags_arrive_and_the_folder_stays(door, command):
    assert door(command, "--data", "my data", "").returncode == 0
    assert (
        door.log()[-1]
        == f"{door.caller}||-I|{door.root}/lab/__main__.py|{command}|--data|my data||"
    )


def test_packages_are_installed_once_per_requirements(door):
    door("digits")
    door("digits")
    assert sum(line.startswith("pip") for line in door.log()) == 1
    (door.root / "requirements.txt").write_text("one==2\n")
    door("digits")
    assert sum(line.startswith("pip") for line in door.log()) == 2


def test_a_failed_install_starts_nothing(door):
    door("digits")  # good, with the first requirements
    (door.root / "requirements.txt").write_text("one==2\n")
    result = door("digits", FAKE_PIP_STATUS="1")
    assert (
        result.returncode == 1
        and "call again" in result.stderr
        and door.log()[-1].startswith("pip")
    )
    (door.root / "requirements.txt").write_text(
        "one==1\n"
    )  # back: the packages are in an unknown state all the same
    door("digits")
    assert sum(line.startswith("pip") for line in door.log()) == 3


def test_packages_installed_elsewhere_count_as_missing(door):
    """A `target` in a file of pip's settings leaves .venv empty, and pip content."""
    result = door("digits", FAKE_ELSEWHERE="1")
    assert result.returncode == 1 and "pip installed elsewhere than into" in result.stderr
    assert door("digits").returncode == 0
    assert sum(line.startswith("pip") for line in door.log()) == 2


@pytest.mark.parametrize(
    "given, asked",
    [
        ((), "|{workers}|-m|not slow|"),
        (("-k", "a or b"), "|{workers}|-m|not slow|-k|a or b|"),
        (("-x", "--all"), "|{workers}|-x|"),
        (("-k", "a or b", "--deep"), "deep|-k|a or b|"),
        (("--all", "--deep"), "deep|"),
        (("-m", "slow"), "|{workers}|-m|not slow|-m|slow|"),
    ],
)
def test_test_checks_style_and_passes_arguments_on(given, asked, door):
    assert door("test", *given).returncode == 0
    profile, _, words = asked.format(workers="-n|auto|--maxprocesses|4|--dist|loadfile").partition(
        "|"
    )
    assert door.log()[-2:] == [
        f"{door.root}|{profile}|-m|ruff|check|.|",
        f"{door.root}|{profile}|-m|pytest|{words}",
    ]


@pytest.mark.parametrize("given", ["", "digits", "flower-server"])
def test_flower_is_followed_by_its_programs(given, door):
    result = door("flower", given)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and not door.log()
    assert (
        f"followed by '{given}'; it must be flower-superlink, flower-supernode or flwr"
        in result.stderr
    )


def test_flower_has_packages_and_path_of_its_own(door):
    (door.root / "requirements-flower.txt").write_text("two==1\n")
    tool = door.root / ".venv-flower" / "bin" / "flwr"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/usr/bin/env bash\nprintf "%s|" "$PYTHONPATH" "$FLWR_HOME" "$@"\n')
    tool.chmod(0o755)
    result = door("flower", "flwr", "run", "a b", PYTHONPATH="/else")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{door.root}|{door.root}/.flower|run|a b|"
    assert (
        not (door.root / ".venv").exists() and (door.root / ".venv-flower" / "installed").exists()
    )
    assert "127.0.0.1:8000" in (door.root / ".flower" / "config.toml").read_text()


def test_a_python_that_cannot_be_used_is_named(door):
    result = door("digits", FPL_PYTHON="/no/such/python")
    assert result.returncode == 2 and "/no/such/python" in result.stderr.splitlines()[-1]
    assert "3.10, 3.11 or 3.12" in result.stderr.splitlines()[-1] and not door.log()


def test_no_python_at_all_is_one_line(door, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "cat", "dirname", "readlink", "env", "rm", "mv", "mkdir", "flock"):
        if shutil.which(tool):
            (tools / tool).symlink_to(shutil.which(tool))
    result = door("digits", FPL_PYTHON="", PATH=str(tools))
    assert (
        result.returncode == 2
        and "found no Python 3.10, 3.11 or 3.12" in result.stderr.splitlines()[-1]
    )


def test_the_users_variables_reach_no_step(door):
    assert door("test", **HOSTILE, **HARMLESS, PIP_USER="1").returncode == 0
    for step in ("pip", "last"):
        seen = door.seen(step)
        assert [name for name in HOSTILE if seen.get(name) == HOSTILE[name]] == []
        assert {name: seen.get(name) for name in HARMLESS} == HARMLESS
        assert seen["PIP_USER"] == "0"


def test_sh_says_that_it_takes_bash(door):
    if "bash" in os.path.realpath(shutil.which("sh")):
        pytest.skip("sh is bash here")
    done = subprocess.run(["sh", door.root / "run.sh", "help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert "bash run.sh" in done.stderr


def executable(path, text):
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)


def bsd(folder):
    """A folder for PATH: what BSD has of the tools, with a readlink that takes no options."""
    folder.mkdir()
    for tool in ("bash", "cat", "cp", "dirname", "env", "rm", "mv", "mkdir"):
        (folder / tool).symlink_to(shutil.which(tool))
    refuse = '[[ "$1" != -- ]] || shift; [[ "$1" != -* ]] || exit 1\n'
    executable(folder / "readlink", f'{refuse}exec {shutil.which("readlink")} -- "$1"\n')
    return folder


@pytest.mark.parametrize("flock", ["none", "fails"])
def test_tools_of_bsd_suffice(flock, door, tmp_path):
    """No flock, realpath or taskset, no readlink -f; or a flock on a file system without locks."""
    tools = bsd(tmp_path / "bsd")
    if flock == "fails":
        executable(tools / "flock", "exit 1\n")
    (tmp_path / "fpl").symlink_to("a check out/run.sh")
    result = door("digits", script=tmp_path / "fpl", PATH=str(tools))
    assert result.returncode == 0, result.stderr
    assert door.log()[-1] == f"{door.caller}||-I|{door.root}/lab/__main__.py|digits|"


def test_an_install_says_one_line_of_progress(door):
    lines = door("digits").stderr.splitlines()
    assert [line.partition(" into ")[0] for line in lines if "installing" in line] == [
        "run.sh: installing requirements.txt"
    ]


@pytest.mark.parametrize("given", ["elsewhere/venv", "{tmp}/elsewhere/venv"])
def test_another_place_for_venv_is_taken(given, door, tmp_path):
    place = given.format(tmp=tmp_path)
    assert door("digits", FPL_VENV=place).returncode == 0
    assert (door.caller / place / "installed").exists()
    assert sorted(os.listdir(door.root)) == ["requirements.txt", "run.sh"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_checkout_is_one_line(door):
    door.root.chmod(0o555)
    result = door("digits")
    door.root.chmod(0o755)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "FPL_VENV" in result.stderr


def test_a_python_without_bz2_is_not_taken(door, tmp_path):
    executable(tmp_path / "poor", '[[ "$*" != *bz2* ]] || exit 1\n' + FAKE_PYTHON)
    result = door("digits", FPL_PYTHON=str(tmp_path / "poor"))
    assert result.returncode == 2 and "bz2" in result.stderr.splitlines()[-1] and not door.log()


@pytest.mark.parametrize("wrong", ["FPL_PYTHON", "python"])
def test_a_broken_venv_is_never_emptied(wrong, door):
    """Neither for a variable that is wrong nor for a Python that does not start."""
    door("digits")
    kept = door.root / ".venv" / "lib" / "package"
    kept.parent.mkdir()
    kept.write_text("large")
    (door.root / ".venv" / "bin" / "python").write_text("#!/no/such/python\n")
    given = {"FPL_PYTHON": "/no/such/python"} if wrong == "FPL_PYTHON" else {}
    result = door("digits", **given)
    assert result.returncode == (2 if given else 0), result.stderr
    assert kept.read_text() == "large"


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("form", ["one line", "three lines"])
def test_programs_start_after_a_move(form, blank, tmp_path):
    """Also when the folder is moved again; what is no program stays as it is."""
    gone, programs = tmp_path / "gone" / "bin", tmp_path / f"new{blank}place" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    head = f"#!/bin/sh\n'''exec' \"{gone}/python\" \"$0\" \"$@\"\n' '''\n"
    if form == "one line":
        head = f"#!{gone}/python3.11\n"
    (programs / "tool").write_text(head + "import sys\nprint(sys.argv[1:])\n")
    (programs / "tool").chmod(0o755)
    (programs / "text").write_bytes(b"\xff no program")
    for place in ("newer", "newest"):
        mend.main(programs.parent)
        called = [programs / "tool", "a b", "c"]
        assert subprocess.check_output(called, text=True) == "['a b', 'c']\n"
        programs = programs.parent.rename(tmp_path / (place + blank)) / "bin"
    assert (programs / "text").read_bytes() == b"\xff no program"


def test_a_program_whose_python_is_there_stays(tmp_path):
    whole = f"#!{sys.executable}\nprint()\n".encode()
    assert mend.mended(whole, tmp_path / "python") == whole


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_checkout_for_windows_has_no_crlf(tmp_path):
    """Git is told to write CRLF, as it is set up there by default."""
    shutil.copy(RUN_SH.parent / ".gitattributes", tmp_path)
    script = tmp_path / "run.sh"
    script.write_text("one\ntwo\n")
    git = ["git", "-C", tmp_path, "-c", "core.autocrlf=true"]
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    script.unlink()
    subprocess.run([*git, "checkout", "--", "run.sh"], check=True, capture_output=True)
    assert script.read_bytes() == b"one\ntwo\n"
