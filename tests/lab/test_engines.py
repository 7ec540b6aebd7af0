"""A round over the workers of a real Ray on this machine: the loop's bytes, whatever happens to a worker."""
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

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Tensor

import fpl
from lab import baselines, cli, compare, data, engines

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                              reason="ray is not installed, --engine ray needs it: pip install -r requirements-ray.txt")
# one batch shape, the one of test_training.py: each process compiles once
CFG = fpl.complete(fpl.Config(clients=(2, 1, 1, 1), width=2, batch_size=4, local_epochs=2, rounds=2, lr=0.05, tau=0.1))


BLANK = {domain: (np.zeros((800, 32, 32, 3), np.uint8), np.zeros(800, np.int32)) for domain in fpl.TASKS["digits"].clients}


def some_clients(sizes=(4, 8, 4, 12, 4)):
    rng = np.random.default_rng(0)
    return [fpl.Client(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.choice(10, n).astype(np.int32), "mnist") for n in sizes]


def everything(engine, method=fpl.FPL):
    """Names -> bytes of all that two rounds leave."""
    clients, found = some_clients(), {}
    for state, log in fpl.run(clients, {"mnist": clients[1][:2]}, CFG, engine=engine, method=method):
        arrays = {**state.params, **state.stats, **state.prototypes._asdict(), "means": log["class_means"], "counts": log["counts"]}
        arrays |= {f"{m} {name}": value for m, kept in state.memory.items() for name, value in kept.items()}
        found |= {f"{log['round']} {name}": np.asarray(value).tobytes() for name, value in arrays.items()}
        found |= {f"{log['round']} {name}": repr(log[name]) for name in ("losses", "accuracy")}
    return found


def made_up(client_update):
    """A Method whose clients do no training. client_update(m) -> the loss that client m tells; it goes to the workers whole."""
    def client(state, memory, client, rng, cfg):
        loss = client_update(next(m for m in range(5) if len(client.labels) == 1 + m))
        return fpl.ClientUpdate(state.params, state.stats, np.zeros((10, 16), np.float32), np.zeros(10, int), loss, memory)
    return fpl.Method("made up", client, fpl.FPL.server_update, {})


def one_round(engine, client_update):
    """client number -> loss, of made-up clients with 1 to 5 images."""
    return fpl.server_round(fpl.init_state(CFG), some_clients(range(1, 6)), CFG, engine, made_up(client_update))[1]["losses"]


@pytest.fixture(scope="module")
def cluster():
    """A local Ray of two workers, begun by a process that allows two threads; afterwards nothing of it is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.delenv("RAY_ADDRESS", raising=False)
        with engines.opened("ray", workers=2) as engine:
            patch.undo()
            yield engine
            log_dir = next(word for process in ray_processes() for word in process.cmdline() if word.startswith("--log_dir="))
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
def test_two_rounds_of_fpl_leave_the_bytes_of_the_loop(cluster):
    assert everything(cluster) == everything(map)


@with_ray
def test_a_method_with_memory_leaves_the_bytes_of_the_loop(cluster):
    method = baselines.feddyn()
    assert everything(cluster, method) == everything(map, method)


@with_ray
def test_a_worker_killed_in_mid_round_changes_no_byte(cluster, tmp_path):
    """The first worker that has client 3 (12 images) trains it, tells its pid and waits for its end."""
    told = str(tmp_path / "pid")

    def client(state, memory, client, rng, cfg):
        update = fpl.FPL.client_update(state, memory, client, rng, cfg)
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
        found = everything(cluster, fpl.FPL._replace(client_update=client))
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1 and not psutil.pid_exists(killed[0])
    assert found == everything(map)


@with_ray
def test_a_workers_threads_are_one_whatever_the_driver_allows(cluster):
    assert set(one_round(cluster, lambda m: int(os.environ["OMP_NUM_THREADS"])).values()) == {1}
    assert set(one_round(cluster, lambda m: ms.get_context("runtime_num_threads")).values()) == {1}


@with_ray
@pytest.mark.parametrize("kind", [FloatingPointError, fpl.InputError])
def test_an_error_on_a_worker_arrives_as_from_the_loop(cluster, kind):
    def client_update(m):
        if m in (2, 3):
            raise kind(f"local epoch {m}, batch 1: the loss is nan")
        return 0.0

    caught = []
    for engine in (cluster, map):
        with pytest.raises(kind) as error:
            one_round(engine, client_update)
        caught.append((type(error.value), str(error.value)))
    assert caught[0] == caught[1] and "local epoch 2, batch 1" in caught[0][1]
    assert one_round(cluster, float) == {m: float(m) for m in range(5)}  # and the engine still works


@with_ray
def test_nothing_of_ray_listens_beyond_the_loopback(cluster):
    one_round(cluster, float)  # the workers are there
    pids = {os.getpid(), *(process.pid for process in ray_processes())}
    addresses = [c.laddr.ip for c in psutil.net_connections("inet")
                 if c.pid in pids and (c.status == psutil.CONN_LISTEN or c.type == socket.SOCK_DGRAM)]
    assert len(addresses) > 4 and set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@with_ray
def test_results_come_in_the_order_of_the_clients_however_long_each_takes(cluster):
    assert list(one_round(cluster, lambda m: time.sleep(0.1 * (5 - m)) or float(m)).items()) == [(m, float(m)) for m in range(5)]


# ------------------------------------------------ without Ray

def fake_ray(log, cpus=1):
    """What the engine uses of ray, in this process: a task runs when its result is asked for. log: (what, value)."""
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
            return lambda: function(*(a.value if isinstance(a, types.SimpleNamespace) else a for a in arguments))
        return types.SimpleNamespace(remote=submit)

    def get(reference):
        log.append(("get", None))
        return reference()

    return types.SimpleNamespace(put=put, get=get, remote=lambda **options: lambda function: remote(function, **options),
                                 cluster_resources=lambda: {"CPU": cpus},
                                 exceptions=types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))


def two_rounds(engine, memory):
    clients = some_clients(range(1, 6))
    cfg, state = dataclasses.replace(CFG, participation=0.6), fpl.init_state(CFG)._replace(memory=memory)
    for _ in range(2):
        state, _ = fpl.server_round(state, clients, cfg, engine, made_up(float))
    return clients, [fpl.participants(cfg, 5, number) for number in (1, 2)]


def test_images_are_sent_once_a_run_and_the_network_once_a_round():
    log = []
    clients, chosen = two_rounds(engines.over(fake_ray(log)), {})
    sent = [value for what, value in log if what == "put"]
    images = [value for value in sent if isinstance(value, fpl.Client)]
    assert sorted(map(id, images)) == sorted(id(clients[m]) for m in set(chosen[0] + chosen[1]))
    assert len(sent) == len(images) + 2
    engine = engines.over(fake_ray(log))
    two_rounds(engine, {})
    del log[:]
    again, _ = two_rounds(engine, {})  # another run has clients of its own
    assert {id(value) for what, value in log if what == "put" and isinstance(value, fpl.Client)} == {
        id(again[m]) for m in set(chosen[0] + chosen[1])}


def test_a_client_is_sent_its_own_memory_and_the_servers_but_no_other_clients():
    log, memory = [], {m: {"own": Tensor(np.float32(m))} for m in range(5)} | {"server": {}}
    _, chosen = two_rounds(engines.over(fake_ray(log)), memory)
    assert all(set(value[0].memory) == {"server"} for what, value in log if what == "put" and not isinstance(value, fpl.Client))
    tasks = [arguments for what, arguments in log if what == "submit"]
    assert [(float(own["own"]), m) for _, own, _, m in tasks] == [(m, m) for turns in chosen for m in turns]


def test_few_tasks_wait_at_a_time_however_many_clients_there_are():
    log, state = [], fpl.init_state(CFG)
    cfg = dataclasses.replace(CFG, clients=(30, 0, 0, 0))
    fpl.server_round(state, some_clients([1] * 30), cfg, engines.over(fake_ray(log)), made_up(float))
    waiting = np.cumsum([{"submit": 1, "get": -1}.get(what, 0) for what, _ in log])
    assert waiting.max() == 4 and waiting[-1] == 0


def test_without_ray_the_command_line_says_what_to_install_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # as import has it for what is not there
    monkeypatch.setattr(data, "load", lambda *_: (BLANK, {}, {}))
    assert fpl.main(["digits", "--engine", "ray", "--clients", "1,1,1,1"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("fpl: --engine ray") and err.count("\n") == 1 and "-m pip install -r " in err
    assert err.rstrip().endswith("requirements-ray.txt") and os.path.exists(err.split()[-1])
    assert not out and not os.listdir(tmp_path)


def test_the_flag_chooses_the_engine_and_the_bar_counts_its_clients(tmp_path, monkeypatch):
    asked, done = [], []

    @contextlib.contextmanager
    def opened(name):
        asked.append(name)
        try:
            yield lambda function, items: (f"by the engine {function(m)}" for m in items)
        finally:
            asked.append("closed")

    def run(clients, tests, cfg, state, engine):
        done.extend(engine(str, [1, 2]))
        raise KeyboardInterrupt
        yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "opened", opened)
    monkeypatch.setattr(fpl, "run", run)
    monkeypatch.setattr(data, "load", lambda *_: (BLANK, {}, {}))
    monkeypatch.setattr(cli.report, "describe", lambda *_: "")
    assert fpl.main(["digits", "--engine", "ray", "--clients", "1,1,1,1"]) == 130
    assert asked == ["ray", "closed"] and done == ["by the engine 1", "by the engine 2"]


def test_compare_hands_its_engine_to_each_run(tmp_path, monkeypatch):
    def train(run, part, data_sets, engine):
        done.extend(engine(str, [1, 2]))
        return [], "it only counts"

    done, runs = [], [compare.Run("fpl", fpl.FPL, CFG, str(tmp_path / f"seed-{seed}"), {}) for seed in range(2)]
    monkeypatch.setattr(compare, "train", train)
    compare.train_all(runs, (), 2, lambda function, items: (f"by the engine {function(m)}" for m in items))
    assert done == 2 * ["by the engine 1", "by the engine 2"]


def test_ray_is_refused_beside_another_device_than_the_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fpl.main(["digits", "--engine", "ray", "--device", "GPU"]) == 2
    assert "with --engine ray it must be CPU" in capsys.readouterr().err
