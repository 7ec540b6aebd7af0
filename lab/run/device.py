"""MindSpore's target."""

import mindspore as ms

import fpl  # noqa: F401, I001  (first: it sets what MindSpore reads while it is loaded)
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
