"""NVIDIA's side of MindSpore: is a card there, its libraries, and the environment they want.

MindSpore's wheel holds a plugin for CUDA 11, but neither CUDA's libraries nor any word about them.
They are packages, which go into .venv at the first `--device GPU`. Where they lie is read by the
system's loader as a process begins, so ours begins once more, as it was typed, with that said.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from lab.shell.errors import InputError
from lab.shell.files import locked, write_whole

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-gpu.txt"
HOME = Path(sys.prefix, "cuda")  # beside the packages, and goes with them
PACKAGES = ("cudnn", "cublas", "cuda_runtime", "cuda_nvrtc", "curand", "cufft", "cusolver")
PACKAGES += ("cusparse",)
ROOM = 5e9  # bytes: 1.7 GB come, and 3.0 GB lie there in the end
# MindSpore asks it for its version, which says which of its plugins is loaded.
NVCC = '#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n'
NEXT = "leave the flag away to train on the CPU"
MAJOR, MINOR = 75, 76  # what cuDeviceGetAttribute calls the two numbers of a capability


class Card(NamedTuple):
    """The first card that a process may use."""

    name: str
    capability: tuple  # such as (9, 0)
    memory: int  # bytes
    cuda: tuple  # the newest CUDA that the driver knows


def ready():
    """Have all that MindSpore loads for a GPU; say which card it is. Raises InputError.

    Does not come back the first time: the process begins again. A process that was not begun by
    run.sh, such as Flower's, is left as it is.
    """
    if not begun_by_the_door():
        return
    card = found()
    check(card)
    if not is_set():
        install()
        begin_again()
    print(line(card))


def line(card):
    """What is said of a card."""
    text = (
        f"device GPU: {card.name}, {card.memory / 1e9:.0f} GB, compute capability "
        f"{card.capability[0]}.{card.capability[1]}, driver for CUDA {card.cuda[0]}.{card.cuda[1]}"
    )
    if card.capability >= (9, 0):
        text += (
            "\nMindSpore's wheel holds no machine code for this card: the driver compiles its "
            f"kernels at their first use, for many minutes, and keeps them in {HOME / 'kernels'}"
        )
    return text


# ---------------------------------------------------------------- the card


def found():
    """What NVIDIA's driver says of its first card. Raises InputError."""
    system = platform.system(), platform.machine()
    if system != ("Linux", "x86_64"):
        raise InputError(
            f"--device is GPU, on {system[0]} and {system[1]}; MindSpore computes on a GPU on "
            f"Linux and x86_64 alone: {NEXT}"
        )
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise InputError(
            f"--device is GPU, and no NVIDIA driver is here (libcuda.so.1); install it, or {NEXT}"
        ) from error
    status = driver.cuInit(0)
    number = ask(driver.cuDeviceGetCount) if not status else 0
    if not number:
        raise InputError(
            f"--device is GPU, and NVIDIA's driver finds no card (its status is {status}); see "
            f"what nvidia-smi says, or {NEXT}"
        )
    name = ctypes.create_string_buffer(100)
    driver.cuDeviceGetName(name, len(name), 0)
    version = ask(driver.cuDriverGetVersion)
    return Card(
        name.value.decode(errors="replace"),
        tuple(ask(driver.cuDeviceGetAttribute, which, 0) for which in (MAJOR, MINOR)),
        ask(driver.cuDeviceTotalMem_v2, 0, kind=ctypes.c_size_t),
        (version // 1000, version % 1000 // 10),
    )


def ask(function, *arguments, kind=ctypes.c_int):
    """The number that a function of the driver writes where it is told."""
    answer = kind()
    function(ctypes.byref(answer), *arguments)
    return answer.value


def check(card):
    """Refuse a card that MindSpore cannot use. Raises InputError."""
    if card.cuda < (11, 0):
        raise InputError(
            f"--device is GPU, and NVIDIA's driver is for CUDA {card.cuda[0]}.{card.cuda[1]}; it "
            f"must be for 11.0 or newer (450.80): renew the driver, or {NEXT}"
        )
    if card.capability < (6, 0):
        raise InputError(
            f"--device is GPU, and {card.name} has compute capability {card.capability[0]}."
            f"{card.capability[1]}; it must be at least 6.0: {NEXT}"
        )


# ---------------------------------------------------------------- the libraries


def install():
    """Put requirements-gpu.txt into .venv, unless it is there. Raises InputError.

    The stamp goes before anything changes and comes back last, so that half of it never counts.
    """
    with locked(HOME, wait=True):
        stamp, wanted = HOME / "installed", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        free = shutil.disk_usage(HOME).free
        if free < ROOM:
            raise InputError(
                f"--device is GPU, whose libraries need {ROOM / 1e9:.0f} GB in {sys.prefix}, where "
                f"{free / 1e9:.1f} GB are free; make room, or {NEXT}"
            )
        stamp.unlink(missing_ok=True)
        print(
            f"fpl: installing {REQUIREMENTS.name} into {sys.prefix} (once; 1.7 GB to fetch, 3 GB "
            "in the end)",
            file=sys.stderr,
        )
        pip = [sys.executable, "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--no-deps", "-r", str(REQUIREMENTS)], stdout=sys.stderr)
        if done.returncode:
            raise InputError(
                "--device is GPU, and its libraries could not be installed, see above; the same "
                f"command goes on, or {NEXT}"
            )
        (HOME / "bin").mkdir(exist_ok=True)
        (HOME / "bin" / "nvcc").write_text(NVCC)
        (HOME / "bin" / "nvcc").chmod(0o755)
        write_whole(stamp, lambda part: Path(part).write_text(wanted))


# ---------------------------------------------------------------- the environment


def wanted_environment():
    """{variable: value} that MindSpore's plugin, CUDA and the loader read."""
    import mindspore

    packages = Path(mindspore.__file__).parents[1]
    folders = [packages / "nvidia" / name / "lib" for name in PACKAGES]
    folders.append(packages / "mindspore" / "lib" / "plugin" / "gpu")
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders)),
        "CUDA_HOME": str(HOME),
        "CUDA_MODULE_LOADING": "LAZY",  # or the driver compiles every kernel there is
        "CUDA_CACHE_PATH": str(HOME / "kernels"),
        "CUDA_CACHE_MAXSIZE": str(4 * 10**9),
    }


def is_set():
    """Whether this process began with that environment. MindSpore itself adds to its paths."""
    return all(
        os.environ.get(name) == value
        for name, value in wanted_environment().items()
        if name != "LD_LIBRARY_PATH"
    )


def begin_again():
    """This process once more, as it was typed, with the environment that is wanted."""
    wanted = wanted_environment()
    theirs = os.environ.get("LD_LIBRARY_PATH")
    if theirs:
        wanted["LD_LIBRARY_PATH"] += os.pathsep + theirs
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def begun_by_the_door():
    """Whether this process is `python -I ROOT/lab/__main__.py COMMAND ...`."""
    door = str(ROOT / "lab" / "__main__.py")
    return any(os.path.realpath(word) == door for word in sys.orig_argv[1:3])
