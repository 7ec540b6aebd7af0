"""What a worker process does first, whichever engine it belongs to: it takes a core."""

import contextlib
import functools
import os
import socket

import fpl
from lab.shell.cores import granted


@functools.cache
def own_core():
    """Bind this process to a core that no other worker of the machine has. -> the core or None.

    Free to move, two workers with a thread each took 1.3 times as long. A process binds itself
    after a first product of matrices: the bits of a product depend on how many cores the process
    may use when it computes its first one, and shall be those of the loop. Where a container
    grants fewer cores than there are, others may have a better right to any of them.
    """
    product(fpl.Tensor([[1.0]], fpl.ms.float32)).asnumpy()
    if not hasattr(os, "sched_setaffinity") or granted() < len(os.sched_getaffinity(0)):
        return None
    for core in sorted(os.sched_getaffinity(0)):
        if taken(core):
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setaffinity(int(thread), {core})
            return core
    return None


@fpl.ms.jit
def product(x):
    return fpl.ops.matmul(x, x)


held = []  # the socket stays open until this process ends, whatever ends it


def taken(core):
    """Take a core for this process, unless another worker has it. Its sign is a socket's name."""
    sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sign.bind(f"\0fpl core {core}")
    except OSError:
        sign.close()
        return False
    held.append(sign)
    return True
