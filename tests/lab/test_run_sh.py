"""run.sh with a stand-in Python, which notes what it is asked for and installs nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN_SH = Path(__file__).resolve().parents[2] / "run.sh"
COMMANDS = (
    "digits",
    "office",
    "compare",
    "ablate",
    "report",
    "repeat",
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
    "-I -c") exec "{sys.executable}" "$@" ;;
    "-m venv") mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
    "-m pip")
        [[ "$3" != --version ]] || exit 0
        echo "pip $PWD" >>"$FAKE_LOG"
        exit "${{FAKE_PIP_STATUS:-0}}"
        ;;
    *) printf '%s|' "$PWD" "${{HYPOTHESIS_PROFILE:-}}" "$@" >>"$FAKE_LOG"; echo >>"$FAKE_LOG" ;;
esac
"""


@pytest.fixture
def door(tmp_path):
    """door(*arguments, **environment) -> the finished call.

    door.root: the checkout; door.caller: the working folder; door.log(): what Python was asked.
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
