"""MindSpore's target: the CPU, or a device that has shown that it computes right."""

import mindspore as ms

import fpl  # noqa: F401, I001  (first: it sets what MindSpore reads while it is loaded)
from lab.device import cuda
from lab.shell.errors import InputError


def use_device(name):
    """Hand MindSpore its target, which it takes once, before the first computation.

    Raises InputError where MindSpore does not find it, and where it computes wrong.
    """
    set_target(name)
    if name != "CPU":
        from lab.device import selfcheck  # which a run on the CPU does not load

        selfcheck.demand(name)
        print(f"device {name}: it computes as it should; ./run.sh check-device shows how exactly")


def set_target(name):
    """`use_device` without a look at what it computes. Raises InputError."""
    if name == "GPU":
        cuda.ready()
    try:
        if ms.get_context("device_target") != name:
            ms.set_device(name)
    except RuntimeError as error:
        raise InputError(
            f"--device is {name}, which MindSpore does not find here; install it for "
            f"{name} or leave the flag away"
        ) from error
    if name == "GPU":  # products of float32 with all their 24 bits, and not the 11 of TF32
        ms.device_context.gpu.op_precision.conv_allow_tf32(False)
        ms.device_context.gpu.op_precision.matmul_allow_tf32(False)
