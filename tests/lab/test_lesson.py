"""docs/lesson.md prints what it says, draws its pictures, and its exercises can be solved."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

import oracle_np as oracle
from lab.proof import check, implementation, lesson
from lab.proof.judge import FAILS, HOLDS, chosen, judge
from lab.proof.properties.contract import FUNCTIONS

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = lesson.PAGE.read_text(encoding="utf-8")
BLOCKS = lesson.blocks(TEXT)
NAMES, OUTPUTS = lesson.run(BLOCKS)
STEPS = [f"Step {n}" for n in range(1, 9)]
COMMANDS = re.findall(r"^    \./run\.sh check docs/exercise\.py(.*)$", TEXT, re.MULTILINE)
FPL = [name for name in FUNCTIONS if name != "batch_norm"]  # that one is of the network


def judged(module, level="equations", only=(), examples=20):
    """Property: its outcome. module: anything that has the functions."""
    settings = implementation.settings_of(module, {"level": level})
    theirs = implementation.Implementation(module, settings)
    return {v.name: v.outcome for v in judge(theirs, chosen(list(only)), examples)}


# ---------------------------------------------------------------- the blocks


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[f"line {b.line}" for b in BLOCKS])
def test_a_block_prints_what_the_page_says(number):
    assert OUTPUTS[number] == BLOCKS[number].printed


@pytest.mark.parametrize("block", BLOCKS, ids=[f"line {b.line}" for b in BLOCKS])
def test_a_block_is_short(block):
    assert len(block.code.splitlines()) <= 15
    assert len(block.printed.splitlines()) <= 6


@pytest.mark.parametrize("step", STEPS)
def test_each_step_prints_and_has_an_exercise(step):
    assert [b for b in BLOCKS if b.step.startswith(f"{step}:") and b.printed]
    section = TEXT.split(f"## {step}:")[1].split("\n## ")[0]
    assert f"**Exercise {step[5:]}.**" in section
    assert "./run.sh check docs/exercise.py" in section


def test_lines_of_the_page_fit():
    assert [line for line in TEXT.splitlines() if len(line) > 100] == []


def test_blocks_and_their_outputs_are_found():
    text = "## One\n```python\na = 1\nprint(a)\n```\n```text\n1\n```\n"
    text += "## Two\n\n```python\nb = 2\n```\n"
    assert lesson.blocks(text) == [
        lesson.Block("One", 3, "a = 1\nprint(a)\n", "1\n"),
        lesson.Block("Two", 12, "b = 2\n", ""),
    ]


def test_the_pages_loss_is_the_oracles():
    """Equation 12 at random parameters: cross-entropy, which round 1 has alone, and both terms."""
    rng = np.random.default_rng(0)
    x, labels, p = rng.standard_normal((5, 2)), np.array([0, 1, 1, 0, 1]), rng.standard_normal(8)
    prototypes = {0: rng.standard_normal((2, 2)), 1: rng.standard_normal((1, 2))}
    z, unbiased = NAMES["feature"](p, x), oracle.unbiased_prototypes(prototypes)
    scores = z @ p[4:].reshape(2, 2)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    entropy = -np.log(chances[np.arange(5), labels]).mean()
    terms = oracle.cpcl_loss(z, labels, {k: list(c) for k, c in prototypes.items()}, 0.2)
    terms += oracle.upcr_loss(z, labels, unbiased, "mean")
    assert abs(NAMES["loss"](p, x, labels, {}) - entropy) < 1e-12
    assert abs(NAMES["loss"](p, x, labels, prototypes) - entropy - terms) < 1e-12


def test_the_pages_slope_is_the_oracles():
    """Along the circle: the oracle's gradient times z after a quarter turn."""
    own, other = NAMES["own"], NAMES["other"]
    ragged = {0: list(own), 1: list(other)}
    for z in NAMES["at"](*range(0, 360, 15)):
        for tau in 1.0, 0.2, 0.02:
            want = oracle.cpcl_grad(z[None], [0], ragged, tau)[0] @ [-z[1], z[0]]
            # A slope is at most 2 / tau, and its exponents, up to 1 / tau, are rounded.
            got = NAMES["slope"](z, own, other, tau)
            assert abs(got - want) < 16 * 2.0**-53 * 2 / tau * (1 + 1 / tau)


# ---------------------------------------------------------------- the command and its pictures


def test_lesson_shows_outputs_and_draws_pictures(tmp_path, capsys):
    assert lesson.main(["--to", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(step in out for step in STEPS)
    assert "".join(block.printed for block in BLOCKS if block.step.startswith("Step 8")) in out
    for name in lesson.PICTURES:
        assert str(tmp_path / name) in out
        assert f"]({name})" in TEXT


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of the page's pictures, drawn now."""
    folder = tmp_path_factory.mktemp("drawn")
    lesson.draw(NAMES, folder)
    return folder


def differing(folder, other):
    """The pictures that are not the same bytes in both folders."""
    return [
        name
        for name in lesson.PICTURES
        if (folder / name).read_bytes() != (other / name).read_bytes()
    ]


def test_drawing_twice_gives_the_same_bytes(drawn, tmp_path):
    lesson.draw(NAMES, tmp_path)
    assert differing(drawn, tmp_path) == []


@pytest.mark.skipif(matplotlib.__version__ != "3.11.2", reason="the page's pictures are of 3.11.2")
@pytest.mark.parametrize("name", lesson.PICTURES)
def test_the_pages_pictures_are_drawn_from_it(name, drawn):
    assert np.array_equal(imread(drawn / name), imread(DOCS / name))


@pytest.mark.parametrize(
    "change, changed",
    [
        (("[1, 0], [1, -0.2]", "[1, 0.1], [1, -0.2]"), ["prototypes", "cpcl"]),
        (("at(0, 10, 90, 95)", "at(0, 10, 60, 65)"), ["finch"]),
        (("np.array([[-1.0, 0.0]])", "np.array([[0.0, -1.0]])"), ["cpcl"]),
        (("return cosines.argmax(axis=1)", "return cosines.argmin(axis=1)"), ["finch"]),
    ],
)
def test_another_page_gives_other_pictures(change, changed, drawn, tmp_path):
    """The pictures come from what the blocks define."""
    assert TEXT.count(change[0]) == 1
    names, _ = lesson.run(lesson.blocks(TEXT.replace(*change)))
    lesson.draw(names, tmp_path)
    assert {f"lesson-{name}.png" for name in changed} <= set(differing(drawn, tmp_path))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--to", "no/such/folder"], "no/such/folder, which is no folder"),
        (["--no-such"], "--no-such"),
        (["7"], "7"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    assert lesson.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "change, said",
    [
        (("return z[labels == k]", "return zz[labels == k]"), "NameError"),
        (("import numpy as np\n\ndef", "import numpy as np\n\nde f"), "SyntaxError"),
        (("fine = link(eight)", "fin = link(eight)"), "'fine'"),
        (("def slope(", "def another("), "'slope'"),
    ],
)
def test_a_broken_page_is_one_line(change, said, tmp_path, monkeypatch, capsys):
    """It names the line where the error arose, or the picture that lacks something."""
    page = tmp_path / "lesson.md"
    page.write_text(TEXT.replace(*change), encoding="utf-8")
    monkeypatch.setattr(lesson, "PAGE", page)
    assert lesson.main(["--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert "lesson.md, line " in error


def test_an_error_names_the_line_of_the_page():
    text = "\n\n```python\ndef f():\n    return 1 / 0\n\n\nf()\n```\n"
    with pytest.raises(lesson.InputError, match=r"page, line 5: ZeroDivisionError"):
        lesson.run(lesson.blocks(text), "page")


# ---------------------------------------------------------------- the exercises

EXERCISE = implementation.load(DOCS / "exercise.py")
SOLVED = implementation.load(Path(__file__).resolve().parent / "solved_exercise.py")


def test_the_exercises_are_fpls_functions():
    """With the contract's names and arguments, none of them written."""
    there = dict(inspect.getmembers(EXERCISE, inspect.isfunction))
    assert set(there) == set(FPL)
    for name, function in there.items():
        arguments = [
            a.split()[0]
            for a in re.findall(r"\w+(?: \[[^]]*\])?", FUNCTIONS[name].split(" -> ")[0])
        ]
        assert list(inspect.signature(function).parameters) == arguments
        assert inspect.signature(getattr(SOLVED, name)) == inspect.signature(function)
        with pytest.raises(NotImplementedError):
            function(*arguments)


def test_the_unsolved_exercises_are_not_judged(capsys):
    assert check.main([str(DOCS / "exercise.py"), "--examples", "1"]) == 2
    out, error = capsys.readouterr()
    for name in FPL:
        assert f"{name} raises NotImplementedError" in out + error
    assert "does not hold" not in out


@pytest.fixture(scope="module")
def grades():
    """{level: {property: outcome}} of the solved exercises."""
    return {level: judged(SOLVED, level) for level in ("equations", "strict")}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_solved_exercises_pass_each_grade(command, grades):
    options = check.parser().parse_args(["exercise.py", *command.split()])
    outcomes = grades[options.level or "equations"]
    wanted = [p for p in chosen(options.only) if "batch_norm" not in p.functions]
    if options.level != "strict":
        wanted = [p for p in wanted if p.level != "strict"]
    assert wanted
    assert {p.name: outcomes[p.name] for p in wanted} == {p.name: HOLDS for p in wanted}


def test_the_commands_reach_all_exercises():
    only = [check.parser().parse_args(["f", *command.split()]).only for command in COMMANDS]
    assert len(COMMANDS) >= 8
    assert {f for names in only if names for p in chosen(names) for f in p.functions} == set(FPL)


def test_the_finest_partition_alone_passes_step_three():
    """And does not pass step 4."""
    half = SimpleNamespace(finch=lambda x: SOLVED.finch(x)[:1])
    name = "the_finest_partition_is_the_oracles"
    assert judged(half, only=[name]) == {name: HOLDS}
    assert FAILS in judged(half, only=["finch"]).values()


def test_values_as_on_the_page_pass_step_six():
    """A loop over the batch around step 6's own functions, which return no gradient."""
    names, _ = lesson.run([b for b in BLOCKS if b.step < "Step 7"])

    def cpcl(z, labels, clusters, mask, tau):
        total, z, clusters = 0.0, z.astype(np.float64), clusters.astype(np.float64)
        for row, k in zip(z, labels):
            others = np.arange(len(mask)) != k
            own, other = clusters[k][mask[k]], clusters[others][mask[others]]
            if len(own) and len(other):
                total += names["cpcl"](row, own, other, tau)
        return total / len(z)

    outcomes = judged(SimpleNamespace(cpcl=cpcl), only=["cpcl"])
    assert FAILS not in outcomes.values()
    assert outcomes["cpcl_is_the_oracles"] == HOLDS
    assert outcomes["the_gradient_of_cpcl_is_the_oracles"] != HOLDS
