"""The files of --summary, read byte by byte as MindSpore Insight does.

They are held against SummaryRecord's own and against the logs.
"""

import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore.train.summary_pb2 import Event

import fpl
from lab.run import summary
from lab.shell.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
PARAMS, STATS = dict(fpl.param_shapes(1, 10)), dict(fpl.stat_shapes(1))
CFG = fpl.Config(width=1)
LOGS = [
    {
        "round": r,
        "loss": 2.3 / r,
        "accuracy": {"mnist": 10.1 * r, "usps": 7.0 + r},
        "avg": (11.1 * r + 7) / 2,
        "clusters_per_class": [r, 1, 0],
        "seconds": 1.5,
        "losses": {0: 2.3 / r},
        "class_means": np.zeros((1, 3, 8)),
        "counts": np.zeros((1, 3), int),
    }
    for r in (1, 2, 3)
]


def crc32c(data):
    """Castagnoli's CRC-32, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    """The checksum as TFRecord files hold it: rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(path):
    """The Events of a file: length uint64, its checksum, an Event, its checksum, and so on."""
    data, found = Path(path).read_bytes(), []
    while data:
        length, check = struct.unpack("<QI", data[:12])
        body, (body_check,) = (
            data[12 : 12 + length],
            struct.unpack("<I", data[12 + length : 16 + length]),
        )
        assert check == masked(data[:8]) and body_check == masked(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def only_file(folder):
    (path,) = Path(folder).iterdir()
    return path


def rounds(path):
    return [
        (event.step, {value.tag: value.scalar_value for value in event.summary.value})
        for event in events(path)
        if event.HasField("summary")
    ]


def expected(log):
    """Written out by hand, not with summary.scalars."""
    return log["round"], {
        "loss": np.float32(log["loss"]),
        "accuracy/mnist": np.float32(log["accuracy"]["mnist"]),
        "accuracy/usps": np.float32(log["accuracy"]["usps"]),
        "accuracy/avg": np.float32(log["avg"]),
        "clusters/mean": np.float32((log["round"] + 1) / 3),
    }


def write_all(folder, logs=LOGS):
    with summary.writer(str(folder), CFG) as write:
        for log in logs:
            write(log)


@pytest.fixture(scope="module")
def three_rounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary") / "made" / "here"
    start = time.time()
    write_all(folder)
    return only_file(folder), start, time.time()


def test_the_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # the check value that CRC catalogues list


def test_each_round_is_a_step_of_float32s(three_rounds):
    """Its numbers are written as float32."""
    assert rounds(three_rounds[0]) == [expected(log) for log in LOGS]


def test_the_file_begins_with_version_then_graph(three_rounds):
    """Time only goes on."""
    path, start, end = three_rounds
    found = events(path)
    assert [event.WhichOneof("what") for event in found] == ["version", "graph_def"] + 3 * [
        "summary"
    ]
    assert found[0].version == "MindSpore.Event:1"
    times = [event.wall_time for event in found]
    assert times == sorted(times) and start <= times[0] and times[-1] <= end


def test_insight_finds_the_file_by_its_name(three_rounds):
    name, start, end = three_rounds[0].name, *three_rounds[1:]
    match = re.search(r"summary\.(\d+)", name)  # MindSpore Insight's summary_watcher.py
    assert int(start) <= int(match[1]) <= end
    assert not name.endswith(
        ("_lineage", "_explain")
    )  # ms_data_loader.py takes those for something else


def test_the_graph_is_the_whole_network(three_rounds):
    graph = events(three_rounds[0])[1].graph_def
    operators = [node.op_type for node in graph.node]
    convolutions = sum(name.endswith(".conv") for name in PARAMS)
    assert operators.count("Conv2D") == operators.count("BatchNorm") == convolutions == 12
    assert sum(name.startswith("MatMul") for name in operators) == 1
    used = {edge.name for node in graph.node for edge in node.input}
    assert used >= {"x", *PARAMS, *STATS}  # in training mode nothing reads STATS
    shapes = {p.name: tuple(d.size for d in p.type.tensor_type.shape.dim) for p in graph.parameters}
    assert set(shapes) == {"x", *PARAMS, *STATS}
    assert {name: shapes[name] for name in PARAMS} == PARAMS
    assert shapes["x"] == (128, 3, 32, 32)


def test_it_says_what_mindspores_own_record_says(three_rounds, tmp_path):
    cell = summary.Network(CFG)
    cell.compile(ms.Tensor(np.zeros((128, 3, 32, 32), np.float32)))
    with ms.SummaryRecord(str(tmp_path), network=cell, raise_exception=True) as record:
        record.record(0)  # the graph alone
        for log in LOGS:
            step, values = expected(log)
            for tag, value in values.items():
                record.add_value("scalar", tag, ms.Tensor(value))
            record.record(step)
    ours, own = events(three_rounds[0]), events(only_file(tmp_path))
    assert [event.WhichOneof("what") for event in ours] == [
        event.WhichOneof("what") for event in own
    ]
    assert ours[0].version == own[0].version
    assert [n.op_type for n in ours[1].graph_def.node] == [n.op_type for n in own[1].graph_def.node]
    assert [(e.step, e.summary) for e in ours[2:]] == [(e.step, e.summary) for e in own[2:]]


def test_a_round_is_readable_once_written(tmp_path):
    """A round can be read as soon as it is written."""
    with summary.writer(str(tmp_path), CFG) as write:
        path = only_file(tmp_path)
        assert events(path)[-1].HasField("graph_def")
        for n, log in enumerate(LOGS, 1):
            write(log)
            assert rounds(path) == [expected(log) for log in LOGS[:n]]


def test_an_interrupt_keeps_rounds_and_closes_the_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), summary.writer(str(tmp_path), CFG) as write:
        write(LOGS[0])
        raise KeyboardInterrupt
    path = only_file(tmp_path)
    assert rounds(path) == [expected(LOGS[0])]
    assert str(path) not in [
        os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
    ]


def test_runs_in_one_second_add_a_file(tmp_path, monkeypatch):
    """A second run in the same second adds a file and touches no other."""
    monkeypatch.setattr(summary.time, "time", lambda: 1e9)
    (tmp_path / "events.out.events.summary.1.0.host_MS").write_bytes(b"another program's")
    before, contents = set(tmp_path.iterdir()), {}
    for log in LOGS:
        write_all(tmp_path, [log])
        (new,) = set(tmp_path.iterdir()) - before
        contents |= {path: path.read_bytes() for path in before if path not in contents}
        assert {path: path.read_bytes() for path in before} == contents
        assert rounds(new) == [expected(log)]
        before.add(new)


def test_processes_signals_and_context_stay_as_they_were(tmp_path):
    def seen():
        return (
            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
            ms.get_context("mode"),
            ms.get_context("device_target"),
            multiprocessing.active_children(),
            np.random.get_state()[1].tolist(),
        )

    before = seen()
    with summary.writer(str(tmp_path), CFG) as write:
        write(LOGS[0])
        assert seen() == before
    assert seen() == before


def one_line(folder):
    with pytest.raises(InputError) as stop, summary.writer(str(folder), CFG):
        pytest.fail("the run began")
    assert "\n" not in str(stop.value) and str(stop.value).startswith(
        f"--summary is {str(folder)!r} ("
    )


def test_a_folder_closed_to_writing_is_one_line(tmp_path):
    """The line comes before anything runs."""
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing", ""):
        one_line(folder)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    one_line(tmp_path)
    one_line(tmp_path / "below")


def test_a_full_disk_raises_instead_of_losing_rounds(tmp_path):
    code = (
        "import resource, signal, sys, fpl; from lab.run import summary\n"
        "with summary.writer(sys.argv[1], fpl.Config(width=1)) as write:\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))\n"
        "    try: write({'round': 1, 'loss': 2.0, 'accuracy': {}, 'avg': 1.0,\n"
        "                'clusters_per_class': [1]})\n"
        "    except OSError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(str(tmp_path)) and "cannot be written" in done.stdout
