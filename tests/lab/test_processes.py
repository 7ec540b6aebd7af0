"""A round over the cores of this machine: the loop's bytes, and no process that stays."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import psutil
import pytest
from marks import DEEP, with_deep
from rounds import everything, some_clients
from tiny import TINY

from lab.many import processes
from lab.methods import baselines
from lab.shell.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool():
    """Two workers; afterwards nothing of them is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")  # which no worker heeds
        with processes.opened(2) as engine:
            assert os.environ["OMP_NUM_THREADS"] == "2"
            yield engine
    assert not multiprocessing.active_children()


def turns(clients):
    """The items of a round without numbers."""
    state = fpl.init_state(TINY)
    return [(state, client, m) for m, client in enumerate(clients)]


def told(arguments):
    """The turn of a client that does no training: its number, its images, its worker."""
    _, client, m = arguments
    return m, len(client.labels), os.getpid()


def round_of(arguments):
    return arguments[0].round


def threads(arguments):
    return os.environ["OMP_NUM_THREADS"], len(os.sched_getaffinity(0))


def waiting(arguments):
    time.sleep(arguments[-1])


def diverging(arguments):
    raise FloatingPointError("the loss is not finite")


def killed_once(arguments):
    """The second client's worker dies the first time; the folder remembers."""
    _, client, m, folder = arguments
    mark = Path(folder, "died")
    if m == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)  # so that others are lost with it
    return m


def always_killed(arguments):
    os.kill(os.getpid(), signal.SIGKILL)


SOME = list(baselines.METHODS) if DEEP else ["feddyn"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_every_method_leaves_the_loops_bytes(pool, name):
    """With --deep the eight of Table 2."""
    server_round = baselines.METHODS[name].server_round
    found = everything(pool, server_round)
    assert found == everything(map, server_round)
    assert ("2 3 h" in found) == (name == "feddyn")  # its memory travels too


@with_deep
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_bytes_do_not_depend_on_the_workers(workers):
    with processes.opened(workers) as engine:
        assert everything(engine) == everything(map)


def test_images_lie_in_one_file_while_held(pool, monkeypatch):
    """A second round, and the evaluation, write none; with the run its files go."""
    written = []
    save = processes.np.save
    monkeypatch.setattr(processes.np, "save", lambda *a: written.append(a[0]) or save(*a))
    clients = some_clients()
    for _ in range(2):
        assert [m for m, *_ in pool(told, turns(clients))] == [0, 1, 2, 3, 4]
    assert len(written) == 5 and all(map(os.path.exists, written))
    del clients
    gc.collect()
    assert not any(map(os.path.exists, written))


def test_each_round_has_its_own_state(pool):
    clients = some_clients()
    for number in (3, 4):
        items = [(item[0]._replace(round=number), *item[1:]) for item in turns(clients)]
        state = items[0][0]
        assert set(pool(round_of, [(state, *item[1:]) for item in items])) == {number}


def test_progress_moves_as_clients_finish(pool):
    """It moves before a slow first client has come, and once for each."""
    seen, marks = [], []

    def done():
        seen.append(time.monotonic())

    items = [(*item, 3.0 if item[2] == 0 else 0.0) for item in turns(some_clients())]
    for _ in pool(waiting, items, done):
        marks.append(len(seen))
    assert marks[0] == 5 and len(seen) == 5
    assert seen[-1] - seen[0] > 1


def test_updates_come_in_the_clients_order(pool, monkeypatch):
    """The largest begins first, and a window of two is in no other order."""
    items = turns(some_clients(sizes=(1, 4, 2, 8, 3)))
    for window in (64, 2):
        monkeypatch.setattr(processes, "WINDOW", window)
        found = list(pool(told, items))
        assert [pair[:2] for pair in found] == [(0, 1), (1, 4), (2, 2), (3, 8), (4, 3)]


def test_a_worker_has_one_thread_and_one_core(pool):
    assert set(pool(threads, turns(some_clients()))) == {("1", 1)}


def test_a_workers_error_is_the_loops(pool):
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        list(pool(diverging, turns(some_clients())))
    assert len(list(pool(told, turns(some_clients())))) == 5


def test_a_killed_workers_clients_train_again(pool, tmp_path):
    items = [(*item, str(tmp_path)) for item in turns(some_clients())]
    assert list(pool(killed_once, items)) == [0, 1, 2, 3, 4]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_workers_that_always_die_are_one_line(pool):
    with pytest.raises(InputError, match=r"were killed 4 times in a round; look at the machine's"):
        list(pool(always_killed, turns(some_clients())))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(number, tmp_path):
    """Whatever ends the parent in the middle of a round, no worker and no file stays."""
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import test_processes as t\n"
        "if __name__ == '__main__':\n"
        "    from lab.shell.program import as_program\n"
        "    from lab.many import processes\n"
        "    def main():\n"
        "        with processes.opened(1) as engine:\n"
        "            list(engine(t.sleeping, t.turns(t.some_clients())))\n"
        "    as_program(main)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(program)
    tests = ROOT / "tests"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tests}:{tests / 'lab'}"}
    environment["TMPDIR"] = str(tmp_path)
    command = [sys.executable, str(script), str(ROOT), str(tests / "lab")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    ) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(number)
        gone, alive = psutil.wait_procs([worker], timeout=20)
    assert gone and not alive
    assert os.listdir(tmp_path) == ["parent.py"]
    assert parent.returncode == (-9 if number == signal.SIGKILL else 130)


def sleeping(arguments):
    print(os.getpid(), flush=True)
    time.sleep(120)
