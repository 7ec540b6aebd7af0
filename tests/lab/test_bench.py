"""bench: its arithmetic with made-up times, its command line, and small measurements in earnest."""

import contextlib
import csv
import dataclasses
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import fpl  # noqa: F401  (first: it sets what MindSpore reads while it is loaded)

# isort: split
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor

from lab.proof import bench, measures, rivals, timing
from lab.shell.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def row(side="at most", bound=1.0, name="made-up", pairs=((1.0, 1.0),)):
    return timing.Row(name, "this", "that", side, bound, len(pairs), lambda repeat: list(pairs))


def result(ratios, side="at most", bound=1.0, others=0.0):
    """Of pairs with these ratios."""
    return timing.figures(row(side, bound), [(ratio, 1.0) for ratio in ratios], others, 0.0)


# ---------------------------------------------------------------- figures and verdicts


def test_the_figure_is_the_median_of_ratios():
    """The ratios are those of the pairs. It is not the ratio
    of the medians, 2 here: a slow moment slows both of a pair."""
    made = timing.figures(row(), [(1.0, 1.0), (20.0, 10.0), (2.0, 0.5)], 0.25, 3.0)
    assert (made.ratio, made.first, made.second) == (2.0, 2.0, 1.0)
    made = timing.figures(row(), [(1.0, 1.0), (30.0, 10.0), (8.0, 2.0)], 0.25, 3.0)
    assert (made.low, made.ratio, made.high) == (2.0, 3.0, 3.5)
    assert (made.first, made.second, made.repeats, made.others, made.seconds) == (
        8.0,
        2.0,
        3,
        0.25,
        3.0,
    )


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=30), st.floats(0.01, 100))
def test_a_row_is_met_or_missed_by_bound(ratios, bound):
    """A row is met on one side of its bound and missed on the other."""
    most, least = result(ratios, "at most", bound), result(ratios, "at least", bound)
    median = float(np.median(ratios))
    assert timing.met(most) == (median <= bound)
    assert timing.met(least) == (median >= bound)
    assert timing.verdict(most).startswith("met" if median <= bound else "missed")


@given(st.lists(st.floats(0.5, 2), min_size=4, max_size=20))
def test_more_of_the_pairs_make_less_error(ratios):
    """More of the same pairs make the error smaller by the
    square root of their number, as in 1.82 IQR / sqrt(n)."""
    once, often = result(ratios * 4), result(ratios * 16)
    assert timing.error(often) <= timing.error(once)
    assert timing.error(once) == pytest.approx(
        1.82 * (once.high - once.low) / (4 * len(ratios)) ** 0.5
    )


@pytest.mark.parametrize(
    "ratios, others, words",
    [
        ([0.90, 0.90, 0.90, 0.90], 0.0, "met"),
        ([1.10, 1.10, 1.10, 1.10], 0.0, "missed"),
        ([0.97, 0.98, 1.00, 1.01], 0.0, "met, close"),
        ([0.99, 1.00, 1.02, 1.03], 0.0, "missed, close"),
        ([0.40, 0.45, 0.55, 0.60], 0.0, "met, noisy"),  # the quartiles are wide
        ([0.90, 0.90, 0.90, 0.90], 0.5, "met, noisy"),  # others keep half a core busy
        ([0.60, 0.80, 1.40, 1.60], 0.0, "missed, close, noisy"),
    ],
)
def test_what_is_close_or_noisy_is_called_so(ratios, others, words):
    assert timing.verdict(result(ratios, others=others)) == words


@pytest.mark.parametrize(
    "value, text",
    [
        (1234.5, "1,234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.0, "1.00"),
        (0.0123, "0.0123"),
        (0.00012, "0.00012"),
    ],
)
def test_figures_have_three_digits_and_no_exponent(value, text):
    """The figures are those on the screen."""
    assert bench.digits(value) == text


def test_a_table_line_has_the_verdicts_grounds():
    """A line of the table has all that the verdict hangs on."""
    lines = bench.table([result([1.5, 1.5, 1.5], bound=1.25, others=0.03)]).splitlines()
    assert len(lines) == 2
    for part in (
        "made-up",
        "this",
        "that",
        "1.50",
        "1.50-1.50",
        " 3 ",
        "0.03",
        "at most 1.25",
        "missed",
    ):
        assert part in lines[1]


def test_the_csv_has_every_digit_and_the_machine():
    made = [result([1 / 3, 1 / 3], "at least", 0.1), result([2.0, 2.0])]
    read = list(csv.DictReader(bench.csv_text(made, "a machine, with commas").splitlines()))
    assert [float(line["ratio"]) for line in read] == [1 / 3, 2.0]
    assert [line["verdict"] for line in read] == ["met", "missed"]
    assert {line["machine"] for line in read} == {"a machine, with commas"}
    assert read[0]["side"] == "at least" and len(read[0]) == 16


# ---------------------------------------------------------------- measuring


def test_the_two_take_turns_in_going_first():
    """They do so after a call to compile and one to warm."""
    calls = []
    pairs = timing.in_turn(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert len(pairs) == 3


def test_a_pair_holds_the_first_things_time_first():
    pairs = timing.in_turn(lambda: time.sleep(0.02), lambda: None, 4)
    assert all(first >= 0.02 > second for first, second in pairs)


def test_others_busy_time_is_not_ones_own(monkeypatch):
    """What others do is the busy time that is not one's own."""
    monkeypatch.setattr(timing, "clock", lambda: (110.0, 57.0, 22.0))
    # 17 of 20 core-seconds busy, 2 of them own, in 10 s
    assert timing.others_since((100.0, 40.0, 20.0)) == 1.5


def test_busy_time_is_that_of_usable_cores(monkeypatch):
    """It is that of the cores this process may use, without idling and waiting."""
    others = "cpu 9 9 9 9 9 9 9 9 9 9\ncpu0 5 5 5 5 5 5 5 5 5 5\n"
    text = others + "cpu1 100 200 300 4000 5000 10 20 40 7 7\nintr 1\n"
    monkeypatch.setattr(timing.os, "sched_getaffinity", lambda pid: {1})
    monkeypatch.setattr(timing.Path, "read_text", lambda path: text)
    assert timing.clock()[1] * os.sysconf("SC_CLK_TCK") == pytest.approx(670)


def test_a_neighbour_that_computes_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            before = timing.clock()
            time.sleep(1)
            assert timing.others_since(before) > 0.4
        finally:
            neighbour.kill()


def test_own_work_is_not_taken_for_a_neighbours():
    """The two clocks agree on it, whatever others do: busy time grows by at least one's own."""
    before = timing.clock()
    while time.perf_counter() - before[0] < 1:
        pass
    took, busy, own = (b - a for a, b in zip(before, timing.clock()))
    assert own > 0.3 and own - 0.1 < busy < took * len(os.sched_getaffinity(0)) + 0.1


def test_work_of_an_awaited_process_is_ones_own():
    """The work of a process that was waited for is one's own."""
    before = timing.clock()
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True
    )
    assert timing.clock()[2] - before[2] > 0.4  # the clock ticks in hundredths


@pytest.mark.parametrize("program", ["lab.proof.bench", "lab.methods.compare", "lab.run.repeat"])
def test_onednns_settings_are_set_before_mindspore_loads(program):
    """They are what oneDNN reads; else a step takes many times longer.

    MindSpore is kept from loading, so only what comes before it happens.
    """
    code = f"""import os, sys
sys.modules["mindspore"] = None
try:
    import {program}
except ImportError:
    print(os.environ["ONEDNN_MAX_CPU_ISA"])"""
    env = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, timeout=60
    )
    assert done.stdout == "AVX2\n", done.stderr


def test_rounds_compare_by_image_finch_by_pair(monkeypatch):
    """Rounds are compared by image and FINCH by pair of rows."""
    monkeypatch.setattr(measures, "in_turn", lambda first, second, repeat: [(9.0, 1.0)] * repeat)
    assert [a / b for a, b in measures.round_by_images(2, 1, 10, 9)] == pytest.approx([1.0, 1.0])
    assert [a / b for a, b in measures.finch_by_rows(2, 5, 15)] == pytest.approx([1.0, 1.0])


def test_rounds_of_many_clients_compare_by_client(monkeypatch):
    """In a pair the many stand first; nobody is tested."""
    opened = contextlib.nullcontext("engine")
    monkeypatch.setattr(measures.engines, "opened", lambda *arguments: opened)
    rounds = []
    monkeypatch.setattr(
        measures.fpl, "server_round", lambda s, clients, c, engine: rounds.append(len(clients))
    )

    def in_turn(first, second, repeat):
        first(), second()
        return [(8.0, 2.0)] * repeat

    monkeypatch.setattr(measures, "in_turn", in_turn)
    assert measures.round_by_clients(2, 1, 2, 4) == [(2.0, 1.0)] * 2
    assert rounds == [4, 2]


def test_a_start_comes_new_first_then_kept(monkeypatch):
    """The settings of a pair are new to the machine once, and no other pair has them."""
    clock, asked = [0.0], []

    def shortest_run(lr):
        clock[0] += 1.0 if lr in asked else 3.0
        asked.append(lr)

    monkeypatch.setattr(measures, "shortest_run", shortest_run)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert measures.kept_over_compiled(2) == [(1.0, 3.0)] * 2
    assert asked[0] == asked[1] != asked[2] == asked[3]
    assert all(0.01 < float(lr) < 0.02 for lr in asked)


def test_a_shortest_run_that_fails_is_one_line():
    with pytest.raises(InputError, match="ended with status 2: fpl: --lr is .*; leave") as caught:
        measures.shortest_run("-1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("repeat, shares", [(7, [3, 2, 2]), (2, [1, 1]), (3, [1, 1, 1])])
def test_each_share_compiles_the_two_steps_anew(monkeypatch, repeat, shares):
    """The two steps are compiled anew for each share of the pairs."""
    asked, made, cleared = [], [], []

    class Step:
        def cache_clear():
            cleared.append("cleared")

    monkeypatch.setattr(measures.fpl, "sgd_step", Step)
    monkeypatch.setattr(measures, "fpl_step", lambda batch: made.append("both") or object())
    monkeypatch.setattr(
        measures, "cross_entropy_step", lambda batch: made.append("none") or object()
    )
    monkeypatch.setattr(measures, "steps", lambda once: once)
    monkeypatch.setattr(
        measures,
        "in_turn",
        lambda first, second, share: asked.append((share, first, second)) or [(1.0, 2.0)] * share,
    )
    assert measures.both_losses_over_none(repeat, 1, compiles=3) == [(1.0, 2.0)] * repeat
    assert [share for share, _, _ in asked] == shares and made == ["both", "none"] * len(shares)
    assert cleared == ["cleared"] * len(shares)


@pytest.mark.parametrize("repeat", [4, 50])
def test_the_200th_step_is_compared_with_the_20th(monkeypatch, repeat):
    """Step number n takes n seconds."""
    clock, number = [0.0], [0]

    def once():
        clock[0] += number[0]
        number[0] += 1
        return 0.5, Tensor(0.5)

    monkeypatch.setattr(measures, "fpl_step", lambda batch: once)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    pairs = measures.late_over_early(repeat, 1, 20, 200)
    assert pairs == [(200 + i, 20 + i) for i in range(repeat)]


def test_the_servers_part_leaves_out_clients_turns(monkeypatch):
    """The server's part is the round without the clients' turns."""

    def server_round(state, clients, cfg, engine):
        list(engine(lambda m: time.sleep(0.1), clients))
        time.sleep(0.02)
        return state, {}

    monkeypatch.setattr(measures, "turn", lambda *arguments: None)
    monkeypatch.setattr(measures.fpl, "server_round", server_round)
    pairs = measures.server_over_round(2, 1, (8, 8))
    assert len(pairs) == 2 and all(
        0.02 <= server < 0.1 and total >= 0.22 for server, total in pairs
    )


def test_a_processs_peak_is_not_its_parents():
    ballast = np.ones(2**30, np.uint8)
    before = measures.peak_memory()
    del ballast
    code = "from lab.proof import measures; print(measures.peak_memory())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert before > 1024 > float(done.stdout)


def test_a_process_failing_to_train_is_one_line():
    """It is an error in one line."""
    with pytest.raises(
        InputError, match="train 0 clients ended with status 1: .*; leave"
    ) as caught:
        measures.peak_elsewhere(0, 1, 1)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- in earnest


@pytest.fixture(scope="module")
def batch():
    return measures.batch_of(4)


@pytest.mark.slow
def test_cell_and_compiled_step_train_the_same_network(batch):
    """Two losses each: the second stands after a step of SGD.

    Float32 in another order: six digits, less after a step.
    """
    compiled, eager = measures.fpl_step(batch), rivals.eager_step(batch)
    (first, second), (eager_first, eager_second) = [
        [loss_of(once()) for _ in range(2)] for once in (compiled, eager)
    ]
    assert eager_first == pytest.approx(first, rel=1e-5)
    assert eager_second == pytest.approx(second, rel=1e-3)
    assert abs(second - first) > 0.01


def test_torch_trains_the_same_network(batch):
    pytest.importorskip("torch")
    from lab.proof import in_torch

    assert float(in_torch.step(batch)()) == pytest.approx(
        loss_of(measures.fpl_step(batch)()), rel=1e-5
    )


@pytest.mark.parametrize("losses", ["vectorised", "image_by_image"])
def test_torchs_round_is_ours(losses):
    """Float32 in another order: after two steps four digits, and few images change sides."""
    pytest.importorskip("torch")
    from lab.proof import in_torch

    cfg = dataclasses.replace(measures.one_epoch(2, 5), batch_size=4, tau=0.1)
    clients = measures.made_clients((8, 4, 8, 4, 4))
    state = fpl.init_state(cfg)
    for _ in range(2):  # the second one has prototypes
        found, accuracy = in_torch.whole_round(
            state, clients, {"a": clients[0][:2]}, cfg, getattr(in_torch, losses)
        )
        state, _ = fpl.server_round(state, clients, cfg)
        assert found.prototypes.mask.tolist() == state.prototypes.mask.tolist()
        np.testing.assert_allclose(found.params.asnumpy(), state.params.asnumpy(), atol=2e-3)
        np.testing.assert_allclose(found.prototypes.unbiased, state.prototypes.unbiased, atol=1e-2)
        assert abs(accuracy["a"] - fpl.evaluate(state, {"a": clients[0][:2]})["a"]) <= 12.5


def loss_of(made):
    """What a step tells: our outputs, of which the loss is the fourth, or the loss alone."""
    return float(made[3] if isinstance(made, tuple) else made)


def test_loop_and_vectorised_losses_are_the_same():
    vectorised, loop = measures.loss_functions(16)
    (value, gradient), (slow_value, slow_gradient) = vectorised(), loop()
    assert value == pytest.approx(slow_value, rel=1e-5)
    np.testing.assert_allclose(
        gradient, slow_gradient, rtol=1e-3, atol=1e-4 * np.abs(gradient).max()
    )


def test_steps_in_earnest_take_some_time():
    """Width 4, on the compiled step that the tests above have used."""
    pairs = measures.late_over_early(2, 4, 2, 4)
    assert len(pairs) == 2 and np.min(pairs) > 0


# ---------------------------------------------------------------- command line

BAD = [  # arguments -> a part of the one line that must come
    (["--rows", "losses"], "--rows names 'losses'; there are losses-64, losses-16"),
    (["--rows", "torch-64"], "with --torch torch-64 too"),
    (["--rows", "finch-30k"], "with --large finch-30k too"),
    (["--torch", "--rows", "round-64"], "with --torch --large round-64 too"),
    (["--rows", ""], "--rows names ''"),
    (["--repeat", "1"], "--repeat is 1; it must be at least 2"),
    (["--repeat", "many"], "invalid int value: 'many'"),
    (["--row", "loop"], "unrecognized arguments: --row loop"),
    (["--csv=--"], "--csv has no value"),
    (["--csv", "folder"], "--csv is folder, a folder"),
    (["--csv", "file/below.csv"], "file"),
]


@pytest.mark.parametrize(
    "arguments, part", BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_measures_nothing(arguments, part, tmp_path, monkeypatch, capsys):
    """The status is 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "measured", None)
    Path("folder").mkdir()
    Path("file").touch()
    assert bench.main(arguments) == 2
    out, err = capsys.readouterr()
    assert part in err and err.startswith("fpl: ") and err.count("\n") == 1
    assert out == ""


def test_missing_torch_is_asked_for_by_name(monkeypatch, capsys):
    """Torch is asked for by name where it is missing."""
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "measured", None)
    assert bench.main(["--torch", "--rows", "torch-16"]) == 2
    assert "pip install torch" in capsys.readouterr().err


def test_rows_keep_the_tables_order():
    """Rows come in the table's order, and --repeat wins over their own."""
    chosen, path = bench.read(["--rows", "loop, losses-16", "--repeat", "3"])
    assert [(row.name, row.repeat) for row in chosen] == [("losses-16", 3), ("loop", 3)]
    assert path == "runs/bench.csv"
    own, _ = bench.read([])
    assert [row.name for row in own] == [name for name in bench.ROWS if not bench.ROWS[name].flags]
    assert [row.repeat for row in own] == [bench.ROWS[row.name].repeat for row in own]


def test_every_row_fits_measure_and_names_flag():
    """Every row fits its measure and names its flag."""
    for name, made in bench.ROWS.items():
        inspect.signature(made.measure).bind(made.repeat)
        assert (
            made.name == name
            and made.side in ("at most", "at least")
            and set(made.flags.split()) <= {"large", "torch"}
        )


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Rows that measure nothing: `good` is met, `bad` is missed, `cut` is interrupted."""

    def cut(repeat):
        raise KeyboardInterrupt

    made = [
        row(name="good", pairs=[(1.0, 2.0)] * 3),
        row(name="bad", pairs=[(3.0, 2.0)] * 3),
        row(name="cut")._replace(measure=cut),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "ROWS", {row.name: row for row in made})


def lines(path):
    return [
        (line["row"], float(line["ratio"]), line["verdict"].split(",")[0])
        for line in csv.DictReader(path.open())
    ]


@pytest.mark.usefixtures("stand_ins")
def test_the_table_the_file_and_the_status_agree(tmp_path, capsys):
    assert bench.main(["--rows", "good"]) == 0
    assert lines(tmp_path / "runs" / "bench.csv") == [("good", 0.5, "met")]
    assert bench.main(["--rows", "good,bad", "--csv", "new/figures.csv"]) == 1
    assert lines(tmp_path / "new" / "figures.csv") == [("good", 0.5, "met"), ("bad", 1.5, "missed")]
    assert sorted(os.listdir(tmp_path)) == ["new", "runs"] and os.listdir("new") == ["figures.csv"]
    out = capsys.readouterr().out
    assert (
        "1 of 2 met; missed: bad" in out and "mindspore 2" in out and "other processes use" in out
    )


@pytest.mark.usefixtures("stand_ins")
def test_an_interrupt_keeps_the_rows_measured(tmp_path, capsys):
    """An interrupted call keeps the rows that it has measured."""
    assert bench.main([]) == 130
    assert [line[0] for line in lines(tmp_path / "runs" / "bench.csv")] == ["good", "bad"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("stand_ins")
def test_a_busy_machine_is_said_twice(monkeypatch, capsys):
    """It is said at the start and in the verdict."""
    monkeypatch.setattr(bench, "others_since", lambda before: 0.9)
    bench.main(["--rows", "good"])
    out = capsys.readouterr().out
    assert (
        "not a quiet machine" in out
        and "met, noisy" in out
        and "measure again on a quiet machine: good" in out
    )
