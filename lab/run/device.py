"""MindSpore's target, and how many threads it works with."""

import os

import fpl  # noqa: F401, I001  (first: it sets what MindSpore reads while it is loaded)
import mindspore as ms

from lab.shell.errors import InputError


def use_device(name):
    """Hand MindSpore its target, which it takes once, before the first computation.

    Raises InputError where MindSpore does not find it.
    """
    try:
        if ms.get_context("device_target") != name:
            ms.set_device(name)
    except RuntimeError as error:
        raise InputError(
            f"--device is {name}, which MindSpore does not find here; install it for "
            f"{name} or leave the flag away"
        ) from error
    # Otherwise the calling thread spins while a kernel runs, and takes the core from it or from
    # another process. The results have the same bits. Other devices compute beside the caller.
    if name == "CPU":
        ms.runtime.launch_blocking()
    # OMP_NUM_THREADS=1 lets several runs share the cores; MindSpore's own pool does not read it.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and len(threads) < 4:  # a larger number is none of a machine's
        ms.set_context(runtime_num_threads=max(1, int(threads)))
