"""The command line from outside.

What goes wrong is one line and exit status 2; a whole small run leaves what README says.
"""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from marks import with_deep
from safetensors.numpy import load_file

import fpl
from lab.data.tasks import TASKS
from lab.run import train
from lab.run.settings import SETTINGS, complete, parse, settings_parser

ROOT = Path(__file__).resolve().parent.parent.parent
DOOR = [sys.executable, "-I", str(ROOT / "lab" / "__main__.py")]
SMALL = [
    "digits",
    "--rounds",
    "1",
    "--local-epochs",
    "1",
    "--width",
    "1",
    "--batch-size",
    "800",
    "--clients",
    "1,1,1,1",
    "--test-images",
    "20",
]  # one batch a client: four shapes to compile

BAD = [  # arguments -> a part of the one line that must come
    (["digit"], "invalid choice: 'digit'"),
    ([], "required: task"),
    (["digits", "--round", "3"], "unrecognized arguments: --round 3"),
    (["digits", "--rounds", "0"], "--rounds is 0; it must be at least 1"),
    (["digits", "--rounds", "two"], "invalid int value: 'two'"),
    (["digits", "--tau", "0"], "--tau is 0.0; it must be more than 0"),
    (["digits", "--tau", "-0.1"], "--tau is -0.1; it must be more than 0"),
    (["digits", "--tau", "nan"], "--tau is nan; it must be a finite number"),
    (["digits", "--lr", "inf"], "--lr is inf; it must be a finite number"),
    (["digits", "--seed", "-1"], "--seed is -1; it must be at least 0"),
    (["digits", "--seed", "9" * 101], "it must be at most 1e+100"),
    (["digits", "--seed", "9" * 4300], "it must be at most 1e+100"),
    (["digits", "--width", "9" * 20], f"--width is {'9' * 20}; it must be at most 512"),
    (["digits", "--width", "3000000000"], "--width is 3000000000; it must be at most 512"),
    (["digits", "--rounds", "1000000001"], "--rounds is 1000000001; it must be at most 1000000000"),
    (["digits", "--local-epochs", "9" * 20], "it must be at most 1000000000"),
    (["digits", "--batch-size", "9" * 20], "it must be at most 1000000000"),
    (["digits", "--test-images", "9" * 20], "it must be at most 1000000000"),
    (
        ["digits", "--clients", f"1,1,{'9' * 20},1"],
        "not negative, not all zero and at most 1000000000",
    ),
    (["digits", "--cpcl", "-1"], "--cpcl is -1.0; it must be at least 0"),
    (
        ["digits", "--clients", "0,0,0,0"],
        "--clients is 0,0,0,0; it must be one whole number, or 4 for mnist",
    ),
    (
        ["digits", "--clients", "6,4,3"],
        "--clients is 6,4,3; it must be one whole number, or 4 for mnist",
    ),
    (["digits", "--clients", "6,4,3,x"], "'6,4,3,x' is not whole numbers with commas"),
    (["digits", "--participation", "0"], "--participation is 0.0; it must be more than 0"),
    (["digits", "--participation", "1.5"], "--participation is 1.5; it must be at most 1"),
    (["digits", "--partition", "middle"], "invalid choice: 'middle'"),
    (["digits", "--as", "published"], "invalid choice: 'published'"),
    (["digits", "--paper", "False"], "unrecognized arguments: False"),
    (["digits", "--name", "../up"], "--name is '../up'"),
    (["digits", "--name", "taken"], "runs/taken exists"),
    (
        ["digits", "--fraction", "0.5"],
        "mnist has 4000 training images, but 6 clients want 30000 each",
    ),
    (["digits", "--data", "nowhere"], "nowhere"),
    (["digits", "--summary", "runs/taken/model.safetensors"], "it must be a folder to write to"),
    (["digits", "--device", "Ascend"], "--device is Ascend, which MindSpore does not find here"),
    (["office"], "office"),
]


@pytest.mark.parametrize(
    "arguments, part", BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_status_2(arguments, part, tmp_path, monkeypatch, capsys):
    """It leaves nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "model.safetensors").write_text("mine")
    assert train.main(arguments) == 2
    out, err = capsys.readouterr()
    assert part in err
    assert err.startswith("fpl: ") and err.count("\n") == 1
    assert out == ""
    assert [p.name for p in tmp_path.rglob("*")] == ["runs", "taken", "model.safetensors"]
    assert (tmp_path / "runs" / "taken" / "model.safetensors").read_text() == "mine"


def command(arguments, folder):
    return subprocess.run(
        [*DOOR, *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_the_process_ends_with_status_2(tmp_path):
    """The process itself ends so, without a traceback."""
    done = command(["digits", "--tau", "0"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == "fpl: --tau is 0.0; it must be more than 0\n"


def test_a_file_at_runs_is_one_line(tmp_path):
    """The file is in the way of the runs folder."""
    (tmp_path / "runs").write_text("a file")
    done = command(SMALL, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "runs" in done.stderr.splitlines()[-1]
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return folder, command([*SMALL, "--name", "once"], folder)


@pytest.fixture(scope="module")
def two_runs(one_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second folder")
    return one_run, (
        folder,
        command([*SMALL, "--name", "once", "--summary", "for insight"], folder),
    )


def test_a_run_shows_domains_rounds_and_table(one_run):
    """It shows the domains, a line a round and the table."""
    _, done = one_run
    assert done.returncode == 0, done.stderr
    assert "stand-in" in done.stdout  # nobody may take the built-in digits for the paper's
    for word in ("mnist", "usps", "svhn", "syn", "AVG"):
        assert word in done.stdout


def test_a_run_leaves_what_readme_says(one_run):
    folder = one_run[0] / "runs" / "once"
    assert sorted(os.listdir(folder)) == [
        "accuracy.png",
        "clients.csv",
        "clusters.csv",
        "config.json",
        "model.safetensors",
        "prototypes-1.npz",
        "prototypes.npz",
        "prototypes.png",
        "rounds.csv",
        "state.safetensors",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert "once" not in os.listdir(one_run[0])  # nothing beside runs/
    assert config["config"]["tau"] == 0.02 and config["config"]["clients"] == [1, 1, 1, 1]
    rows = list(csv.DictReader((folder / "rounds.csv").open()))
    assert len(rows) == 1 and 0 <= float(rows[0]["avg"]) <= 100
    model = load_file(folder / "model.safetensors")
    shapes = fpl.param_shapes(1, 10) + fpl.stat_shapes(1)
    assert {name: value.shape for name, value in model.items()} == dict(shapes)
    prototypes = np.load(folder / "prototypes.npz", allow_pickle=False)
    assert prototypes["clusters"].shape == (10, 2, 8) and prototypes["mask"].any()


@pytest.mark.slow
def test_insight_summaries_go_only_where_asked_for(two_runs):
    (first, _), (second, done) = two_runs
    assert done.returncode == 0, done.stderr
    assert len(list((second / "for insight").glob("*.summary.*"))) == 1
    assert not list(first.rglob("*.summary.*"))


@pytest.mark.slow
def test_two_processes_leave_the_same_bytes(two_runs):
    """They run in two folders. The second also wrote summaries, which change nothing."""
    first, second = (folder / "runs" / "once" for folder, _ in two_runs)
    for name in (
        "model.safetensors",
        "prototypes.npz",
        "prototypes.png",
        "accuracy.png",
        "config.json",
        "clusters.csv",
        "state.safetensors",
    ):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    rows = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in csv.DictReader((folder / "rounds.csv").open())
        ]
        for folder in (first, second)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([signal.SIGINT], id="once"),
        pytest.param(
            [signal.SIGTERM, signal.SIGTERM, signal.SIGINT],
            id="three times",
            marks=with_deep,
        ),
    ],
)
@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_rounds(numbers, tmp_path):
    """It ends with a sentence."""
    process = subprocess.Popen(
        [*DOOR, *SMALL, "--rounds", "1000", "--name", "long"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("round"):
            break
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.002)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.count("\n") == 2
    assert (
        err.startswith("\nStopped after ")
        and "of 1000 rounds; to go on: ./run.sh digits" in err
        and err.rstrip().endswith("--name long --resume")
    )
    assert load_file(tmp_path / "runs" / "long" / "model.safetensors")


ENDING = """
import atexit, sys, time
from lab.shell import program
def wait(argv):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("closed", flush=True)
def end():
    print("ending", flush=True)
    time.sleep(4)
    print("ended", flush=True)
atexit.register(end)
program.as_program(lambda: program.guarded(wait, []))
"""


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGTERM, signal.SIGTERM, signal.SIGINT], [signal.SIGINT] * 20],
    ids=["three", "twenty"],
)
def test_more_signals_interrupt_no_ending(numbers, tmp_path):
    """They interrupt neither the sentence nor the end of the packages."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()  # ready
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.002)
    assert [process.stdout.readline() for _ in range(2)] == ["closed\n", "ending\n"]
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "ended\n", "\nStopped.\n")


def test_ctrl_c_says_that_bench_begins_again(monkeypatch, capsys):
    from lab.proof import bench

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "read_options", interrupted)
    assert (
        bench.main([]) == 130
        and capsys.readouterr().err == "\nStopped; the same command begins again.\n"
    )


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        "--data",
        "--name",
        "--seed",
        "--rounds",
        "--local-epochs",
        "--batch-size",
        "--width",
        "--lr",
        "--tau",
        "--cpcl",
        "--upcr",
        "--partition",
        "--upcr-reduce",
        "--prototypes-from",
        "--augment",
        "--clients",
        "--fraction",
        "--participation",
        "--as",
        "--paper",
        "--device",
        "--summary",
    ):
        assert flag in text


def parsed(arguments):
    return parse(settings_parser("", ""), arguments)


def test_presets_take_sides_and_flags_win():
    """Presets take the sides that they name, and single flags win."""
    paper, _, _ = parsed(["digits", "--paper", "--as", "paper"])
    assert (paper.partition, paper.upcr_reduce, paper.prototypes_from, paper.augment) == (
        "first",
        "sum",
        "final",
        "none",
    )
    assert (paper.rounds, paper.local_epochs, paper.batch_size, paper.width) == (100, 10, 64, 64)
    assert (paper.lr, paper.momentum, paper.weight_decay, paper.tau) == (0.01, 0.9, 1e-5, 0.02)
    released, _, _ = parsed(["digits", "--as", "released", "--partition", "first", "--rounds", "3"])
    assert (released.partition, released.upcr_reduce, released.prototypes_from) == (
        "first",
        "mean",
        "running",
    )
    assert (released.augment, released.rounds) == ("crop-flip", 3)
    assert parsed(["digits"])[0].clients == (6, 4, 3, 7)
    assert parsed(["office"])[0].clients == (3, 2, 1, 4)


def test_every_setting_has_a_help_and_a_rule():
    """A setting without them does not exist."""
    assert list(SETTINGS) == [field.name for field in dataclasses.fields(fpl.Config)]


def test_the_defaults_are_the_papers():
    """They are those of Config, and complete takes them."""
    config = fpl.Config()
    assert complete(config, TASKS["digits"]) == config == parsed(["digits", "--paper"])[0]


def test_clients_and_fraction_default_to_the_tasks():
    for task, clients, fraction in (("digits", (6, 4, 3, 7), 0.01), ("office", (3, 2, 1, 4), 0.2)):
        cfg = complete(fpl.Config(task=task, clients=(), fraction=0.0), TASKS[task])
        assert (cfg.clients, cfg.fraction) == (clients, fraction)
        assert parsed([task, "--clients", "1,2,3,4"])[0].fraction == fraction


def test_the_end_names_the_comparison_with_fedavg():
    argv = ["office", "--name", "x", "--lr", "0.1", "--resume", "--summary=d", "--data", "a b"]
    assert train.run_folder.comparing(argv) == (
        "./run.sh compare office --lr 0.1 --data 'a b' --methods fedavg,fpl --seeds 1"
    )
