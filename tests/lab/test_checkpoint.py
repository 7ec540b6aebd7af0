"""A run that is interrupted anywhere and resumed ends in the bytes of one that never was.

What cannot go on is refused. Most tests put a stand-in for the training,
so that every single write can be made to fail; the last one kills real runs.
"""

import errno
import fcntl
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import made_runs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import RECORD, SMALL, arrays_of, next_state, stand_in_run
from marks import DEEP, with_deep
from safetensors.numpy import load_file, save_file
from tiny import TINY, tiny

import fpl
from lab.methods.baselines import MethodState
from lab.run import checkpoint, repeat, screen, train
from lab.run import folder as run_folder
from lab.shell.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent


command = made_runs.command  # a fixture


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setattr(repeat, "load", tiny)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# ------------------------------------------------ the state


def test_a_state_comes_back_bit_for_bit(tmp_path):
    """It comes back with what its method remembers."""
    start = fpl.init_state(TINY)
    rng = np.random.default_rng(0)
    clusters, mask, unbiased = (rng.random(value.shape) for value in start.prototypes)
    prototypes = fpl.Prototypes(
        clusters.astype(np.float32), mask > 0.5, unbiased.astype(np.float32)
    )
    memory = {
        "server": {"m": start.params, "v": next_state(start, 1).params},
        3: {"params": start.params, "stats": start.stats},
        12: {"h": next_state(start, 2).params},
    }
    state = MethodState(*next_state(start, 7)._replace(prototypes=prototypes), memory)
    checkpoint.save(tmp_path, state, RECORD)
    again = checkpoint.load(tmp_path, RECORD)
    assert type(again) is MethodState and again.round == 7
    assert set(again.memory) == {"server", 3, 12}
    before, after = arrays_of(state), arrays_of(again)
    assert set(before) == set(after)
    for key in before:
        assert before[key].dtype == after[key].dtype, key
        np.testing.assert_array_equal(before[key], after[key])


def test_fpls_state_comes_back_as_a_server_state(saved, tmp_path):
    """A state of FPL comes back as a server state."""
    (tmp_path / checkpoint.FILE).write_bytes(saved)
    assert type(checkpoint.load(tmp_path, RECORD)) is fpl.ServerState


def write_state(folder, arrays):
    """A state.safetensors of these arrays, whole, with a right checksum."""
    about = {"round": 1, "facts": checkpoint.facts(RECORD)}
    about["sha256"] = checkpoint.digest(arrays, about)
    save_file(arrays, folder / checkpoint.FILE, {"fpl": json.dumps(about)})


def saved_arrays(saved, folder):
    (folder / checkpoint.FILE).write_bytes(saved)
    return load_file(folder / checkpoint.FILE)


def test_every_array_keeps_its_name_across_versions(saved, tmp_path):
    """Every array has the name that it had in every version."""
    names = {f"params/{name}" for name, _ in fpl.param_shapes(TINY.width, 10)}
    names |= {f"stats/{name}" for name, _ in fpl.stat_shapes(TINY.width)}
    names |= {f"prototypes/{name}" for name in ("clusters", "mask", "unbiased")}
    assert set(saved_arrays(saved, tmp_path)) == names


@pytest.mark.parametrize("kind", ["stem.conv", "m stem.conv", "linear.bias"])
def test_a_memory_by_name_is_refused(kind, saved, tmp_path):
    """The memory by name of an earlier version is refused in one line."""
    arrays = saved_arrays(saved, tmp_path)
    write_state(tmp_path, {**arrays, f"memory/server/{kind}": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="is of another version .*nothing was changed") as refused:
        checkpoint.load(tmp_path, RECORD)
    assert "\n" not in str(refused.value)


def test_a_state_lacking_a_weight_is_one_line(saved, tmp_path):
    """A state without a weight is refused in one line."""
    arrays = saved_arrays(saved, tmp_path)
    del arrays["params/stem.conv"]
    write_state(tmp_path, arrays)
    with pytest.raises(InputError, match="is of another version .*stem.conv"):
        checkpoint.load(tmp_path, RECORD)


ERRORS = (errno.EIO, errno.ENODEV, errno.EMFILE, errno.ESTALE, errno.EACCES)


@pytest.mark.parametrize(
    "call, number",
    [
        *(("builtins.open", number) for number in ERRORS),
        ("os.lstat", errno.EIO),
        ("os.stat", errno.EIO),
    ],
)
@pytest.mark.parametrize("name", ["state.safetensors", "config.json", "rounds.csv", "clusters.csv"])
def test_what_cannot_be_read_is_kept(name, call, number, command, monkeypatch, capsys):
    """A disk, a right, a limit of this process: the file itself may be whole."""
    assert command() == 0
    before = contents("runs/digits-1")
    module, _, function = call.partition(".")
    really = getattr(sys.modules[module], function)

    def failing(path, *args, **kwargs):
        if str(path).endswith(name):
            raise OSError(number, "the disk's own words", path)
        return really(path, *args, **kwargs)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(call, failing)
        assert command("--resume") == 2
    err = capsys.readouterr().err
    assert f"{name} cannot be read (the disk's own words); nothing was changed: keep it" in err
    assert not any(word in err for word in ("damaged", "remove", "begin again", "--name"))
    assert contents("runs/digits-1") == before and command("--resume") == 0


@pytest.mark.parametrize("name", ["state.safetensors", "config.json", "rounds.csv"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_what_stands_in_a_files_place_stays(name, make, command, capsys):
    """A folder and a pipe are no damaged file, nor is a link to a disk that is not there."""
    assert command() == 0
    os.rename(f"runs/digits-1/{name}", "whole")
    make(f"runs/digits-1/{name}")
    capsys.readouterr()
    assert command("--resume") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "damaged" not in err and "nothing was changed" in err
    assert f"{name} is no file" in err or f"{name} cannot be read (No such file" in err
    assert os.path.lexists(f"runs/digits-1/{name}")
    os.rename(f"runs/digits-1/{name}", "aside")
    os.rename("whole", f"runs/digits-1/{name}")
    assert command("--resume") == 0


def test_a_disk_that_cannot_map_files_will_do(saved, tmp_path, monkeypatch):
    """Some network disks cannot: the state is read, not mapped into memory."""
    (tmp_path / checkpoint.FILE).write_bytes(saved)

    def no_such_device(*_):
        raise OSError("No such device (os error 19)")

    monkeypatch.setattr("safetensors.safe_open", no_such_device)
    monkeypatch.setattr("safetensors.numpy.safe_open", no_such_device)
    assert checkpoint.load(tmp_path, RECORD).round == 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save(folder, fpl.init_state(TINY), RECORD)
    return (folder / checkpoint.FILE).read_bytes()


@given(st.data())
@settings(max_examples=40)
def test_a_changed_or_incomplete_state_is_refused(saved, tmp_path_factory, data):
    """A state with any byte changed or any part missing is refused."""
    folder = tmp_path_factory.mktemp("damaged")
    at = data.draw(st.integers(0, len(saved) - 1))
    if data.draw(st.booleans()):
        damaged = saved[:at]
    else:
        damaged = saved[:at] + bytes([saved[at] ^ data.draw(st.integers(1, 255))]) + saved[at + 1 :]
    (folder / checkpoint.FILE).write_bytes(damaged)
    try:
        state = checkpoint.load(folder, RECORD)
    except InputError as error:
        assert "\n" not in str(error) and checkpoint.FILE in str(error)
    else:  # a blank within the header may change without changing anything
        want = arrays_of(fpl.init_state(TINY))
        assert (
            all((want[name] == value).all() for name, value in arrays_of(state).items())
            and state.round == 0
        )


ARRAY, ABOUT = np.arange(6, dtype=np.float32).reshape(2, 3), {"round": 3, "facts": {"tau": 0.02}}


@pytest.mark.parametrize(
    "arrays, about",
    [
        ({"b": ARRAY}, ABOUT),
        ({"a": ARRAY.reshape(3, 2)}, ABOUT),
        ({"a": ARRAY.view(np.int32)}, ABOUT),
        ({"a": ARRAY + 1}, ABOUT),
        ({"a": ARRAY, "b": ARRAY}, ABOUT),
        ({}, ABOUT),
        ({"a": ARRAY}, {**ABOUT, "round": 4}),
        ({"a": ARRAY}, {**ABOUT, "facts": {"tau": 0.03}}),
    ],
    ids=["name", "shape", "type", "number", "one more", "one less", "round", "setting"],
)
def test_the_checksum_changes_with_all_that_is_saved(arrays, about):
    assert checkpoint.digest(arrays, about) != checkpoint.digest({"a": ARRAY}, ABOUT)


def test_checksums_do_not_depend_on_order_or_layout():
    assert checkpoint.digest({"b": ARRAY, "a": ARRAY}, ABOUT) == checkpoint.digest(
        {"a": np.asfortranarray(ARRAY), "b": ARRAY}, dict(reversed(ABOUT.items()))
    )


def test_the_same_state_makes_the_same_file(saved, tmp_path):
    program = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import fpl
from lab.run import checkpoint
from made_runs import RECORD
from tiny import TINY
checkpoint.save({str(tmp_path)!r}, fpl.init_state(TINY), RECORD)"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / checkpoint.FILE).read_bytes() == saved


@pytest.mark.parametrize(
    "change, part",
    [
        ({"config": {"tau": 0.3, "clients": (1, 2)}}, "was made with tau 0.02, this call has 0.3"),
        (
            {"config": {"tau": 0.02, "clients": (2, 1)}},
            "was made with clients [1, 2], this call has [2, 1]",
        ),
        (
            {"sources": {"mnist": {"sha256": "abd"}}},
            "was made with the data of mnist, sha256 abc, this call has abd",
        ),
        (
            {"method": {"name": "moon", "numbers": {}}},
            "was made with method None, this call has {'name': 'moon'",
        ),
        ({"variant": "both"}, "was made with variant None, this call has both"),
        ({"command": "ablate"}, "was made with command None, this call has ablate"),
        ({"config": {"clients": (1, 2)}}, "was made with tau 0.02, this call has None"),
        (
            {"config": {"tau": 0.02, "clients": (1, 2), "seed": 3}},
            "was made with seed None, this call has 3",
        ),
        ({"sources": {}}, "was made with the data of mnist, sha256 abc, this call has None"),
        (
            {"sources": {"mnist": {"sha256": "abc"}, "syn": {"sha256": "d"}}},
            "the data of syn, sha256 None, this call has d",
        ),
    ],
)
def test_a_state_of_other_terms_is_refused(change, part, saved, tmp_path):
    """The refusal has the field that differs."""
    (tmp_path / checkpoint.FILE).write_bytes(saved)
    with pytest.raises(InputError, match=re.escape(part)):
        checkpoint.load(tmp_path, {**RECORD, **change})


@given(st.integers(0, 5), st.integers(0, 60))
@settings(max_examples=30)
def test_cutting_back_keeps_the_rows_that_count(tmp_path_factory, last, missing):
    """It keeps the whole rows of the rounds that count."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [f"{number},{number / 7}\n" for number in (1, 1, 2, 3, 4, 10, 10)]
    text = "".join(["round,loss\n", *rows])
    (folder / "clusters.csv").write_text(text[: len(text) - missing])
    checkpoint.cut_back(folder, last)
    left = (folder / "clusters.csv").read_text() if last else ""
    whole = [
        row for row in text[: len(text) - missing].splitlines(keepends=True) if row.endswith("\n")
    ]
    want = whole[:1] + [row for row in whole[1:] if int(row.split(",")[0]) <= last]
    assert left == ("".join(want) if last else "")
    assert (folder / "clusters.csv").exists() == (last > 0)


@pytest.mark.parametrize(
    "write, name",
    [
        (
            lambda folder: checkpoint.save(folder, next_state(fpl.init_state(TINY), 3), RECORD),
            checkpoint.FILE,
        ),
        (lambda folder: checkpoint.cut_back(folder, 1), "rounds.csv"),
        (lambda folder: checkpoint.cut_back(folder, 1), "clusters.csv"),
    ],
)
def test_a_file_stays_old_until_it_is_whole(write, name, saved, tmp_path, monkeypatch):
    """A file is the old one until the new one is whole."""
    (tmp_path / checkpoint.FILE).write_bytes(saved)
    if name != checkpoint.FILE:
        (tmp_path / name).write_text("round\n1\n2\n")
    before = (tmp_path / name).read_bytes()

    def refused(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(OSError):
            write(tmp_path)
    assert (tmp_path / name).read_bytes() == before
    write(tmp_path)
    assert (tmp_path / name).read_bytes() != before


# ------------------------------------------------ every write fails once


class Killed(BaseException):
    """Ends a run as kill -9 does: nobody catches it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop",
    [
        Killed,
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), marks=with_deep),
        pytest.param(KeyboardInterrupt, marks=with_deep),
    ],
)
def test_a_resumed_run_ends_in_the_same_bytes(stop, command, monkeypatch, capsys):
    """So it does wherever it was stopped, before or after any write."""
    assert command("--name", "whole") == 0
    want, calls = contents("runs/whole"), []

    def counted(function, fails_at, afterwards):
        """The function, which stops the run when it is the fails_at-th of all such calls.

        It does so before or after its work.
        """

        def call(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == fails_at and not afterwards:
                raise stop
            result = function(*args, **kwargs)
            if len(calls) == fails_at:
                raise stop
            return result

        return call

    def arm(patch, fails_at, afterwards=False):
        calls.clear()
        for module, name in (
            (os, "replace"),
            (os, "fsync"),
            (run_folder, "append_rows"),
            (os, "makedirs"),
        ):
            patch.setattr(module, name, counted(getattr(module, name), fails_at, afterwards))

    with monkeypatch.context() as patch:
        arm(patch, 0)
        assert command("--name", "counted") == 0
    assert contents("runs/counted") == want and len(calls) > 30
    for fails_at in range(1, len(calls) + 1):
        for afterwards in (False, True):
            name = f"stop-{fails_at}-{afterwards}"
            with monkeypatch.context() as patch:
                arm(patch, fails_at, afterwards)
                try:
                    status = command("--name", name)
                except Killed:
                    status = None
                assert status == {Killed: None, KeyboardInterrupt: 130}.get(stop, 2)
            if Path(f"runs/{name}").is_dir():
                assert command("--name", name, "--resume") == 0, capsys.readouterr().err
                assert contents(f"runs/{name}") == want, name
    assert "Traceback" not in capsys.readouterr().err


# ------------------------------------------------ more rounds than it was begun with


def test_a_run_made_longer_ends_as_one_run(command, capsys):
    """Every file has the bytes of one run of that length, and so it can be repeated."""
    assert command("--name", "whole", "--rounds", "7") == 0
    assert command("--name", "grown") == 0
    assert command("--name", "grown", "--resume", "--rounds", "5") == 0
    assert "3 of 5 rounds are done already." in capsys.readouterr().out
    assert command("--name", "grown", "--resume", "--rounds", "7") == 0
    assert contents("runs/grown") == contents("runs/whole")
    assert json.loads(Path("runs/grown/config.json").read_text())["config"]["rounds"] == 7
    assert "prototypes-5.npz" in contents("runs/grown")
    assert repeat.main(["runs/grown"]) == 0


def test_an_interrupted_run_may_be_made_longer(command, monkeypatch):
    assert command("--name", "whole", "--rounds", "5") == 0

    def stopped(*arguments):
        yield next(stand_in_run(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fpl, "run", stopped)
        assert command("--name", "grown") == 130
    assert command("--name", "grown", "--resume", "--rounds", "5") == 0
    assert contents("runs/grown") == contents("runs/whole")


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_growing_may_stop_anywhere(fails_at, command, monkeypatch):
    """Even between the new config.json and the first new round."""
    assert command("--name", "whole", "--rounds", "4") == 0
    assert command("--name", "grown") == 0
    calls, really = [], os.replace

    def killed(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise Killed
        really(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        command("--name", "grown", "--resume", "--rounds", "4")
    assert command("--name", "grown", "--resume", "--rounds", "4") == 0
    assert contents("runs/grown") == contents("runs/whole")


def test_a_longer_run_is_not_made_shorter(command, capsys):
    """Nor is any other setting changed on the way."""
    assert command("--rounds", "5") == 0
    before = contents("runs/digits-1")
    for flags, part in (
        ((), "rounds 5, this call has 3"),
        (("--rounds", "6", "--seed", "1"), "seed 0"),
    ):
        capsys.readouterr()
        assert command("--resume", *flags) == 2
        err = capsys.readouterr().err
        assert f"was made with {part}" in err and "--rounds alone may be larger" in err
        assert contents("runs/digits-1") == before


def test_the_first_versions_stay_on_record(command):
    """Those of a run that is made longer, too."""
    assert command() == 0
    path = Path("runs/digits-1/config.json")
    about = json.loads(path.read_text())
    about["versions"]["numpy"] = "0.1"
    path.write_text(json.dumps(about))
    assert command("--resume", "--rounds", "4") == 0
    about["config"]["rounds"] = 4
    assert json.loads(path.read_text()) == about


def test_another_methods_run_keeps_its_length(saved, tmp_path):
    """FedProc's weights depend on the number of rounds."""
    (tmp_path / checkpoint.FILE).write_bytes(saved)
    for method, longer in ((None, True), ({"name": "fedproc", "numbers": {}}, False)):
        before, now = (
            checkpoint.facts({**RECORD, "method": method, "config": {"rounds": rounds}})
            for rounds in (3, 4)
        )
        assert (checkpoint.made_longer(before, now) == now) == longer


def test_half_rows_and_part_files_do_no_harm(command):
    """Half a row and a part file that was left do no harm."""
    assert command("--name", "whole") == 0 and command("--name", "cut") == 0
    with open("runs/cut/rounds.csv", "a") as file:
        file.write("4,0.1")
    with open("runs/cut/clusters.csv", "a") as file:
        file.write("1")
    Path("runs/cut/model.safetensors.part").write_text("half")
    assert command("--name", "cut", "--resume") == 0
    left = contents("runs/cut")
    left.pop("model.safetensors.part", None)
    assert left == contents("runs/whole")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "3", '{"config": 3, "sources": {}, "versions": {}}', "{", "\xff"],
)
def test_a_config_of_no_run_stays(text, command, capsys):
    """A config that no run wrote is one line and stays."""
    assert command() == 0
    Path("runs/digits-1/config.json").write_text(text, encoding="latin-1")
    before = contents("runs/digits-1")
    capsys.readouterr()
    assert command("--resume") == 2
    err = capsys.readouterr().err
    assert (
        "its config.json cannot be used" in err
        and "nothing was changed" in err
        and err.count("\n") == 1
    )
    assert contents("runs/digits-1") == before


def test_rounds_that_contradict_the_state_are_one_line(command, capsys):
    """They do not agree with the state."""
    assert command() == 0
    rows = Path("runs/digits-1/rounds.csv").read_text().splitlines(keepends=True)
    Path("runs/digits-1/rounds.csv").write_text("".join(rows[:-1]))
    capsys.readouterr()
    assert command("--resume") == 2
    err = capsys.readouterr().err
    assert (
        "rounds.csv has 2 rounds, state.safetensors is of round 3; they must agree" in err
        and err.count("\n") == 1
    )


def test_a_state_without_config_gets_one(command):
    """The run goes on with such a state."""
    assert command() == 0
    want = contents("runs/digits-1")
    os.remove("runs/digits-1/config.json")
    assert command("--resume") == 0 and contents("runs/digits-1") == want


def test_other_versions_are_told(command, capsys):
    """The first ones stay on record."""
    assert command() == 0
    path = Path("runs/digits-1/config.json")
    assert "Warning: runs/" not in capsys.readouterr().out
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "versions": {**about["versions"], "numpy": "0.1"}}))
    before = path.read_bytes()
    assert command("--resume") == 0
    out = capsys.readouterr().out
    assert (
        f"Warning: runs/digits-1 was begun with numpy 0.1, now it is {np.__version__}.\n" in out
        and out.count("Warning: runs/") == 1
    )
    assert path.read_bytes() == before


def test_resuming_finds_the_newest_run(command, capsys):
    """It says what is done."""
    assert command() == 0 and command() == 0
    capsys.readouterr()
    assert command("--resume") == 0
    out = capsys.readouterr().out
    assert "3 of 3 rounds are done already." in out and "runs/digits-2: accuracy.png" in out


@pytest.mark.parametrize(
    "flags, part",
    [
        (
            ["--resume", "--name", "none"],
            "--resume finds no folder runs/none; give the --name of a run",
        ),
        (
            ["--resume", "--tau", "0.3"],
            "runs/digits-1 was made with tau 0.02, this call has 0.3; nothing was changed",
        ),
        (
            ["--resume", "--rounds", "2"],
            "runs/digits-1 was made with rounds 3, this call has 2; nothing was changed",
        ),
        (["--resume", "--name", ".."], "--name is '..'"),
        (
            ["--name", "digits-1"],
            "runs/digits-1 exists; nothing was changed: go on with it by --resume, give another",
        ),
    ],
)
def test_what_cannot_be_resumed_stays(flags, part, command, capsys):
    """It is one line, and stays as it was."""
    assert command() == 0
    before = contents("runs/digits-1")
    capsys.readouterr()
    assert command(*flags) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1
    assert contents("runs/digits-1") == before and os.listdir("runs") == ["digits-1"]


def test_other_data_are_refused_by_the_domain(command, capsys, monkeypatch):
    assert command() == 0

    def other(task, folder=None):
        train, tests, sources = tiny(task, folder)
        return train, tests, {**sources, "svhn": {**sources["svhn"], "sha256": "svhn 2"}}

    monkeypatch.setattr(train, "load", other)
    assert command("--resume") == 2
    assert "the data of svhn, sha256 svhn 1, this call has svhn 2" in capsys.readouterr().err


def test_a_folder_at_work_is_refused(command, capsys):
    assert command() == 0
    handle = os.open("runs/digits-1", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert command("--resume") == 2
    assert "another run is at work in runs/digits-1; wait" in capsys.readouterr().err
    os.close(handle)
    assert command("--resume") == 0


def test_a_diverging_run_keeps_its_last_good_state(command, monkeypatch, capsys):
    def diverging(clients, tests, cfg, state=None, *more):
        rounds = stand_in_run(clients, tests, cfg, state)
        yield next(rounds)
        raise FloatingPointError("round 2, client 1: not every number that it sends is finite")

    monkeypatch.setattr(fpl, "run", diverging)
    assert command() == 1
    assert capsys.readouterr().err.startswith("fpl: round 2, client 1: not every number")
    about = json.loads(Path("runs/digits-1/config.json").read_text())
    assert checkpoint.load("runs/digits-1", about).round == 1


def everything(folder):
    """All below a folder: path -> content, where a link points to, None for a folder."""
    return {
        str(path): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in Path(folder).rglob("*")
    }


# ------------------------------------------------ a folder without a state

ROW = "1,0.5,10.0,10.0,4,1.5,100.0\n"
# what a folder without a config and without a state holds -> whether a run begins there
FOREIGN = {
    "nothing": ({}, True),
    "what an interrupted start leaves": ({"config.json.part": "{"}, True),
    "notes": ({"notes.txt": "mine"}, False),
    "a table": ({"rounds.csv": "mine"}, False),
    "a network": ({"model.safetensors": "mine", "config.json.part": "{"}, False),
    "a hidden file": ({".notes": "mine"}, False),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_run_begins_in_another_things_folder(what, command, capsys):
    """No run begins in a folder of something else."""
    content, begins = FOREIGN[what]
    os.makedirs("runs/notes")
    for name, text in content.items():
        Path("runs/notes", name).write_text(text)
    before = everything("runs")
    assert command("--name", "notes", "--resume") == (0 if begins else 2)
    err = capsys.readouterr().err
    if not begins:
        assert (
            "but no config.json; it is not the folder of a run, nothing was changed" in err
            and err.count("\n") == 1
        )
        assert everything("runs") == before


# rounds.csv and clusters.csv of a run whose state is not
# there -> the words that must come; "" where it begins again
WITHOUT_STATE = {
    "all rounds": (None, None, "runs/n/rounds.csv has rows of 3 rounds"),
    "neither": ("", "", ""),
    "round 1": (f"round,loss\n{ROW}", f"round,class\n{ROW}{ROW}", ""),
    "half of the header": ("rou", "", ""),
    "half of round 1": ("round,loss\n1,0", "", ""),
    "half of the clusters": (f"round,loss\n{ROW}", f"round,class\n{ROW}1", ""),
    "round 2": (f"round,loss\n{ROW}2{ROW[1:]}", "", "runs/n/rounds.csv has rows of 2 rounds"),
    "half of round 2": (f"round,loss\n{ROW}2", "", "runs/n/rounds.csv has rows of 2 rounds"),
    "round 12": (f"round,loss\n1{ROW[:1]}{ROW[1:]}", "", "has rows of 1 rounds"),
    "clusters of round 2": (
        f"round,loss\n{ROW}",
        f"round,class\n{ROW}2{ROW[1:]}",
        "runs/n/clusters.csv has rows of 2 rounds",
    ),
    "another table": ("name,age\n", "", "runs/n/rounds.csv is not what a run writes"),
    "a note": (f"round,loss\n{ROW}look here\n", "", "runs/n/rounds.csv has rows of 2 rounds"),
}


@pytest.mark.parametrize("what", WITHOUT_STATE)
def test_rounds_whose_state_is_lost_are_not_erased(what, command, capsys):
    rounds, clusters, words = WITHOUT_STATE[what]
    assert command("--name", "n") == 0
    want = contents("runs/n")
    os.remove("runs/n/state.safetensors")
    for name, text in (("rounds.csv", rounds), ("clusters.csv", clusters)):
        if text is not None:
            Path("runs/n", name).write_text(text)
    before = contents("runs/n")
    capsys.readouterr()
    assert command("--name", "n", "--resume") == (2 if words else 0)
    if words:
        err = capsys.readouterr().err
        assert words in err and "back, or begin again under another" in err and err.count("\n") == 1
        assert contents("runs/n") == before
        os.remove("runs/n/rounds.csv")
        assert command("--name", "n", "--resume") == 0
    assert contents("runs/n") == want


# ------------------------------------------------ how to go on is said wherever one can


@pytest.mark.parametrize(
    "module, name, so_far",
    [
        (run_folder, "pictures", " after 3 of 3 rounds"),
        (screen, "final_table", " after 3 of 3 rounds"),
        (screen, "describe", ""),
        (checkpoint, "load", ""),
        (run_folder, "write_config", ""),
        (checkpoint, "refuse_to_begin", ""),
    ],
)
def test_ctrl_c_says_how_to_go_on(module, name, so_far, command, monkeypatch, capsys):
    """It does so wherever the folder is there."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        assert command("--name", "n") == 130
    err = capsys.readouterr().err
    assert err == f"\nStopped{so_far}; to go on: ./run.sh {' '.join(SMALL)} --name n --resume\n"
    assert command("--name", "n", "--resume") == 0


def test_ctrl_c_before_a_folder_says_no_more(command, monkeypatch, capsys):
    """Before there is a folder it says no more."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load", interrupted)
    assert (
        command("--name", "n") == 130
        and capsys.readouterr().err == "\nStopped.\n"
        and not os.path.exists("runs")
    )


def test_the_newest_run_has_no_own_name(command, capsys):
    """The newest run is one without a name of its own."""
    assert (
        command() == 0
        and command("--name", "digits-fast-7") == 0
        and command("--name", "digits--8") == 0
    )
    Path("runs/digits-9").touch()
    capsys.readouterr()
    assert command("--resume") == 0 and "runs/digits-1: accuracy.png" in capsys.readouterr().out
    shutil.rmtree("runs/digits-1")
    assert (
        command("--resume") == 2
        and "--resume finds no run of digits in runs/" in capsys.readouterr().err
    )


@pytest.mark.parametrize("versions", [None, [], "x", 3])
def test_versions_that_no_run_writes_stay(versions, command, capsys):
    """They are one line and stay."""
    assert command() == 0
    path = Path("runs/digits-1/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": versions}))
    before = contents("runs/digits-1")
    capsys.readouterr()
    assert command("--resume") == 2
    err = capsys.readouterr().err
    assert "its config.json cannot be used (TypeError" in err and err.count("\n") == 1
    assert contents("runs/digits-1") == before


# ------------------------------------------------ repeating a finished run


def test_repeating_gives_same_bytes_or_finds_the_change(command, monkeypatch, capsys):
    """A run that is repeated gives the same bytes, and a change is found."""
    assert command("--seed", "3") == 0
    monkeypatch.setattr(made_runs, "SECONDS", [1.5])
    assert repeat.main(["runs/digits-1"]) == 0
    assert (
        "the same result: rounds.csv, clusters.csv, model.safetensors, prototypes.npz"
        in capsys.readouterr().out
    )
    assert os.listdir("runs") == ["digits-1"]
    for name in ("rounds.csv", "clusters.csv", "prototypes.npz", "model.safetensors"):
        path = Path("runs/digits-1", name)
        whole = path.read_bytes()
        *rows, last = whole.splitlines(keepends=True)
        path.write_bytes(
            whole.replace(b"0.1666", b"0.2666")
            if name == "rounds.csv"
            else b"".join([*rows[:-1], last, rows[-1]])
            if name == "clusters.csv"
            else whole + b"x"
        )
        assert path.read_bytes() != whole
        assert repeat.main(["runs/digits-1"]) == 1
        assert f"another result: {name} of runs/digits-1.repeat differ" in capsys.readouterr().out
        path.write_bytes(whole)
        shutil.rmtree("runs/digits-1.repeat")


def test_other_methods_are_repeated_with_that_method(command, capsys):
    """What another method trained is repeated with that method."""
    assert command() == 0
    path = Path("runs/digits-1/config.json")
    path.write_text(
        json.dumps(
            {**json.loads(path.read_text()), "method": {"name": "fpl-global", "numbers": {}}}
        )
    )
    assert repeat.main(["runs/digits-1"]) == 1
    out = capsys.readouterr().out
    assert (
        "another result: model.safetensors, prototypes.npz of runs/digits-1.repeat differ from "
        "runs/digits-1" in out
    )
    assert sorted(os.listdir("runs")) == ["digits-1", "digits-1.repeat"]


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda about: about["config"].update(rounds=9), "has 3 of 9 rounds; finish it first"),
        (
            lambda about: about["sources"]["syn"].update(sha256="other"),
            "the data of syn, sha256 other, this call has syn 1",
        ),
        (
            lambda about: about.update(method={"name": "fedprox", "numbers": {"mu": 9}}),
            "was trained by fedprox with {'mu': 9}",
        ),
        (lambda about: about["config"].pop("clients"), "clients"),
        (lambda about: about["config"].update(shoe_size=43), "has settings of another version"),
        (
            lambda about: about.pop("versions"),
            "its config.json cannot be used (KeyError: 'versions'); nothing was changed",
        ),
        (lambda about: about.update(versions=None), "its config.json cannot be used (TypeError"),
        (lambda about: about.update(versions=[]), "its config.json cannot be used (TypeError"),
        (lambda about: about.update(versions="x"), "its config.json cannot be used (TypeError"),
        (
            lambda about: about.pop("sources"),
            "its config.json cannot be used (KeyError: 'sources')",
        ),
        (
            lambda about: about["sources"]["syn"].pop("sha256"),
            "its config.json cannot be used (KeyError: 'sha256')",
        ),
        (lambda about: about["sources"].update(syn=3), "its config.json cannot be used (TypeError"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(change, part, command, capsys):
    assert command() == 0
    about = json.loads(Path("runs/digits-1/config.json").read_text())
    change(about)
    Path("runs/digits-1/config.json").write_text(json.dumps(about))
    capsys.readouterr()
    assert repeat.main(["runs/digits-1"]) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1
    assert repeat.main(["runs/none"]) == 2 and os.listdir("runs") == ["digits-1"]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkdir(path),
        lambda path: Path(path).write_text("mine"),
        lambda path: os.symlink("nowhere", path),
        lambda path: shutil.copytree("runs/digits-1", path),
    ],
    ids=["an empty folder", "a file", "a link to nowhere", "a run of the same settings"],
)
def test_what_has_the_repetitions_name_stays(make, command, monkeypatch, capsys):
    """What is there under the name of the repetition stays."""
    assert command() == 0
    make("runs/digits-1.repeat")
    before = everything("runs")
    monkeypatch.setattr(fpl, "run", None)
    capsys.readouterr()
    assert repeat.main(["runs/digits-1"]) == 2
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1
        and "runs/digits-1.repeat is there already" in err
        and "nothing was changed: move it away" in err
    )
    assert everything("runs") == before


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (os.mkdir(path), Path(path, "rounds.csv").write_text("mine")),
        lambda path: shutil.copytree("runs/digits-1", path),
        lambda path: Path(path).write_text("mine"),
    ],
    ids=["a folder of something", "a run of the same settings", "a file"],
)
def test_a_repetition_goes_on_with_its_own_folder(make, command, capsys):
    """It goes on with no other folder than its own."""
    assert command() == 0
    make("runs/digits-1.repeat.part")
    before = everything("runs")
    capsys.readouterr()
    assert repeat.main(["runs/digits-1"]) == 2
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1 and "runs/digits-1.repeat.part" in err and everything("runs") == before
    )


def test_a_repetition_that_was_interrupted_goes_on(command, monkeypatch, capsys):
    assert command() == 0
    first = []

    def stopped(*arguments):
        for result in stand_in_run(*arguments):
            yield result
            raise KeyboardInterrupt

    def going_on(clients, tests, cfg, state, *more):
        first.append(state.round)
        yield from stand_in_run(clients, tests, cfg, state, *more)

    monkeypatch.setattr(fpl, "run", stopped)
    capsys.readouterr()
    assert repeat.main(["runs/digits-1"]) == 130
    assert capsys.readouterr().err == "\nStopped; the same command goes on.\n"
    assert sorted(os.listdir("runs")) == ["digits-1", "digits-1.repeat.part"]
    monkeypatch.setattr(fpl, "run", going_on)
    assert repeat.main(["runs/digits-1"]) == 0
    assert first == [1] and os.listdir("runs") == ["digits-1"]


# ------------------------------------------------ real runs, really killed

REAL = """
import sys; sys.path[:0] = [{root!r}, {tests!r}]
from lab.run import train
from lab.shell.program import as_program
from tiny import tiny
train.load = tiny
as_program(lambda: train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_real_runs_end_in_identical_bytes(tmp_path):
    """They are killed at random moments: once, with --deep twenty times."""
    chains, kills = ((1, 2), 10) if DEEP else ((1,), 1)
    program = REAL.format(root=str(ROOT), tests=str(ROOT / "tests"))
    flags = [
        "digits",
        "--rounds",
        "30",
        "--local-epochs",
        "1",
        "--width",
        "1",
        "--clients",
        "1,1,1,1",
        "--fraction",
        "0.0003",
        "--test-images",
        "4",
        "--batch-size",
        "1",
    ]

    def start(*more):
        return subprocess.Popen(
            [sys.executable, "-c", program, *flags, *more],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    whole = start("--name", "whole")
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out

    def killed_and_resumed(chain, kills):
        """Real runs, killed and resumed one after the other, `kills` times -> their folders."""
        moments, folders = random.Random(chain), []
        while kills:
            folders.append(tmp_path / "runs" / f"run-{chain}-{len(folders)}")
            more = []
            while True:
                process = start("--name", folders[-1].name, *more)
                if moments.random() < 0.2:  # while it starts or compiles
                    time.sleep(moments.uniform(1, 8))
                else:  # somewhere in or between the rounds
                    for line in process.stdout:
                        if line.startswith("round") or process.poll() is not None:
                            break
                    time.sleep(moments.uniform(0, 1.0))
                if kills and process.poll() is None:
                    process.kill()
                    kills -= 1
                out, _ = process.communicate(timeout=300)
                if process.returncode == 0:
                    break
                assert process.returncode == -9, out
                more = ["--resume"] if folders[-1].is_dir() else []
        return folders

    # Nearly all of the 15 s from a start to its first round is compiling, on one core.
    with ThreadPoolExecutor(2) as both:
        left = both.map(killed_and_resumed, chains, [kills] * len(chains))
        ended = [folder for folders in left for folder in folders]
    for folder in ended:
        first, second = contents(tmp_path / "runs" / "whole"), contents(folder)
        rows = [
            re.sub(rb",[0-9.e-]+(,[0-9.]+\n)", rb"\1", files.pop("rounds.csv"))
            for files in (first, second)
        ]  # no seconds
        assert rows[0] == rows[1]
        assert first == second
