"""Flower: SuperNodes on the loopback end in the loop's model; what cannot be used is refused.

What needs Flower runs in its own environment, whose Python is FPL_FLOWER_PYTHON or that of
.venv-flower, and is skipped without one. The rest needs numpy and fpl alone.
"""

import contextlib
import dataclasses
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY

import fpl
from lab.many.flower import exchange
from lab.run import settings as run_settings
from lab.shell.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("FPL_FLOWER_PYTHON", ROOT / ".venv-flower/bin/python"))
# flwr imports protobuf first; with its compiled form MindSpore 2.9.0 then fails to import.
# MindSpore sets the variable for itself and all below it, so these tests inherit it in any case.
PROTOBUF = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
needs_flower = pytest.mark.skipif(
    not PYTHON.exists(),
    reason=f"no {PYTHON}: FPL_FLOWER_PYTHON names a Python that has "
    "requirements-flower.txt, ./run.sh flower makes one",
)


def run_config():
    """The keys and values of lab/many/flower/pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 does not read TOML")
    text = (ROOT / "lab/many/flower/pyproject.toml").read_text()
    return tomllib.loads(text)["tool"]["flwr"]["app"]["config"]


# ------------------------------------------------ the run config


def test_run_config_has_a_key_for_each_setting():
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(fpl.Config)}
    more = {*exchange.SERVER_ALONE, *exchange.NAMES, *run_settings.READING, "hold-out"}
    assert set(run_config()) == fields | more


def test_untouched_run_config_is_the_flagless_command_line():
    """An untouched run config is the command line without flags."""
    parsed = run_settings.parse(run_settings.settings_parser("", ""), ["digits"])
    assert exchange.settings(run_config())[:2] == parsed[:2]


def test_a_machine_without_the_folder_is_told_names():
    told = {"task": "folder", "domains": "photo,sketch", "classes": "cat,dog,fox", "size": 64}
    cfg, task, reading = exchange.settings({**run_config(), **told, "hold-out": "sketch"})
    assert list(task.clients) == ["photo", "sketch"] and task.classes == ("cat", "dog", "fox")
    assert (cfg.classes, cfg.clients, cfg.size) == (3, (2, 0), 64)
    assert reading == {"size": 64, "fit": "stretch", "rotation": "exif"}
    with pytest.raises(InputError, match="--data is not given, or empty; wanted DIR/<domain>"):
        exchange.settings({**run_config(), "task": "folder"})


def test_run_config_values_become_settings():
    cfg, _, _ = exchange.settings(
        {
            **run_config(),
            "clients": "1,0,2,0",
            "local-epochs": 3,
            "lr": 1,
            "seed": 7,
            "upcr-reduce": "sum",
        }
    )
    assert (cfg.clients, cfg.local_epochs, cfg.lr, cfg.seed, cfg.upcr_reduce) == (
        (1, 0, 2, 0),
        3,
        1.0,
        7,
        "sum",
    )


@pytest.mark.parametrize(
    "key, value",
    [
        ("rounds", 0),
        ("rounds", 1.5),
        ("rounds", "many"),
        ("seed", -1),
        ("lr", "nan"),
        ("task", "cars"),
        ("clients", "1,2"),
        ("clients", "0,0,0,0"),
        ("partition", "--help"),
        ("width", True),
    ],
)
def test_bad_run_config_values_are_one_line(key, value):
    """A bad value in the run config is refused in one line."""
    with pytest.raises(InputError) as refused:
        exchange.settings({**run_config(), key: value})
    assert (
        key in str(refused.value)
        and str(value) in str(refused.value)
        and "\n" not in str(refused.value)
    )


# ------------------------------------------------ what is refused

STATE = fpl.init_state(TINY)
WANTED = exchange.form(STATE)


def an_update(seed=0):
    """The groups of an update that is as it must be, of a client with 7 images."""
    rng = np.random.default_rng(seed)
    groups = {
        group: {name: rng.random(shape).astype(dtype) for name, (shape, dtype) in names.items()}
        for group, names in WANTED.items()
    }
    groups["classes"]["counts"] = np.array([3, 0, 1, 1, 0, 0, 2, 0, 0, 0])
    groups["classes"]["class_means"][groups["classes"]["counts"] == 0] = 0
    return groups


def test_a_sound_update_is_taken_and_arrives_unchanged():
    groups = an_update()
    assert exchange.refusal(groups, 0.5, 7, WANTED) is None
    again = exchange.up(exchange.update_of(groups, 0.5))
    assert again.keys() == groups.keys()
    for group in groups:
        assert again[group].keys() == groups[group].keys()
        assert all(
            np.array_equal(again[group][name], groups[group][name]) for name in groups[group]
        )


def test_the_servers_state_arrives_unchanged():
    prototypes = fpl.Prototypes(
        *(np.random.default_rng(0).random(a.shape).astype(a.dtype) for a in STATE.prototypes)
    )
    sent = exchange.down(STATE._replace(round=4, prototypes=prototypes))
    state = exchange.state_of(sent, 5)
    assert state.round == 4
    again = exchange.down(state)
    assert {group: again[group].keys() for group in again} == {
        group: sent[group].keys() for group in sent
    }
    assert all(
        np.array_equal(again[group][name], sent[group][name])
        for group in sent
        for name in sent[group]
    )


def changed(array, how, rng):
    """The array with one thing about it wrong."""
    if how in ("nan", "inf", "-inf"):
        array = array.astype(array.dtype if array.dtype.kind == "f" else np.float64)
        array.flat[rng.integers(array.size)] = float(how)
        return array
    return {
        "type": lambda: array.astype(np.float64 if array.dtype == np.float32 else np.int32),
        "order": lambda: array.astype(array.dtype.newbyteorder()),
        "longer": lambda: np.concatenate([array, array[:1]]),
        "deeper": lambda: array[None],
        "scalar": lambda: array.flat[0],
        "objects": lambda: np.array(None, object),
        "texts": lambda: array.astype(str),
    }[how]()


@given(st.data())
def test_wrong_arrays_are_refused_by_name(data):
    """An array of wrong shape, type or numbers is refused by name."""
    groups = an_update()
    group = data.draw(st.sampled_from(sorted(groups)))
    name = data.draw(st.sampled_from(sorted(groups[group])))
    how = data.draw(
        st.sampled_from(
            [
                "nan",
                "inf",
                "-inf",
                "type",
                "order",
                "longer",
                "deeper",
                "scalar",
                "objects",
                "texts",
            ]
        )
    )
    groups[group][name] = np.asarray(
        changed(groups[group][name], how, np.random.default_rng(data.draw(st.integers(0, 99))))
    )
    reason = exchange.refusal(groups, 0.5, 7, WANTED)
    assert f"{group} {name} " in reason and "\n" not in reason


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda g: g["params"].pop("linear.bias"), "params lacks 'linear.bias'"),
        (lambda g: g["stats"].update(extra=np.zeros(1)), "stats has 'extra'"),
        (lambda g: g.pop("classes"), "classes lacks"),
        (
            lambda g: g["stats"]["stem.bn.variance"].__setitem__(0, -1),
            "a variance must not be negative",
        ),
        (
            lambda g: g["params"]["linear.bias"].__setitem__(3, -1e38),
            "params linear.bias has 1e+38; its numbers must be within 1e+06",
        ),
        (
            lambda g: g["classes"]["class_means"].__setitem__((0, 2), 2e6),
            "classes class_means has 2e+06",
        ),
        (lambda g: g["classes"]["counts"].__setitem__([0, 1], [4, -1]), "counts is [4, -1, 1"),
        (lambda g: g["classes"]["counts"].__setitem__(0, 4), "add up to 7"),
        (
            lambda g: g["classes"]["counts"].__setitem__([0, 1, 2, 3, 6], [2**62] * 4 + [7]),
            "add up to 7",
        ),  # 7 in 64 bits
        (lambda g: g["classes"]["class_means"].__setitem__((1, 2), 5), "not zero for class 1"),
    ],
)
def test_self_contradicting_updates_are_refused(spoil, said):
    """An update that contradicts itself is refused with what was seen."""
    groups = an_update()
    spoil(groups)
    assert said in exchange.refusal(groups, 0.5, 7, WANTED)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e308, -2e6, 1, None, "low", [0.5]])
def test_a_loss_no_training_has_is_refused(loss):
    """It is no number of a training."""
    assert "the loss is" in exchange.refusal(an_update(), loss, 7, WANTED)


# ------------------------------------------------ the two apps, each function alone

BEFORE_ALL = """
import sys
sys.path.insert(0, "lab/many/flower")
import numpy as np
import fpl
from lab.shell.errors import InputError
from flwr.app import ConfigRecord, Error, RecordDict
from types import SimpleNamespace as Record
lines = []


class Grid:
    '''In place of Flower's: {node: its answer, an Exception if unreadable, None if none comes}.'''
    def __init__(self, replies):
        self.replies = replies

    def get_node_ids(self):
        return list(self.replies)

    def push_messages(self, messages):
        return list(messages)

    def pull_messages(self, ids):
        answer = self.replies[ids[0]]
        if isinstance(answer, Exception):
            raise answer
        failed = isinstance(answer, Error)
        record = Record(has_error=lambda: failed, error=answer, content=answer)
        return [] if answer is None else [record]


def client(number, images):
    return RecordDict({"client": ConfigRecord({"number": number, "images": images})})


def refused(call):
    try:
        call()
    except InputError as error:
        assert "\\n" not in str(error)
        return str(error)
    raise AssertionError("nothing was refused")
"""


def in_flower(code, *arguments):
    """Run code after BEFORE_ALL with the Python that has Flower; fails as its assertions do."""
    result = subprocess.run(
        [PYTHON, "-c", BEFORE_ALL + code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0", **PROTOBUF},
    )
    assert result.returncode == 0, result.stderr


@needs_flower
def test_nodes_that_say_nonsense_are_named():
    """The others are let in."""
    in_flower("""
import server
server.say, server.Message = lines.append, lambda content, node, kind, ttl: node
odd = [client(0, 5), client(0, 6), client(2, 6), client(-1, 6), client(True, 6), client(1, 0),
       client(1, 2.5), client("1", 6), RecordDict(),
       RecordDict({"client": ConfigRecord({"number": 1})}), Error(1, "a disk\\nfails"),
       ValueError("odd\\nbytes")]
joined = server.join(Grid(dict(enumerate([*odd, client(1, 7)], 10))), ["mnist", "usps"], 5)
assert joined == [(10, 5, "mnist"), (22, 7, "usps")], joined
for node in range(11, 22):
    head = f"node {node} is not let in: "
    assert sum(line.startswith(head) for line in lines) == 1, (node, lines)
assert not any("\\n" in line for line in lines)
assert [line for line in lines if "a disk fails" in line]
assert [line for line in lines if "odd bytes" in line]
""")


@needs_flower
def test_clients_that_never_join_or_answer_are_named():
    """Named are those that never join and those that never answer."""
    in_flower("""
import server
server.say, server.Message = lines.append, lambda content, node, kind, ttl: node
grid = Grid({7: client(1, 4), 8: None})
said = refused(lambda: server.join(grid, ["mnist"] * 3, 1))
assert "1 of 3 clients joined within 1 s; missing: 0, 2;" in said
cfg = fpl.Config(width=1, clients=(2, 0, 0, 0))
clients = [server.Joined(7, 4, "mnist"), server.Joined(8, 4, "mnist")]
grid = Grid({7: None, 8: Error(1, "no memory")})
assert server.collect(grid, fpl.init_state(cfg), clients, cfg, 1) == {}
for said in ("0 (node 7) is refused: there is no answer after 1 s",
             "1 (node 8) is refused: no memory"):
    assert [f"client {said}" in line for line in lines].count(True) == 1, lines
""")


@needs_flower
def test_with_test_images_a_run_feeds_the_report(tmp_path):
    """A run with test images leaves what the report reads, and one without leaves the model."""
    in_flower(
        """
import os
import server
from lab.data.tasks import TASKS
from lab.run.records import read_run
os.chdir(sys.argv[1])
images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int32)
tests = {name: (images, labels) for name in TASKS["digits"].clients}
source = {"kind": "files", "what": "made up", "train": 2, "test": 2, "sha256": "0"}
config = dict(width=1, rounds=2, clients="1,1,0,0", wait=1, timeout=1)
server.load.load = lambda task, folder, **reading: (tests, tests, dict.fromkeys(tests, source))
server.fpl.evaluate = lambda state, tests, engine: {name: 50.0 + state.round for name in tests}
server.join = lambda grid, domains, seconds: [
    server.Joined(7, 4, domains[0]), server.Joined(8, 4, domains[1])]
counts = np.bincount([1, 1, 2, 3], minlength=10)


def update(state, m):
    means = np.float32((counts > 0)[:, None] * (np.eye(10, 8) + m))
    return fpl.ClientUpdate(state.params, state.stats, means, counts, 0.5)


def served(name, data, **more):
    server.serve(None, {**config, "name": name, "data": data, **more})


def model(name):
    with open(f"runs/{name}/model.safetensors", "rb") as file:
        return file.read()


server.collect = lambda grid, state, clients, cfg, seconds: {m: update(state, m) for m in (1, 0)}
served("all", "")
served("none", "none")
assert [log["avg"] for log in read_run("runs/all").rounds] == [51, 52]
assert sorted(os.listdir("runs/none")) == ["model.safetensors", "prototypes.npz"]
assert model("all") == model("none")
server.collect = lambda *rest: {}
said = refused(lambda: served("empty", "none"))
assert "round 1: no client sent" in said and "runs/empty holds what 0 rounds gave" in said
for key in ("wait", "timeout"):
    for wrong in (0, -1, "soon", True):
        said = refused(lambda: served("no", "none", **{key: wrong}))
        assert f"{key} is {wrong!r}" in said
""",
        tmp_path,
    )


@needs_flower
def test_a_client_takes_its_share_or_file(tmp_path):
    """It takes its share of the split or its own file, and nothing else."""
    images, labels = np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 9, 4])
    own = {
        "good": (images, labels),
        "high": (images, labels + 1),
        "low": (images, labels - 1),
        "long": (images[:2], labels),
        "float": (images.astype(np.float32), labels),
        "halves": (images, labels / 2),
        "objects": (images, labels.astype(object)),
        "deep": (images, labels[None]),
        "none": (images[:0], labels[:0]),
    }
    for name, (x, y) in own.items():
        np.savez(tmp_path / f"{name}.npz", images=x, labels=y)
    np.savez(tmp_path / "lacks.npz", images=images)
    (tmp_path / "text.npz").write_text("no array")
    del own["good"]
    in_flower(
        """
import client as app
import exchange
from lab.data.tasks import TASKS
from lab.run.clients import share_out
folder = sys.argv[1]
config = {"clients": "2,1,0,1", "fraction": 0.0005, "seed": 5}
cfg, task, _ = exchange.settings(config)
labels = np.arange(80, dtype=np.int32) % 10
train = {}
for i, name in enumerate(TASKS["digits"].clients):
    images = np.random.default_rng(i).integers(0, 256, (80, 32, 32, 3), np.uint8)
    train[name] = images, labels
app.load.load = lambda task, folder=None, **reading: (train, train, {})
for m, mine in enumerate(share_out((train, train), task, cfg)[0]):
    number, taken = app.own_client({"client": m}, config)
    assert number == m and np.array_equal(taken.images, mine.images)
    assert np.array_equal(taken.labels, mine.labels)
taken = app.own_client({"client": 3, "own": folder + "/good.npz"}, config)[1]
assert taken.labels.tolist() == [0, 9, 4]
assert taken.labels.dtype == np.int32 and taken.images.dtype == np.uint8
for wrong in (None, 4, -1, 1.0, True, "1"):
    assert f"client={wrong!r}" in refused(lambda: app.own_client({"client": wrong}, config))
for name in sys.argv[2:]:
    path = f"{folder}/{name}.npz"
    assert f"own={path}" in refused(lambda: app.own_client({"client": 0, "own": path}, config))
""",
        tmp_path,
        *own,
        "lacks",
        "text",
        "missing",
    )


# ------------------------------------------------ on the loopback

LOOP = """
import sys
import numpy as np
import fpl
from lab.many.flower import exchange
from lab.run import folder as run_folder
out, clients = sys.argv[1], []
for path in sys.argv[3:]:
    with np.load(path) as file:
        clients.append(fpl.Client(file["images"], file["labels"], "mnist"))
cfg = exchange.settings(eval(sys.argv[2]))
for state, log in fpl.run(clients, {}, cfg):
    pass
run_folder.write_round(out, state, log, ["mnist"] * len(clients), cfg.partition)
"""

# In place of fpl: no training, and updates of one client that are wrong in another way each round.
WITHOUT_TRAINING = """
import os
exec(compile(open(os.environ["REAL_FPL"]).read(), os.environ["REAL_FPL"], "exec"), globals())


def client_update(state, client, rng, cfg):
    shift = np.float32(rng.random() * len(client.labels))
    z = rng.random((len(client.labels), 8 * cfg.width))
    moved = [Tensor(vector.asnumpy() * np.float32(0.5) + shift) for vector in state[1:3]]
    return ClientUpdate(*moved, *class_prototypes(z, client.labels, NUM_CLASSES), float(shift))


if "WRONG" in os.environ:
    from flwr.app import Array

    right = client_update

    def client_update(state, client, rng, cfg):
        update = right(state, client, rng, cfg)
        if state.round == 0:
            return update._replace(class_means=update.class_means * np.nan)
        Array.from_numpy_ndarray = classmethod(
            lambda cls, a: cls(str(a.dtype), tuple(a.shape), "numpy.ndarray", b"no array"))
        return update
"""


def free_ports(how_many):
    """Ports of the loopback that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(how_many)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def descendants(processes):
    """These processes that are still there, and all below them."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process, *process.children(recursive=True)]
    return found


def connections(processes):
    """Their internet connections; of those that end meanwhile none."""
    found = []
    for process in descendants(processes):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            found += process.net_connections("inet")
    return found


@pytest.fixture
def federation(tmp_path):
    """federation(run config, {client: its environment}) -> what `flwr run` printed.

    .images: npz files; .addresses: (waits for others, its own address,
    the other's or "") of all connections that Flower and its apps open.
    """
    started = []
    programs = Path(PYTHON).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "OMP_NUM_THREADS": "1",
        **PROTOBUF,
    }

    def start(name, *command, **more):
        with open(tmp_path / f"{name}.log", "w") as log:
            started.append(
                psutil.Popen(
                    [programs / command[0], *command[1:]],
                    env={**environment, **more},
                    cwd=tmp_path,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return started[-1]

    def call(settings, nodes):
        link, *ports = free_ports(1 + len(nodes))
        (tmp_path / "home").mkdir()
        (tmp_path / "home/config.toml").write_text(
            f'[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
        )
        # the first client's environment too, since the ServerApp imports the same fpl
        start(
            "superlink",
            "flower-superlink",
            "--insecure",
            "--host",
            "127.0.0.1",
            "--port",
            str(link),
            "--disable-runtime-dependency-installation",
            **{k: v for k, v in nodes[0].items() if k != "WRONG"},
        )
        for m, port in zip(nodes, ports):
            start(
                f"node{m}",
                "flower-supernode",
                "--insecure",
                "--superlink",
                f"127.0.0.1:{link}",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--node-config",
                f'client={m} own="{call.images[m]}"',
                **nodes[m],
            )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{link}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        text = " ".join(f"{key}={value!r}" for key, value in settings.items())
        run = start(
            "run",
            "flwr",
            "run",
            str(ROOT / "lab/many/flower"),
            "here",
            "--stream",
            "--run-config",
            text,
        )
        end = time.monotonic() + 400
        while run.poll() is None and time.monotonic() < end:
            for c in connections(started):
                waits = c.status == psutil.CONN_LISTEN or c.type == socket.SOCK_DGRAM
                if c.laddr:
                    call.addresses.add((waits, c.laddr.ip, c.raddr.ip if c.raddr else ""))
            time.sleep(0.5)
        return (tmp_path / "run.log").read_text()

    call.addresses = set()
    call.images = []
    for m, n in enumerate((12, 12, 9)):
        call.images.append(tmp_path / f"own{m}.npz")
        rng = np.random.default_rng(m)
        np.savez(
            call.images[m],
            images=rng.integers(0, 256, (n, 32, 32, 3), np.uint8),
            labels=rng.integers(0, 10, n).astype(np.int32),
        )
    call.environment = environment
    yield call
    everything = descendants(started)
    for process in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(everything, timeout=10)[1]:
        process.kill()


def loop_on(federation, folder, settings, clients, **more):
    """The built-in loop on the same images -> folder with model.safetensors, prototypes.npz."""
    folder.mkdir()
    subprocess.run(
        [PYTHON, "-c", LOOP, folder, repr(settings), *clients],
        check=True,
        env={**federation.environment, **more},
        cwd=folder,
        timeout=200,
    )
    return folder


def same_model(a, b):
    """Whether two folders hold the same network and prototypes, byte for byte."""
    with np.load(a / "prototypes.npz") as x, np.load(b / "prototypes.npz") as y:
        prototypes = all(
            np.array_equal(x[name], y[name]) and x[name].dtype == y[name].dtype
            for name in ("clusters", "mask", "unbiased")
        )
    return (
        prototypes
        and (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    )


# running: each process compiles one function less
SMALL = {
    "clients": "1,1,0,0",
    "rounds": 2,
    "width": 4,
    "local-epochs": 1,
    "batch-size": 16,
    "prototypes-from": "running",
    "name": "flower",
    "data": "none",
    "wait": 200,
    "timeout": 200,
}


@pytest.mark.slow
@needs_flower
def test_two_supernodes_give_the_loops_model(federation, tmp_path):
    """Only the loopback is used."""
    said = federation(SMALL, {0: {}, 1: {}})
    assert "round   2" in said, said
    assert same_model(
        tmp_path / "runs/flower",
        loop_on(federation, tmp_path / "loop", SMALL, federation.images[:2]),
    )
    listening = {address for waits, address, _ in federation.addresses if waits}
    others = {other for waits, _, other in federation.addresses if not waits}
    assert listening == {"127.0.0.1"} and others <= {"127.0.0.1", ""}


@pytest.mark.slow
@needs_flower
def test_a_supernode_sending_useless_things_is_named(federation, tmp_path):
    """What it sends cannot be used; the others go on."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "fpl.py").write_text(WITHOUT_TRAINING)
    untrained = {"PYTHONPATH": f"{fake}:{ROOT}", "REAL_FPL": str(ROOT / "fpl.py")}
    settings = {**SMALL, "clients": "1,0,1,1"}
    said = federation(settings, {0: untrained, 1: untrained, 2: {**untrained, "WRONG": "yes"}})
    for number, reason in enumerate(
        ["classes class_means has numbers that are not finite", "its arrays cannot be read"], 1
    ):
        line = next(
            line for line in said.splitlines() if f"round {number}: client 2 (node " in line
        )
        assert "is refused" in line and reason in line
    loop = loop_on(
        federation,
        tmp_path / "loop",
        {**settings, "clients": "1,0,1,0"},
        federation.images[:2],
        **untrained,
    )
    assert same_model(tmp_path / "runs/flower", loop)
