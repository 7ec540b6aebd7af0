"""A round over a real Ray on this machine: the loop's bytes, whatever happens to a worker."""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
import types

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import mindspore as ms
import numpy as np
import psutil
import pytest
from marks import with_deep
from rounds import everything, some_clients
from tiny import DOMAINS, TINY

from lab.many import cluster, engines
from lab.methods import baselines, experiment
from lab.run import train
from lab.shell.errors import InputError

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed, --engine ray needs it: pip install -r requirements-ray.txt",
)
BLANK = {
    domain: (np.zeros((800, 32, 32, 3), np.uint8), np.zeros(800, np.int32))
    for domain in DOMAINS["digits"]
}


def instead(engine, turn):
    """The engine, with another function for the clients' turns; it goes to the workers whole."""

    def instead_of_clients(function, items):
        return engine(function if function is fpl.count_right else turn, items)

    return instead_of_clients


def made_up(loss_of):
    """The turn of a client that does no training. loss_of(m) -> what client m tells.

    Client m holds m + 1 images.
    """

    def turn(arguments):
        state, client, *_ = arguments
        loss = float(loss_of(len(client.labels) - 1))
        means, counts = np.zeros((10, 16), np.float32), np.zeros(10, int)
        return fpl.ClientUpdate(state.params, state.stats, means, counts, loss)

    return turn


def one_round(engine, loss_of):
    """{client number: loss} of made-up clients."""
    clients = some_clients(range(1, 6))
    start, engine = fpl.init_state(TINY), instead(engine, made_up(loss_of))
    return fpl.server_round(start, clients, TINY, engine)[1]["losses"]


@pytest.fixture(scope="module")
def ray_pair():
    """A local Ray of two workers, begun by a process that allows two threads.

    Afterwards nothing of it is left.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.delenv("RAY_ADDRESS", raising=False)
        with engines.opened("ray", 2) as engine:
            patch.undo()
            yield engine
            log_dir = next(
                word
                for process in ray_processes()
                for word in process.cmdline()
                if word.startswith("--log_dir=")
            )
            folder = log_dir.removeprefix("--log_dir=").split("/session_")[0]
    psutil.wait_procs(ray_processes(), timeout=20)
    assert not ray_processes() and not os.path.exists(folder)


def ray_processes():
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()  # of a process that has ended: none
            if any(word.startswith("ray::") or "/site-packages/ray/" in word for word in words):
                found.append(process)
    return found


# ------------------------------------------------ with Ray


@with_ray
@pytest.mark.slow
def test_two_rounds_of_fpl_leave_the_loops_bytes(ray_pair):
    assert everything(ray_pair) == everything(map)


@with_ray
@pytest.mark.slow
@with_deep
def test_methods_with_memory_leave_the_loops_bytes(ray_pair):
    server_round = baselines.feddyn().server_round
    found = everything(ray_pair, server_round)
    assert "2 3 h" in found and found == everything(map, server_round)


@with_ray
@pytest.mark.slow
@with_deep
def test_a_worker_killed_mid_round_changes_no_byte(ray_pair, tmp_path):
    """The first worker that has client 3 (12 images) trains it, tells its pid, awaits its end."""
    told = str(tmp_path / "pid")

    def turn(arguments):
        state, client, *_ = arguments
        update = fpl.client_turn(arguments)
        if state.round == 1 and len(client.labels) == 12 and not os.path.exists(told):
            with open(told + ".part", "w") as file:
                file.write(str(os.getpid()))
            os.rename(told + ".part", told)
            time.sleep(120)
        return update

    def kill():
        while not os.path.exists(told) and not over.wait(0.05):
            pass
        with contextlib.suppress(FileNotFoundError), open(told) as file:
            killed.append(int(file.read()))
            os.kill(killed[0], signal.SIGKILL)

    killed, over = [], threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = everything(instead(ray_pair, turn))
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1 and not psutil.pid_exists(killed[0])
    assert found == everything(map)


@with_ray
def test_workers_have_one_thread_whatever_the_driver_allows(ray_pair):
    assert set(one_round(ray_pair, lambda m: int(os.environ["OMP_NUM_THREADS"])).values()) == {1}
    assert set(one_round(ray_pair, lambda m: ms.get_context("runtime_num_threads")).values()) == {1}


@with_ray
@pytest.mark.parametrize("kind", [FloatingPointError, InputError])
def test_a_workers_error_arrives_as_from_the_loop(ray_pair, kind):
    def loss_of(m):
        if m in (2, 3):
            raise kind(f"client {m} has nothing")
        return 0.0

    caught = []
    for engine in (ray_pair, map):
        with pytest.raises(kind) as error:
            one_round(engine, loss_of)
        caught.append((type(error.value), str(error.value)))
    assert caught[0] == caught[1] and "client 2 has" in caught[0][1]
    assert one_round(ray_pair, float) == {
        m: float(m) for m in range(5)
    }  # and the engine still works


@with_ray
def test_nothing_of_ray_listens_beyond_the_loopback(ray_pair):
    one_round(ray_pair, float)  # the workers are there
    pids = {os.getpid(), *(process.pid for process in ray_processes())}
    addresses = [
        c.laddr.ip
        for c in psutil.net_connections("inet")
        if c.pid in pids and (c.status == psutil.CONN_LISTEN or c.type == socket.SOCK_DGRAM)
    ]
    assert len(addresses) > 4 and set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@with_ray
def test_results_come_in_the_clients_order(ray_pair):
    """They come in that order however long each client takes."""
    assert list(one_round(ray_pair, lambda m: time.sleep(0.1 * (5 - m)) or float(m)).items()) == [
        (m, float(m)) for m in range(5)
    ]


# ------------------------------------------------ without Ray


def fake_ray(log, cpus=1):
    """What the engine uses of ray, in this process; log takes (what, value) of each call.

    A task runs when its result is asked for.
    """

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        pass

    def put(value):
        log.append(("put", value))
        return types.SimpleNamespace(value=value)

    def remote(function, **_):
        def submit(*arguments):
            log.append(("submit", arguments))
            return lambda: function(
                *(a.value if isinstance(a, types.SimpleNamespace) else a for a in arguments)
            )

        return types.SimpleNamespace(remote=submit)

    def get(reference):
        log.append(("get", None))
        return reference()

    return types.SimpleNamespace(
        put=put,
        get=get,
        remote=lambda **options: lambda function: remote(function, **options),
        cluster_resources=lambda: {"CPU": cpus},
        exceptions=types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
    )


def two_rounds(engine, server_round=fpl.server_round):
    """The clients, and who of them takes part in each of two rounds without training."""
    clients, engine = some_clients(range(1, 6)), instead(engine, made_up(float))
    cfg, state = dataclasses.replace(TINY, participation=0.6), fpl.init_state(TINY)
    for _ in range(2):
        state, _ = server_round(state, clients, cfg, engine)
    return clients, [fpl.participants(cfg, 5, number) for number in (1, 2)]


def sent(log, kind=np.ndarray):
    """What was put into Ray's store, of one kind."""
    return [value for what, value in log if what == "put" and isinstance(value, kind)]


def test_images_are_sent_once_a_run():
    """The network is sent once a round."""
    log = []
    engine = cluster.over(fake_ray(log))
    for _ in range(2):  # the second run has clients of its own
        log.clear()
        clients, chosen = two_rounds(engine)
        took_part = {id(clients[m].images) for m in chosen[0] + chosen[1]}
        assert sorted(map(id, sent(log))) == sorted(took_part)
        assert [state.round for state in sent(log, fpl.ServerState)] == [0, 1]
        assert len(sent(log, object)) == len(took_part) + 2


def test_a_client_is_sent_its_own_memory_only():
    """It is sent no other client's."""
    log = []
    clients, chosen = two_rounds(cluster.over(fake_ray(log)), remembering_round)
    assert not any(hasattr(state, "memory") for state in sent(log, tuple))
    tasks = [arguments for what, arguments in log if what == "submit"]
    received = [float(arguments[-1][0]) for arguments in tasks]
    assert received == [*chosen[0], *chosen[1]]


def remembering_round(state, clients, cfg, engine):
    """Each client is sent a number that only it remembers: its own."""
    memory = {m: {"own": float(m)} for m in range(len(clients))}
    received = {m: fpl.tensors(kept["own"]) for m, kept in memory.items()}
    full = baselines.MethodState(*state[:4], memory)
    params, stats, told = baselines.train(full, clients, cfg, engine, max, received)
    return baselines.MethodState(state.round + 1, params, stats, state.prototypes, memory), told


def test_few_tasks_wait_at_a_time():
    """So it is however many clients there are."""
    log, state = [], fpl.init_state(TINY)
    engine = instead(cluster.over(fake_ray(log)), made_up(float))
    fpl.server_round(state, some_clients([1] * 30), TINY, engine)
    waiting = np.cumsum([{"submit": 1, "get": -1}.get(what, 0) for what, _ in log])
    assert waiting.max() == 4 and waiting[-1] == 0


def test_a_lost_worker_has_its_clients_place():
    """The lost worker is named by its client's place."""
    ray = fake_ray([])

    def get(reference):
        raise ray.exceptions.RayError("gone")

    ray.get = get
    with pytest.raises(InputError, match=r"Ray lost client 0 of this round \(gone\).*--resume"):
        two_rounds(cluster.over(ray))


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    """It leaves nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # as import has it for what is not there
    monkeypatch.setattr(train, "load", lambda *_: (BLANK, BLANK, {}))
    assert train.main(["digits", "--engine", "ray", "--clients", "1,1,1,1"]) == 2
    out, err = capsys.readouterr()
    assert (
        err.startswith("fpl: --engine ray") and err.count("\n") == 1 and "-m pip install -r " in err
    )
    assert err.rstrip().endswith("requirements-ray.txt") and os.path.exists(err.split()[-1])
    assert not out and not os.listdir(tmp_path)


def test_the_flag_chooses_the_engine(tmp_path, monkeypatch):
    asked, done = [], []

    @contextlib.contextmanager
    def opened(name, workers, cfg):
        asked.append(name)
        try:
            yield lambda function, items, done: (f"by the engine {function(m)}" for m in items)
        finally:
            asked.append("closed")

    def run(clients, tests, cfg, state, engine, server_round):
        done.extend(engine(str, [1, 2]))
        raise KeyboardInterrupt
        yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "opened", opened)
    monkeypatch.setattr(train.checkpoint, "resume", lambda *_: (None, []))
    monkeypatch.setattr(fpl, "run", run)
    monkeypatch.setattr(train, "load", lambda *_: (BLANK, BLANK, {}))
    monkeypatch.setattr(train.screen, "describe", lambda *_: "")
    assert train.main(["digits", "--engine", "ray", "--clients", "1,1,1,1"]) == 130
    assert asked == ["ray", "closed"] and done == ["by the engine 1", "by the engine 2"]


def test_compare_hands_its_engine_to_each_run(tmp_path, monkeypatch):
    def only_count(run, part, data, task, engine):
        done.extend(engine(str, [1, 2]))
        return [], "it only counts"

    def engine(function, items, done):
        return (f"by the engine {function(m)}" for m in items)

    done, folders = [], [str(tmp_path / f"seed-{seed}") for seed in range(2)]
    runs = [experiment.Run("fpl", baselines.FPL, TINY, folder, {}) for folder in folders]
    monkeypatch.setattr(experiment, "train", only_count)
    experiment.train_all(runs, (), None, 2, engine)
    assert done == 2 * ["by the engine 1", "by the engine 2"]


def test_the_bar_counts_clients_only():
    """It counts no part of a test set."""
    moves = []
    bar = types.SimpleNamespace(update=lambda: moves.append(1))
    engine = train.counting(bar, engines.loop)
    assert list(engine(abs, [-1, -2])) == [1, 2] and len(moves) == 2
    assert fpl.evaluate(fpl.init_state(TINY), {"mnist": some_clients()[1][:2]}, engine)
    assert len(moves) == 2


@pytest.mark.parametrize(
    "cores, free, turns, device, name",
    [
        (2, None, 20, "CPU", "processes"),
        (1, None, 20, "CPU", "loop"),
        (8, 1.7e9, 20, "CPU", "loop"),  # memory for one worker
        (8, None, 1, "CPU", "loop"),
        (8, None, 20, "GPU", "loop"),
    ],
)
def test_processes_are_the_default_where_they_help(monkeypatch, cores, free, turns, device, name):
    monkeypatch.setattr(engines, "granted", lambda: cores)
    monkeypatch.setattr(engines, "memory", lambda: free)
    cfg = dataclasses.replace(TINY, device=device)
    assert engines.chosen(None, turns, cfg)[0] == name
    assert engines.chosen("loop", turns, cfg)[0] == "loop"


@pytest.mark.parametrize(
    "cores, free, turns, workers", [(4, 64e9, 20, 4), (8, 64e9, 3, 3), (8, 5e9, 20, 5)]
)
def test_workers_fit_cores_clients_and_memory(monkeypatch, cores, free, turns, workers):
    monkeypatch.setattr(engines, "granted", lambda: cores)
    monkeypatch.setattr(engines, "memory", lambda: free)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in (None, "processes", "ray"):
        _, found, line = engines.chosen(name, turns, TINY)
        assert found == workers
        assert f"{workers} workers ({cores} cores, {turns} clients a round" in line


def test_ray_is_refused_beside_non_cpu_devices(tmp_path, monkeypatch, capsys):
    """The device is another than the CPU."""
    monkeypatch.chdir(tmp_path)
    assert train.main(["digits", "--engine", "ray", "--device", "GPU"]) == 2
    assert "with --engine ray it must be CPU" in capsys.readouterr().err
