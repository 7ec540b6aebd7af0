"""The GPU's way in, with a stand-in for NVIDIA's driver, for pip and for the second start."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lab.device import cuda
from lab.shell.errors import InputError


class Driver:
    """libcuda.so.1, as far as it is asked."""

    def __init__(self, cards=1, version=12080, capability=(8, 0), status=0):
        self.cards, self.version, self.capability, self.status = cards, version, capability, status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, answer):
        answer._obj.value = self.cards

    def cuDriverGetVersion(self, answer):
        answer._obj.value = self.version

    def cuDeviceGetName(self, name, length, device):
        name.value = b"Some Card"

    def cuDeviceGetAttribute(self, answer, which, device):
        answer._obj.value = self.capability[(75, 76).index(which)]

    def cuDeviceTotalMem_v2(self, answer, device):
        answer._obj.value = 80 * 10**9


@pytest.fixture
def machine(monkeypatch):
    """machine(system, processor, Driver's own) makes this one look so; no Driver: None."""

    def made(system="Linux", processor="x86_64", driver=None):
        def load(name):
            assert name == "libcuda.so.1"
            if driver is None:
                raise OSError(f"{name}: cannot open shared object file")
            return driver

        monkeypatch.setattr(cuda.platform, "system", lambda: system)
        monkeypatch.setattr(cuda.platform, "machine", lambda: processor)
        monkeypatch.setattr(cuda.ctypes, "CDLL", load)

    return made


@pytest.fixture
def home(tmp_path, monkeypatch):
    """.venv/cuda, and a file of requirements."""
    (tmp_path / "wanted.txt").write_text("one==1\n")
    monkeypatch.setattr(cuda, "HOME", tmp_path / "cuda")
    monkeypatch.setattr(cuda, "REQUIREMENTS", tmp_path / "wanted.txt")
    return tmp_path / "cuda"


@pytest.fixture
def pip(monkeypatch):
    """pip.calls: what it was asked; pip.answer: its status, or what it raises."""
    made = SimpleNamespace(calls=[], answer=0)

    def run(command, **how):
        made.calls.append(command)
        if isinstance(made.answer, BaseException):
            raise made.answer
        return subprocess.CompletedProcess(command, made.answer)

    monkeypatch.setattr(cuda.subprocess, "run", run)
    return made


# ---------------------------------------------------------------- the card


@pytest.mark.parametrize(
    "how, said",
    [
        ({"system": "Darwin", "processor": "arm64"}, "on Darwin and arm64; .* alone: leave"),
        ({"processor": "aarch64"}, "on Linux and aarch64; "),
        ({}, r"no NVIDIA driver is here \(libcuda.so.1\); install it, or leave"),
        ({"driver": Driver(cards=0)}, r"finds no card \(its status is 0\); see what nvidia-smi"),
        ({"driver": Driver(status=100)}, r"finds no card \(its status is 100\)"),
        ({"driver": Driver(version=10020)}, r"is for CUDA 10.2; it must be for 11.0 or newer"),
        ({"driver": Driver(capability=(5, 2))}, "Some Card has compute capability 5.2; it must be"),
    ],
    ids=["macOS", "ARM", "no driver", "no card", "a driver that fails", "old driver", "old card"],
)
def test_what_is_missing_is_said_and_nothing_installed(machine, home, pip, monkeypatch, how, said):
    machine(**how)
    monkeypatch.setattr(cuda, "begun_by_the_door", lambda: True)
    with pytest.raises(InputError, match=said):
        cuda.ready()
    assert pip.calls == [] and not home.exists()


def test_the_drivers_answers_make_the_card(machine):
    machine(driver=Driver(version=11060, capability=(8, 6)))
    assert cuda.found() == cuda.Card("Some Card", (8, 6), 80 * 10**9, (11, 6))


@pytest.mark.parametrize("capability, compiles", [((8, 9), False), ((9, 0), True), ((12, 0), True)])
def test_only_a_card_beyond_the_wheel_compiles(capability, compiles):
    """Code for 8.0 runs on 8.9 too; for 9.0 there is none."""
    said = cuda.line(cuda.Card("Some Card", capability, 80 * 10**9, (12, 8)))
    assert said.startswith("device GPU: Some Card, 80 GB, compute capability ")
    assert ("driver compiles its kernels" in " ".join(said.split())) == compiles


# ---------------------------------------------------------------- the libraries


def test_the_libraries_are_installed_once(home, pip, capsys):
    cuda.install()
    assert "installing wanted.txt" in capsys.readouterr().err
    assert pip.calls[0][-2:] == ["-r", str(cuda.REQUIREMENTS)]
    assert "release 11.6" in os.popen(f"'{home}/bin/nvcc' --version").read()
    cuda.install()
    assert len(pip.calls) == 1 and capsys.readouterr().err == ""
    cuda.REQUIREMENTS.write_text("one==2\n")
    cuda.install()
    assert len(pip.calls) == 2


@pytest.mark.parametrize("end", [1, KeyboardInterrupt()], ids=["failed", "interrupted"])
def test_half_an_install_never_counts(home, pip, end):
    """Neither the first one nor a later one, which begins with what was whole."""
    cuda.install()
    cuda.REQUIREMENTS.write_text("one==2\n")
    pip.answer = end
    for _ in range(2):
        with pytest.raises(InputError if end == 1 else KeyboardInterrupt):
            cuda.install()
    assert not (home / "installed").exists()
    pip.answer = 0
    cuda.install()
    assert len(pip.calls) == 4 and (home / "installed").exists()


def test_too_little_room_is_seen_before(home, pip, monkeypatch):
    monkeypatch.setattr(cuda.shutil, "disk_usage", lambda path: SimpleNamespace(free=1.25e9))
    with pytest.raises(InputError, match="need 5 GB in .*, where 1.2 GB are free; make room, or"):
        cuda.install()
    assert pip.calls == []


# ---------------------------------------------------------------- the second start


@pytest.fixture
def started(monkeypatch):
    """What the process was begun again with: (program, arguments, environment)."""
    calls = []
    monkeypatch.setattr(cuda.os, "execve", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize("theirs", [None, "/their/libraries"])
def test_it_begins_again_with_the_environment(home, started, monkeypatch, theirs):
    for name in cuda.wanted_environment():
        monkeypatch.delenv(name, raising=False)
    if theirs:
        monkeypatch.setenv("LD_LIBRARY_PATH", theirs)
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-I", "lab/__main__.py", "digits", "--x", "a b"]
    )
    assert not cuda.is_set()
    cuda.begin_again()
    program, arguments, environment = started[0]
    assert program == arguments[0] == sys.executable
    assert arguments[1:] == ["-I", "lab/__main__.py", "digits", "--x", "a b"]
    folders = environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert folders[0].endswith("nvidia/cudnn/lib") and folders[8].endswith("lib/plugin/gpu")
    assert folders[9:] == ([theirs] if theirs else [])
    assert (environment["CUDA_HOME"], environment["CUDA_MODULE_LOADING"]) == (str(home), "LAZY")
    assert environment["PATH"] == os.environ["PATH"]


def test_it_does_not_begin_a_third_time(home, pip, machine, started, monkeypatch, capsys):
    """MindSpore puts folders of its own before ours while it is loaded."""
    machine(driver=Driver())
    monkeypatch.setattr(cuda, "begun_by_the_door", lambda: True)
    for name, value in cuda.wanted_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mindspore/lib:" + os.environ["LD_LIBRARY_PATH"])
    cuda.ready()
    assert started == [] and pip.calls == []
    assert capsys.readouterr().out.startswith("device GPU: Some Card")


def test_what_run_sh_did_not_begin_is_left_alone(machine, started, pip, monkeypatch):
    """Such as Flower's processes, and Python's users."""
    machine()
    for words in (["python", "app.py"], ["python", "-I", "/else/lab/__main__.py", "digits"]):
        monkeypatch.setattr(sys, "orig_argv", words)
        cuda.ready()
    assert started == [] and pip.calls == []
    monkeypatch.setattr(sys, "orig_argv", ["python", "-I", str(cuda.ROOT / "lab/__main__.py"), "x"])
    with pytest.raises(InputError, match="no NVIDIA driver"):
        cuda.ready()


def test_the_requirements_are_pinned_and_all_found():
    """Each folder of the loader's path is that of a package, and the other way round."""
    lines = [line.split("#")[0].strip() for line in cuda.REQUIREMENTS.read_text().splitlines()]
    names = [line.split("==")[0] for line in lines if line]
    assert all("==" in line for line in lines if line)
    assert sorted(names) == sorted(
        f"nvidia-{name.replace('_', '-')}-cu11" for name in cuda.PACKAGES
    )
