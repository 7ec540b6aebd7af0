"""compare and ablate: the same terms for all, and the same command goes on where it stopped.

What is finished stays. Most tests put a stand-in for fpl.run that trains
nothing, so that they take a moment; the last one trains in earnest.
"""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from marks import with_deep
from tiny import DOMAINS, tiny
from tqdm import tqdm

import fpl
from lab.methods import ablate, baselines, compare, experiment

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {"compare": compare.main, "ablate": ablate.main}
SMALL = ["digits", "--rounds", "2", "--width", "1", "--clients", "1,1,1,1", "--fraction", "0.0005"]
SMALL += ["--test-images", "4"]
TWO = ["compare", *SMALL, "--methods", "fpl,fedavg", "--seeds", "2"]
METHODS = [*baselines.METHODS.values(), baselines.FPL_GLOBAL]
NAMES = {method.server_round: method.name for method in METHODS}


@pytest.fixture
def run_sh(tmp_path, monkeypatch):
    """run_sh(command, *arguments) -> exit status, in an empty folder.

    run_sh.trained: what fpl.run was given; run_sh.stop: {(method's name, seed):
    exception} to raise in round 2; run_sh.bar: the newest progress bar.
    """

    def run(clients, tests, cfg, state=None, engine=map, server_round=fpl.server_round):
        """The start network round after round."""
        state, name = state or fpl.init_state(cfg), NAMES[server_round]
        given = {"name": name, "clients": clients, "tests": tests, "cfg": cfg, "start": state}
        call.trained.append(given)
        for number in range(state.round + 1, cfg.rounds + 1):
            if number == 2 and (name, cfg.seed) in call.stop:
                raise call.stop[name, cfg.seed]
            chosen = fpl.participants(cfg, len(clients), number)
            for _ in zip(chosen, engine(lambda m: m, chosen)):  # as server_round asks
                pass
            given["bar"] = call.bar.n
            state = state._replace(round=number)
            yield (
                state,
                {
                    "round": number,
                    "loss": 1.0,
                    "accuracy": {domain: 10.0 * number + i for i, domain in enumerate(tests)},
                    "avg": 10.0 * number + 1.5,
                    "seconds": 0.0,
                    "clusters_per_class": [0] * 10,
                    "losses": dict.fromkeys(chosen, 1.0),
                    "class_means": np.ones((len(clients), 10, 8 * cfg.width), np.float32),
                    "counts": np.ones((len(clients), 10), int),
                },
            )

    def bar(turns):
        call.bar = tqdm(total=turns, file=nowhere)
        return call.bar

    def call(command, *arguments):
        call.trained = []
        return COMMANDS[command](list(arguments))

    call.trained, call.stop = [], {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fpl, "run", run)
    monkeypatch.setattr(experiment, "load", tiny)
    monkeypatch.setattr(experiment, "progress", bar)
    monkeypatch.setattr(
        experiment.engines, "granted", lambda: 1
    )  # the loop, whose items may be any
    monkeypatch.setattr(experiment.run_folder, "pictures", picture)
    monkeypatch.setattr(experiment.report, "write_report", lambda folder: f"{folder}/report.html")
    monkeypatch.setattr(experiment.report, "summary_text", lambda folder: f"tables of {folder}")
    with open(os.devnull, "w") as nowhere:
        yield call


def picture(folder, *rest):
    """In place of the pictures, which take seconds."""
    Path(folder, "accuracy.png").touch()


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def names(run_sh):
    return [(one["name"], one["cfg"].seed) for one in run_sh.trained]


def test_every_run_leaves_its_folder(run_sh, capsys):
    """The tables come at the end."""
    assert run_sh(*TWO, "--seed", "5") == 0
    assert names(run_sh) == [("fedavg", 5), ("fpl", 5), ("fedavg", 6), ("fpl", 6)]
    shared = json.loads(Path("runs/compare-digits/config.json").read_text())
    assert (
        shared["config"]["rounds"] == 2
        and "seed" not in shared["config"]
        and shared["sources"]
        and shared["versions"]
    )
    folder = Path("runs/compare-digits/fpl/seed-6")
    assert {
        "config.json",
        "rounds.csv",
        "model.safetensors",
        "prototypes.npz",
        "accuracy.png",
    } <= set(os.listdir(folder))
    record = json.loads((folder / "config.json").read_text())
    assert record["variant"] == "fpl" and record["method"] == {"name": "fpl", "numbers": {}}
    assert record["config"]["seed"] == 6
    out = capsys.readouterr().out
    assert (
        "fpl          seed 6  mnist 15.00  usps 16.00  svhn 17.00  syn 18.00  AVG 16.50" in out
    )  # rounds 1 and 2
    assert "4 runs of 2 rounds: fedavg, fpl; seeds 5, 6\ndone already: 0; to do: 4;" in out
    assert "mean of the last 2 rounds" in out and out.index("sha256") < out.index(
        "done already"
    )  # describe comes first
    assert out.endswith("tables of runs/compare-digits\n\nruns/compare-digits/report.html\n")
    assert [one["bar"] for one in run_sh.trained] == [
        8,
        16,
        24,
        32,
    ] and run_sh.bar.total == 4 * 2 * 4


def test_methods_of_a_seed_start_alike(run_sh):
    """All have the same split, start, tests and settings."""
    assert run_sh("compare", *SMALL, "--seeds", "2") == 0
    assert names(run_sh) == [(name, seed) for seed in (0, 1) for name in baselines.METHODS]
    first, other = run_sh.trained[0], run_sh.trained[8]
    for one in run_sh.trained[1:8]:
        assert one["cfg"] == first["cfg"]
        assert all(
            np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
            for a, b in zip(one["clients"], first["clients"], strict=True)
        )
        assert np.array_equal(one["start"].params.asnumpy(), first["start"].params.asnumpy())
        assert all(
            np.array_equal(one["tests"][domain][0], first["tests"][domain][0])
            for domain in first["tests"]
        )
    assert other["cfg"] == dataclasses.replace(first["cfg"], seed=1)
    assert not np.array_equal(other["clients"][0].images, first["clients"][0].images)
    assert not np.array_equal(other["tests"]["mnist"][0], first["tests"]["mnist"][0])


def test_the_ablations_are_those_of_the_tables(run_sh):
    terms = {
        "neither": ("fpl", 0, 0, 0.02),
        "cpcl": ("fpl", 1, 0, 0.02),
        "upcr": ("fpl", 0, 1, 0.02),
        "both": ("fpl", 1, 1, 0.02),
        "upcr-global": ("fpl-global", 0, 1, 0.02),
        "cpcl-global": ("fpl-global", 1, 0, 0.02),
        **{f"tau-{tau}": ("fpl", 1, 1, tau) for tau in (0.005, 0.01, 0.05, 0.1, 0.2, 0.5)},
    }
    assert run_sh("ablate", *SMALL, "--seeds", "1") == 0
    seen = {}
    for one, variant in zip(run_sh.trained, terms, strict=True):  # trained in the table's order
        cfg, record = (
            one["cfg"],
            json.loads(Path(f"runs/ablate-digits/{variant}/seed-0/config.json").read_text()),
        )
        assert (
            record["config"] == json.loads(json.dumps(dataclasses.asdict(cfg)))
            and record["variant"] == variant
        )
        seen[variant] = (one["name"], cfg.cpcl, cfg.upcr, cfg.tau)
        assert dataclasses.replace(cfg, cpcl=1.0, upcr=1.0, tau=0.02) == run_sh.trained[3]["cfg"]
    assert seen == terms


def test_the_configured_tau_is_both(run_sh):
    """Other weights stay."""
    assert (
        run_sh(
            "ablate",
            *SMALL,
            "--seeds",
            "1",
            "--tau",
            "0.1",
            "--upcr",
            "3",
            "--methods",
            "upcr,tau-0.02,both",
        )
        == 0
    )
    terms = [(one["cfg"].cpcl, one["cfg"].upcr, one["cfg"].tau) for one in run_sh.trained]
    assert terms == [(0, 3, 0.1), (1, 3, 0.1), (1, 3, 0.02)]
    assert run_sh("ablate", *SMALL, "--tau", "0.1", "--methods", "tau-0.1") == 2


def test_what_is_finished_is_not_run_again(run_sh, capsys):
    """More seeds or methods go on."""
    assert run_sh(*TWO) == 0
    before = files("runs")
    assert run_sh(*TWO) == 0 and run_sh.trained == []
    assert "done already: 4; to do: 0;" in capsys.readouterr().out
    assert run_sh("compare", *SMALL, "--methods", "fedavg,moon", "--seeds", "2", "--seed", "1") == 0
    assert (
        names(run_sh) == [("moon", 1), ("fedavg", 2), ("moon", 2)]
        and run_sh.bar.n == run_sh.bar.total == 3 * 2 * 4
    )
    assert (
        "4 runs of 2 rounds: fedavg, moon; seeds 1, 2\ndone already: 1; to do: 3;"
        in capsys.readouterr().out
    )
    assert files("runs").items() >= before.items()


def test_an_interrupt_says_how_far_it_came(run_sh, capsys):
    """The same command goes on."""
    run_sh.stop = {("fpl", 0): KeyboardInterrupt()}
    assert run_sh(*TWO) == 130
    assert capsys.readouterr().err.strip() == (
        "Stopped: 1 of 4 runs are finished in runs/compare-digits; "
        "the same command goes on with the rest."
    )
    part = Path("runs/compare-digits/fpl/seed-0.part")
    assert (
        sorted(os.listdir("runs/compare-digits/fpl")) == ["seed-0.part"]
        and (part / "rounds.csv").exists()
    )
    run_sh.stop = {}
    assert run_sh(*TWO) == 0
    assert names(run_sh) == [("fpl", 0), ("fedavg", 1), ("fpl", 1)]
    done = Path("runs/compare-digits/fpl/seed-0")
    assert [one["start"].round for one in run_sh.trained] == [
        1,
        0,
        0,
    ]  # the interrupted one goes on
    assert not part.exists() and len((done / "rounds.csv").read_text().splitlines()) == 3


def test_a_run_that_diverges_is_kept(run_sh, capsys):
    """The others go on."""
    run_sh.stop = {("fedavg", 0): FloatingPointError("round 2, client 1: too much")}
    assert run_sh(*TWO) == 0
    assert len(run_sh.trained) == 4 and run_sh.bar.n == run_sh.bar.total
    folder = Path("runs/compare-digits/fedavg/seed-0")
    assert (folder / "diverged.txt").read_text() == "round 2, client 1: too much\n"
    assert (
        len((folder / "rounds.csv").read_text().splitlines()) == 2
        and (folder / "accuracy.png").exists()
    )
    assert not Path("runs/compare-digits/fedavg/seed-1/diverged.txt").exists()
    assert (
        "fedavg       seed 0  diverged in round 2, "
        "what it left is in runs/compare-digits/fedavg/seed-0: "
        "round 2, client 1: too much\n" in capsys.readouterr().out
    )
    assert run_sh(*TWO) == 0 and run_sh.trained == []
    assert "done already: 4 (1 of them diverged); to do: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, part",
    [
        (["--rounds", "3"], "was made with rounds 2, this call has 3;"),
        (["--lr", "0.5"], "was made with lr 0.01, this call has 0.5;"),
        (
            ["--clients", "1,2,1,1"],
            "was made with clients [1, 1, 1, 1], this call has [1, 2, 1, 1];",
        ),
        (["--paper"], "was made with local_epochs 3, this call has 10;"),
    ],
)
def test_other_settings_are_refused_with_the_field(run_sh, change, part, capsys):
    """Nothing changes."""
    assert run_sh(*TWO) == 0
    before = files("runs")
    capsys.readouterr()
    assert run_sh(*TWO, "--seeds", "3", *change) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fpl: runs/compare-digits ") and err.count("\n") == 1
    assert part in err and err.endswith("nothing was changed: give another --name\n")
    assert run_sh.trained == [] and files("runs") == before
    assert run_sh(*TWO, *change, "--name", "other") == 0


def test_other_data_command_or_numbers_are_refused(run_sh, monkeypatch, capsys):
    """The numbers are those of a method. Other software is said."""
    assert run_sh(*TWO, "--name", "one") == 0
    before = files("runs")
    assert run_sh("ablate", *SMALL, "--name", "one") == 2
    assert (
        "runs/one was made with command compare, this call has ablate;" in capsys.readouterr().err
    )
    with monkeypatch.context() as patch:
        train, tests, sources = tiny("digits")
        sources["usps"]["sha256"] = "2"
        patch.setattr(experiment, "load", lambda *rest: (train, tests, sources))
        assert run_sh(*TWO, "--name", "one") == 2
    assert (
        "runs/one was made with the data of usps, sha256 usps 1, this call has 2;"
        in capsys.readouterr().err
    )
    with monkeypatch.context() as patch:
        patch.setitem(
            baselines.METHODS, "fedavg", baselines.METHODS["fedavg"]._replace(numbers={"mu": 1})
        )
        assert run_sh(*TWO, "--name", "one") == 2
    assert (
        "runs/one/fedavg/seed-0 was made with method {'name': 'fedavg', 'numbers': {}}, this call"
        in capsys.readouterr().err
    )
    monkeypatch.setattr(experiment.run_folder, "versions", lambda: {"mindspore": "1.0"})
    assert run_sh(*TWO, "--name", "one") == 0 and run_sh.trained == [] and files("runs") == before
    assert "Warning: runs/one was begun with mindspore 2." in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "no json", "{}", "[]"])
def test_a_folder_of_something_else_is_left_alone(run_sh, text, capsys):
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    (folder / ("notes" if text is None else "config.json")).write_text(text or "")
    assert run_sh(*TWO, "--name", "mine") == 2
    err = capsys.readouterr().err
    assert (
        err.startswith("fpl: runs/mine is there, but its config.json cannot be used")
        and err.count("\n") == 1
    )
    assert len(files("runs")) == 1 and run_sh.trained == []


@pytest.mark.parametrize("begun", [True, False])
def test_calls_at_once_share_the_runs_out(begun, run_sh, capsys):
    """They keep out of each other's runs."""
    assert run_sh("compare", *SMALL, "--methods", "fedavg", "--seeds", "1") == 0
    part = "runs/compare-digits/fpl/seed-0.part"
    os.makedirs(part)
    if begun:
        Path(part, "config.json.part").write_text("of the other call")
    handle = os.open(part, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    run_sh(*TWO)  # its first run would be the other's
    assert "another call" in capsys.readouterr().out
    assert os.listdir(part) == ["config.json.part"] * begun
    assert names(run_sh) == [("fedavg", 1), ("fpl", 1)]
    os.close(handle)
    assert run_sh(*TWO) == 0 and names(run_sh) == [("fpl", 0)]
    assert not list(Path("runs").rglob("*.part"))


def test_nothing_to_report_where_another_call_has_all(run_sh, capsys, monkeypatch):
    """Where another call has all runs under way, there is nothing to report."""
    assert run_sh("compare", *SMALL, "--methods", "fedavg", "--seeds", "1") == 0
    part = "runs/compare-digits/fpl/seed-0.part"
    os.makedirs(part)
    handle = os.open(part, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    monkeypatch.setattr(
        experiment.report,
        "write_report",
        lambda folder: pytest.fail("a report of no run of this call"),
    )
    assert run_sh("compare", *SMALL, "--methods", "fpl", "--seeds", "1") == 0
    assert "1 of 1 runs are still under way in another call" in capsys.readouterr().out
    os.close(handle)


def test_word_of_an_overcome_divergence_goes(run_sh):
    """The word of a divergence that was not the end does not stay."""
    run_sh.stop["fpl", 0] = KeyboardInterrupt()
    assert run_sh("compare", *SMALL, "--methods", "fpl", "--seeds", "1") == 130
    Path("runs/compare-digits/fpl/seed-0.part/diverged.txt").write_text(
        "by a call that was stopped before it had renamed the folder"
    )
    run_sh.stop.clear()
    assert run_sh("compare", *SMALL, "--methods", "fpl", "--seeds", "1") == 0
    assert "rounds.csv" in os.listdir("runs/compare-digits/fpl/seed-0")
    assert not os.path.exists("runs/compare-digits/fpl/seed-0/diverged.txt")


def test_a_class_a_client_lacks_is_told(run_sh, capsys, monkeypatch):
    """It is told for each seed."""
    lacks = {0: [1], 1: [2, 3]}

    def share_out(data, task, cfg):
        labels = np.array([k for k in range(10) if k not in lacks[cfg.seed]], np.int32)
        images = np.zeros((len(labels), 32, 32, 3), np.uint8)
        return [fpl.Client(images, labels, domain) for domain in DOMAINS[cfg.task]], data[1]

    monkeypatch.setattr(experiment, "share_out", share_out)
    assert run_sh(*TWO) == 0
    out = capsys.readouterr().out
    assert "\nNote: client 0 (mnist) holds no image of class 1; " in out
    assert "\nseed 1: Note: client 0 (mnist) holds no image of class 2, 3; " in out


def test_a_run_finished_meanwhile_is_not_redone(run_sh, monkeypatch):
    """A run that another call finished meanwhile is not done again."""
    train, first = experiment.train, []

    def both_at_once(run, *rest):
        if not first:
            first.append(run)
            other = run.folder.replace("seed-0", "seed-1")
            os.makedirs(other)  # another call finishes seed 1 while this one is at seed 0
            Path(other, "mine").write_text("kept")
        return train(run, *rest)

    monkeypatch.setattr(experiment, "train", both_at_once)
    assert run_sh("compare", *SMALL, "--methods", "fpl", "--seeds", "2") == 0
    assert names(run_sh) == [("fpl", 0)]
    assert os.listdir("runs/compare-digits/fpl/seed-1") == ["mine"]
    assert not list(Path("runs").rglob("*.part"))


def no_folder(path, make):
    """At path a file, or a link to nowhere."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if make == "file":
        Path(path).write_text("mine")
    else:
        os.symlink("nowhere", path)


@pytest.mark.parametrize("make", ["file", "link"])
@pytest.mark.parametrize("path", ["", "/fpl", "/fpl/seed-1", "/fpl/seed-1.part"])
def test_obstacles_are_refused_before_training(run_sh, path, make, capsys):
    """What stands where a folder must be is refused before anything is trained."""
    path = f"runs/compare-digits{path}"
    if path.count("/") > 1:
        assert run_sh("compare", *SMALL, "--methods", "moon", "--seeds", "1") == 0
    no_folder(path, make)
    before = sorted(map(str, Path("runs").rglob("*")))
    capsys.readouterr()
    assert run_sh(*TWO) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (
        f"fpl: {path} is there and no folder; nothing was changed: "
        "move it away or give another --name\n"
    )
    assert run_sh.trained == [] and sorted(map(str, Path("runs").rglob("*"))) == before


@pytest.mark.parametrize("versions", [None, [], "x", 3, [["numpy", 1, 2]]])
def test_versions_that_no_run_writes_stay(run_sh, versions, capsys):
    """They are one line and stay."""
    assert run_sh(*TWO) == 0
    path = Path("runs/compare-digits/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": versions}))
    before = files("runs")
    capsys.readouterr()
    assert run_sh(*TWO, "--seeds", "3") == 2
    err = capsys.readouterr().err
    assert (
        "runs/compare-digits is there, but its config.json cannot be used" in err
        and err.count("\n") == 1
    )
    assert run_sh.trained == [] and files("runs") == before


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["compare"], "required: task; ./run.sh compare --help"),
        (
            ["compare", "digits", "--methods", "fpl,fedavgg"],
            "--methods names 'fedavgg'; there are fedavg, fedprox, moon, feddyn, fedopt, fedproc, "
            "fedproto, fpl",
        ),
        (["compare", "digits", "--methods", ""], "--methods names ''; there are fedavg"),
        (
            ["ablate", "digits", "--methods", "fpl"],
            "--methods names 'fpl'; there are neither, cpcl, upcr, both",
        ),
        (["compare", "digits", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["compare", "digits", "--seeds", "two"], "invalid int value: 'two'"),
        (["compare", "digits", "--seed", "9" * 4300, "--seeds", "2"], "it must be at most 1e+100"),
        (
            ["compare", "digits", "--seed", str(int(1e100)), "--seeds", "2"],
            "it must be at most 1e+100",
        ),
        (
            ["compare", "digits", "--width", "3000000000"],
            "--width is 3000000000; it must be at most 512",
        ),
        (["compare", "digits", "--tau", "0"], "--tau is 0.0; it must be more than 0"),
        (["compare", "digits", "--name", "../up"], "--name is '../up'"),
        (["compare", "digits", "--name", "."], "--name is '.'"),
        (["ablate", "digits", "--upcr", "0"], "--upcr is 0.0; ablate switches them off itself"),
        (["compare", "digits"], "mnist has 40 training images, but 6 clients want 600 each"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(run_sh, arguments, part, capsys):
    assert run_sh(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and part in err and err.startswith("fpl: ") and err.count("\n") == 1
    assert not os.listdir()


# ---- in earnest: one client, one shape to compile

REAL = [
    sys.executable,
    "-I",
    str(ROOT / "lab" / "__main__.py"),
    "compare",
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
    "0,1,0,0",
    "--test-images",
    "20",
    "--methods",
    "fedavg",
    "--name",
    "real",
]


@pytest.mark.slow
@with_deep
def test_ctrl_c_in_a_real_run_is_recoverable(tmp_path):
    """The run ends with the sentence, and the next call ends with the report."""
    process = subprocess.Popen(
        [*REAL, "--seeds", "1000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("fedavg "):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "of 1000 runs are finished in runs/real; the same" in err
    finished = [
        name for name in os.listdir(tmp_path / "runs/real/fedavg") if not name.endswith(".part")
    ]
    assert f"Stopped: {len(finished)} of" in err and len(finished) >= 1
    done = subprocess.run(
        [*REAL, "--seeds", str(len(finished) + 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"done already: {len(finished)}; to do: 1;" in done.stdout
        and done.stdout.count("\nfedavg ") >= 1
    )
    assert not list((tmp_path / "runs").rglob("*.part"))
    assert Path(tmp_path, done.stdout.splitlines()[-1]).read_text().startswith("<!")
