"""A command as a program: its exit status, its signals, and what goes wrong as one line."""

import contextlib
import errno
import os
import signal
import sys
import time

from lab.shell.errors import InputError
from lab.shell.words import one_line


def guarded(command, argv, stopped="Stopped.", prefix="fpl: "):
    """command(argv); what goes wrong is one line after the prefix and an exit status.

    0, or what the command returns: done. 1: the training diverged. 2: bad input, or a file that
    cannot be had or written. 130: interrupted. argv None: that of the process.
    """

    def tell(text):
        print(f"{prefix}{text}", file=sys.stderr)

    try:
        return command(sys.argv[1:] if argv is None else list(argv))
    except InputError as error:
        tell(one_line(error))
        return 2
    except BrokenPipeError:
        tell("nobody reads the output any more; what is finished is kept")
        return 2
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        step = "look at its rights and its disk, then give the same command again"
        if full:
            step = "make room, what is finished is kept"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
            step = "look at what is there, move it away and give the same command again"
        tell(f"{one_line(error)}; {step}")
        return 2
    except MemoryError as error:
        tell(
            f"{one_line(error) or 'the memory does not suffice'}; "
            "take less data or a smaller network"
        )
        return 2
    except FloatingPointError as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(f"\n{stopped}", file=sys.stderr)
        return 130


def endings():
    """The signals that end a run: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed.

    nohup has SIGHUP ignored, and so it stays; Windows has none.
    """
    hangup = getattr(signal, "SIGHUP", None)
    asked = hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if asked else [])]


def interrupter():
    """A handler of signals that raises KeyboardInterrupt.

    Within 2 s another signal does nothing, so that the ending is whole.
    """
    last = -10.0

    def interrupt(number, frame):
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            raise KeyboardInterrupt

    return interrupt


def as_program(main):
    """End the process with main's exit status."""
    # With 0, 1 or 2 closed (`>&-`), the next file that is opened takes the number,
    # and MindSpore's log would go into it.
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (to the end)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a path need not be spelled in the terminal's letters
        stream.reconfigure(errors="backslashreplace")
    # Once it has compiled, MindSpore answers Ctrl-C (SIGINT) by sending its own process SIGTERM.
    handler = interrupter()
    for number in endings():
        signal.signal(number, handler)
    try:
        status = main()
    except SystemExit as stop:  # --help
        status = stop.code
    except KeyboardInterrupt:  # while main told of the first one
        status = 130
    for number in endings():
        # The packages would tell in many lines that their ending was interrupted.
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError as error:
        if status == 0:
            print(f"fpl: the output cannot be written ({error.strerror})", file=sys.stderr)
        status = status or 2
        # Python flushes once more at its end, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        sys.stderr.flush()
    except OSError:  # the terminal is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(status)
