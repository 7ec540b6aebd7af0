"""The command check: whatever FILE is, the verdict is for its author and the exit status tells."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.proof import check

ROOT = Path(__file__).resolve().parents[2]
RIGHT = """
def unbiased_prototypes(clusters, mask):
    sums = np.where(mask[:, :, None], clusters, 0).sum(axis=1)
    return sums / np.maximum(mask.sum(axis=1), 1)[:, None]
"""
WRONG = """
def unbiased_prototypes(clusters, mask):
    return np.where(mask[:, :, None], clusters, 0).mean(axis=1)  # absent clusters count
"""
STEP = """
def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    velocity = momentum * velocity + (grad + weight_decay * param)
    return param - lr * velocity, velocity
"""


@pytest.fixture
def checked(tmp_path, capfd):
    """checked(source, *options) -> exit status, standard output, standard error."""

    def call(source, *options, name="theirs.py"):
        file = tmp_path / name
        if isinstance(source, bytes):
            file.write_bytes(source)
        else:
            file.write_text(f"import numpy as np\n{source}")
        status = check.main([str(file), "--examples", "20", *options])
        return (status, *capfd.readouterr())

    return call


def refused(outcome, *words):
    """Status 2, and one line on standard error that has the words."""
    status, _, err = outcome
    assert status == 2
    assert len(err.splitlines()) == 1 and err.startswith("fpl: "), err
    assert all(word in err for word in words), err


# ---------------------------------------------------------------- what holds, what does not


def test_a_right_file_holds_with_status_0(checked):
    status, out, err = checked(RIGHT)
    assert (status, err) == (0, "")
    assert "does not hold" not in out
    assert "  holds           The unbiased prototype is the plain mean" in out
    assert re.search(r"^  \d+ properties: cpcl is not in the file$", out, re.MULTILINE)
    assert re.search(r"Of \d+ properties 3 hold, \d+ are not judged\.$", out)


def test_a_wrong_file_shows_a_counterexample(checked, tmp_path):
    """Which reproduces when it is pasted, with what came out and what the oracle says."""
    status, out, err = checked(WRONG, "--seed", "3")
    assert (status, err) == (1, "")
    assert "  does not hold   The unbiased prototype is" in out
    block = out.split("-- unbiased_prototypes_are_the_oracles: ")[1]
    assert "Usual cause: Divide by the number of the class's clusters" in block
    assert "allowed are" in block and "in float32" in block
    code = block[block.index("import runpy") : block.index("Usual cause")]
    assert len(code.splitlines()) < 20
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "elsewhere", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    came_out = ast.literal_eval(re.search(r"# came out:   (.*)", code)[1])
    oracles = ast.literal_eval(re.search(r"# the oracle: (.*)", code)[1])
    shown = [float(number) for number in re.findall(r"-?\d+\.\d*", done.stdout)]
    assert all(number in shown for number in came_out) and came_out != oracles


def test_small_whole_numbers_make_the_counterexample(checked):
    _, out, _ = checked(WRONG)
    numbers = re.search(r"clusters = np\.array\((.*), np\.float32\)", out)[1]
    assert len(numbers) < 80 and set(re.findall(r"\d+\.\d*", numbers)) <= {
        "0.0",
        "1.0",
        "2.0",
        "3.0",
    }


def test_the_same_seed_gives_the_same_verdict(checked):
    assert checked(WRONG, "--seed", "5") == checked(WRONG, "--seed", "5")


def test_only_judges_what_is_named(checked):
    _, out, _ = checked(RIGHT + STEP, "--only", "sgd_step")
    assert "unbiased" not in out and "Of 4 properties 4 hold." in out
    _, out, _ = checked(RIGHT + STEP, "--only", "an_sgd_step_is_the_oracles, unbiased_prototypes")
    assert "Of 6 properties 4 hold, 2 are not judged." in out


def test_known_failures_do_not_count(checked, tmp_path):
    known = tmp_path / "known.txt"
    known.write_text("# of ours\nunbiased_prototypes_are_the_oracles  # since the first release\n")
    status, out, _ = checked(WRONG, "--known", str(known))
    assert status == 0 and "1 are known not to hold" in out and "import runpy" not in out
    status, out, _ = checked(RIGHT, "--known", str(known))
    assert status == 0 and "which holds: take it out of the list" in out
    known.write_text("unbiased_prototypes_are_the_oracle\n")
    refused(checked(WRONG, "--known", str(known)), "did you mean unbiased_prototypes_are_the_oracl")


def test_json_and_page_hold_the_verdicts(checked, tmp_path):
    written = [str(tmp_path / name) for name in ("o.json", "o.html")]
    checked(WRONG, "--json", written[0], "--html", written[1])
    told = json.loads(Path(written[0]).read_text())
    assert told["settings"]["level"] == "equations" and told["summary"]["does not hold"] == 1
    failing = [p for p in told["properties"] if p["outcome"] == "does not hold"]
    assert [p["name"] for p in failing] == ["unbiased_prototypes_are_the_oracles"]
    assert failing[0]["failure"]["snippet"] in Path(written[1]).read_text().replace("&#x27;", "'")
    page = Path(written[1]).read_text()
    assert page.startswith("<!DOCTYPE html>") and page.count("<section>") == 1
    assert not re.search(r"(?:src|href)=", page)  # it needs no other file


def test_a_file_that_cannot_be_written_is_one_line(checked, tmp_path):
    status, _, err = checked(RIGHT, "--json", str(tmp_path / "no" / "o.json"))
    assert status == 2 and err.count("\n") == 1 and "o.json" in err


# ---------------------------------------------------------------- settings and levels


def test_settings_say_what_the_file_stands_for(checked):
    coarse = """
SETTINGS = {"partition": "last", "reduce": "sum", "level": "strict"}
"""
    _, out, _ = checked(coarse + RIGHT)
    assert "level strict, partition last, reduce sum" in out.splitlines()[0]
    _, out, _ = checked(coarse + RIGHT, "--level", "equations", "--partition", "first")
    assert "level equations, partition first, reduce sum" in out.splitlines()[0]
    refused(checked('SETTINGS = {"tau": 1}\n' + RIGHT), "SETTINGS", "partition")
    refused(checked('SETTINGS = {"level": "hard"}\n' + RIGHT), "'hard'", "equations or strict")


MEAN_ONLY = """
def upcr(z, labels, unbiased, known, reduce):
    off = np.where(known[labels][:, None], z - np.where(known[:, None], unbiased, 0)[labels], 0)
    return (off * off).mean(axis=1).mean(), 2 * off / off.size
"""


def test_released_settings_are_accepted_by_flags(checked):
    assert checked(MEAN_ONLY)[0] == 1
    status, out, _ = checked(MEAN_ONLY, "--upcr", "mean")
    assert status == 0 and "it needs mean and sum, the settings name another" in out


def test_a_value_alone_is_judged_as_a_value(checked):
    source = MEAN_ONLY.replace(", 2 * off / off.size", "")
    status, out, _ = checked(source, "--upcr", "mean")
    assert status == 0 and "1 property: upcr returns no gradient" in out


# ---------------------------------------------------------------- files that cannot be used


@pytest.mark.parametrize(
    "source, words",
    [
        ("def cpcl(:\n", ["cannot be imported", "SyntaxError", "line 2"]),
        (b"x = '\xff'\n", ["cannot be imported", "utf-8"]),
        (b"x = 1\0\n", ["cannot be imported", "null"]),
        ("import no_such_package\n", ["cannot be imported", "no_such_package"]),
        ("1 / 0\n", ["ZeroDivisionError", "theirs.py, line 2"]),
        ("raise SystemExit(0)\n", ["cannot be imported", "SystemExit"]),
        ("import os\nos._exit(0)\n", ["the import ended the process with status 0"]),
        ("import os\nos.abort()\n", ["the import ended the process by SIGABRT"]),
        ("def cpcl_loss(z): pass\n", ["none of the functions", "it has cpcl_loss"]),
        ("cpcl = 3\n", ["none of the functions", "no function at all"]),
        (
            "def finch(x): raise NotImplementedError\n",
            ["nothing was judged", "NotImplementedError"],
        ),
    ],
)
def test_a_file_without_use_is_one_line(checked, source, words):
    refused(checked(source), "theirs.py", *words)


def test_what_is_no_file_is_one_line(tmp_path, capfd):
    for path in (tmp_path, tmp_path / "none.py"):
        refused((check.main([str(path)]), *capfd.readouterr()), str(path), "is not a file")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--only", "cpcl_los"], ["'cpcl_los'", "did you mean"]),
        (["--examples", "0"], ["--examples is 0"]),
        (["--level", "hard"], ["hard", "equations"]),
        (["--known", "none.txt"], ["none.txt cannot be read"]),
        (["--frobnicate"], ["--frobnicate"]),
    ],
)
def test_a_wrong_option_is_one_line(checked, options, words):
    refused(checked(RIGHT, *options), *words)


@pytest.mark.parametrize(
    "source, words",
    [
        ("def unbiased_prototypes(clusters): pass", ["cannot be called as", "(clusters, mask)"]),
        ("def unbiased_prototypes(c, m): return c", ["has the shape [1,1,2]; it must have [1,2]"]),
        ("def unbiased_prototypes(c, m): return 'x'", ["is a str that NumPy does not read"]),
        ("def unbiased_prototypes(c, m): return None", ["NoneType"]),
        ("def unbiased_prototypes(c, m): return c[:, 0] * 1j", ["complex"]),
        ("def unbiased_prototypes(c, m): return [[1, 2], [3]]", ["list"]),
        ("def finch(x): return np.zeros(len(x), int)", ["ndarray", "list of label arrays"]),
        ("def finch(x): return [np.zeros(len(x) + 1)]", ["partition 0 has the shape"]),
        ("def finch(x): return [np.full(len(x), 0.5)]", ["whole numbers"]),
        ("def class_prototypes(z, l, k): return z", ["ndarray", "(means [K,d], counts [K])"]),
        ("def weighted_mean(t, w): return {'a': 1}", ["['a']", "dict of ['matrix', 'number']"]),
        ("def cpcl(z, l, c, m, t): return z[:, 0].repeat(2)", ["the value has the shape"]),
    ],
)
def test_an_answer_of_another_kind_is_one_line(checked, source, words):
    """With the call that showed it."""
    name = re.search(r"def (\w+)", source)[1]
    refused(checked(source + "\n"), "theirs.py", f"{name}(", *words)


def test_the_rest_of_the_file_is_judged_all_the_same(checked):
    status, out, err = checked("def finch(x): return 3\n" + RIGHT)
    assert status == 2 and "3 hold" in out and "1 cannot be used" in out
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "body, words",
    [
        ("import time; time.sleep(99)", ["has not come back for 2 seconds", "--patience"]),
        ("import os; os._exit(3)", ["ended the process with status 3"]),
        ("import os; os.kill(os.getpid(), 11)", ["ended the process by SIGSEGV"]),
    ],
)
def test_a_call_that_never_returns_is_named(checked, body, words):
    source = f"def unbiased_prototypes(clusters, mask): {body}\n"
    call = "unbiased_prototypes(np.array("
    refused(checked(source, "--patience", "2"), call, *words)


# ---------------------------------------------------------------- functions that misbehave


@pytest.mark.parametrize(
    "body, words",
    [
        ("raise KeyError('k')", ["raises KeyError: 'k' (theirs.py, line 2)"]),
        ("raise SystemExit", ["raises SystemExit"]),
        ("return clusters[:, 0] * np.nan", ["is not finite"]),
        ("clusters *= 2; return clusters[:, 0]", ["unbiased_prototypes changed its argument"]),
        ("return np.random.rand(*clusters[:, 0].shape)", ["is off"]),
    ],
)
def test_a_function_that_misbehaves_fails(checked, body, words):
    status, out, err = checked(f"def unbiased_prototypes(clusters, mask): {body}\n")
    assert (status, err) == (1, "")
    assert all(word in out for word in words), out
    assert "import runpy" in out


def test_what_the_file_prints_is_no_verdict(checked):
    noisy = RIGHT.replace("    sums", "    print('NOISE')\n    sums")
    status, out, err = checked(f"print('HELLO')\n{noisy}")
    assert status == 0 and "NOISE" not in out and "HELLO" not in out
    assert err.count("HELLO") == 1 and "NOISE" in err


def test_lists_and_doubles_are_read(checked):
    status, *_ = checked(RIGHT.replace("return sums", "return (sums").rstrip() + ").tolist()\n")
    assert status == 0


def test_the_file_imports_what_lies_beside_it(checked, tmp_path):
    (tmp_path / "beside_it.py").write_text(f"import numpy as np\n{RIGHT}")
    assert checked("from beside_it import unbiased_prototypes\n", name="a name-1.2.py")[0] == 0


# ---------------------------------------------------------------- the door, and other Pythons


def test_the_door_leads_to_check(tmp_path):
    file = tmp_path / "theirs.py"
    file.write_text(f"import numpy as np\n{WRONG}")
    done = subprocess.run(
        [sys.executable, "-I", str(ROOT / "lab" / "__main__.py"), "check", "theirs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    assert done.stdout.startswith("theirs.py: level equations")


def test_the_module_runs_by_itself(tmp_path):
    file = tmp_path / "theirs.py"
    file.write_text(f"import numpy as np\n{RIGHT}")
    done = subprocess.run(
        [sys.executable, "-m", "lab.proof.check", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
