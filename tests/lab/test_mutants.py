"""What ./run.sh mutants chooses and concludes, without making one.

That takes hours and a package of its own.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lab.proof import mutants
from lab.proof.properties.contract import PROPERTIES

ROOT = Path(__file__).resolve().parents[2]
PLAN = mutants.read_plan()


def functions_of(module):
    """The functions of a file, also those within others."""
    nodes = ast.walk(ast.parse((ROOT / module).read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "group",
    PLAN["group"],
    ids=lambda group: f"{group['module']}:{group.get('functions', ['all'])[0]}",
)
def test_groups_name_functions_and_files_that_exist(group):
    """The files are test files."""
    assert set(group.get("functions", [])) <= functions_of(group["module"])
    for stage in group["tests"]:
        assert stage.startswith("tests/")
        assert all((ROOT / name).is_file() for name in re.findall(r"tests/[\w/]+\.py", stage))


def test_each_choice_of_tests_finds_some():
    """Of a word after -k that is in no name, pytest says nothing."""
    for group in PLAN["group"]:
        for stage in group["tests"]:
            file, *options = shlex.split(stage)
            words = set(re.findall(r"[\w-]+", options[-1]) if options else [])
            words -= {"-k", "and", "or", "not"}
            names = functions_of(file)
            if file == "tests/method/test_properties.py":
                names |= {f"{p.functions[0]}-{p.name}" for p in PROPERTIES}
            assert all(any(word in name for name in names) for word in words), stage


def test_each_reasons_line_is_still_there():
    modules = {group["module"] for group in PLAN["group"]}
    assert not mutants.stale(PLAN, {module: (ROOT / module).read_text() for module in modules})
    assert all(
        entry["reason"].startswith(("equivalent: ", "left: ")) for entry in PLAN.get("left", [])
    )


def test_functions_belong_to_the_first_fitting_group():
    """That is the first group that names the function or that names none."""
    plan = {
        "group": [
            {"module": "a.py", "functions": ["f"], "tests": 1},
            {"module": "a.py", "tests": 2},
            {"module": "b.py", "functions": ["g"]},
        ]
    }
    assert (
        mutants.group_of(plan, "a.py", "f")["tests"] == 1
        and mutants.group_of(plan, "a.py", "g")["tests"] == 2
    )
    assert (
        mutants.group_of(plan, "a.py", None)["tests"] == 2
        and mutants.group_of(plan, "b.py", "f") is None
    )


def a_mutant(job, function="f"):
    return mutants.Mutant("a.py", function, 3, "core/NumberReplacer", 0, job)


def outcome(how):
    return mutants.Outcome(how, "tests/test_x.py::test_y", 0.5, "digest")


@pytest.fixture
def one_change(monkeypatch):
    """Every mutant turns `x = 1` into `x = 2`."""
    monkeypatch.setattr(
        mutants, "mutate", lambda source, operator, occurrence: source.replace("x = 1", "x = 2")
    )


SOURCES = {"a.py": "import b\nx = 1\ny = 3\n"}
REASON = {
    "module": "a.py",
    "was": "x = 1",
    "now": ["x = 0", "x = 2"],
    "reason": "equivalent: nobody reads x",
}


def concluded(hows, left):
    chosen = [a_mutant(str(i)) for i in range(len(hows))]
    results = {
        "a.py": (
            chosen * 2,
            chosen,
            {mutant.job: outcome(how) for mutant, how in zip(chosen, hows)},
        )
    }
    return mutants.summary({"group": [], "left": left}, SOURCES, results, "Mutants")


def test_nineteen_of_twenty_killed_are_enough(one_change):
    """The last has a reason."""
    text, good = concluded(["killed"] * 18 + ["timeout", "survived"], [REASON])
    assert good and "| a.py | 40 | 20 | 19 | 1 | 1 | 95.0 |" in text
    assert (
        "nobody reads x" in text
        and "time-out" in text
        and "WITHOUT" not in text
        and "NOT ENOUGH" not in text
    )


def test_a_survivor_without_a_reason_is_shouted(one_change):
    """It is shouted with its place and its change."""
    text, good = concluded(["killed"] * 19 + ["survived"], [])
    assert not good and "SURVIVORS WITHOUT A REASON" in text
    assert "a.py:3 f, NumberReplacer: survived\n      - x = 1\n      + x = 2" in text


def test_under_95_percent_killed_is_not_enough(one_change):
    """No reasons make it enough."""
    text, good = concluded(["killed"] * 18 + ["survived"] * 2, [REASON])
    assert not good and "NOT ENOUGH" in text and "90.0" in text


def test_stale_reasons_do_not_count(one_change):
    """A stale reason is for another change, or for a line that is gone."""
    for other in ({"now": ["x = 3"]}, {"module": "b.py"}, {"was": "y = 3"}):
        assert mutants.reason_of({"left": [REASON | other]}, "a.py", "x = 1", "x = 2") == ""
    text, good = concluded(["killed"] * 20, [REASON | {"was": "z = 1"}])
    assert not good and "no longer there" in text


def test_changes_over_several_lines_are_read_as_one():
    assert mutants.changed("a = f(1,\n      2)\nb = 0\n", "a = f(1,\n      3)\nb = 0\n") == (
        "2)",
        "3)",
    )
    assert mutants.is_python("f(*rows)") and not mutants.is_python("f(/rows)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sample", "0"],
        ["--sample", "x"],
        ["--module", "other.py"],
        ["--seed", "-1"],
        ["--module=--"],
    ],
)
def test_bad_options_are_one_line_and_status_two(arguments, capsys):
    assert mutants.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("fpl: ") and said.count("\n") == 1


BODIES = {
    "assert thing.x == 1": "survived by ",
    "assert thing.x == 2": "killed by tests/lab/test_thing.py::test_it",
    "while True: pass": "timeout by SIGXCPU",
    "import os; os.kill(os.getpid(), 11)": "killed by SIGSEGV",
}


def test_a_mutants_tests_have_their_own_process(tmp_path):
    """How they end is told apart."""
    (tmp_path / "tests" / "lab").mkdir(parents=True)
    (tmp_path / "thing.py").write_text("x = 1\n")
    code = f"""
from pathlib import Path
from lab.proof import mutants
from lab.proof.properties.contract import PROPERTIES
mutants.OWN, folder = ("thing",), Path({str(tmp_path)!r})
for body in {list(BODIES)}:
    test = "import thing\\ndef test_it():\\n    " + body + "\\n"
    (folder / "tests/lab/test_thing.py").write_text(test)
    end = mutants.run_tests(folder, ("tests/lab/test_thing.py",), 2)
    print(end.how, "by", end.by)
"""
    # not a fork of this process: it may have run an operator of MindSpore
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == list(BODIES.values()), done.stderr


def test_a_result_rests_on_its_tests(tmp_path):
    """It rests on what tests share, too."""
    (tmp_path / "tests" / "method").mkdir(parents=True)
    names = ("tests/method/test_a.py", "tests/method/test_b.py", "tests/shared.py")
    digests = []
    for changed in (None, *names):
        for name in names:
            (tmp_path / name).write_text("changed" if name == changed else "")
        digests.append(mutants.digest(tmp_path, ["tests/method/test_a.py -k some"]))
    before, own, other, shared = digests
    assert other == before and len({before, own, shared}) == 3


def test_the_mutants_profile_stops_at_first_failure():
    """It stops without shrinking."""
    from hypothesis import Phase, settings

    assert Phase.shrink not in settings.get_profile("mutants").phases
    assert (
        settings.get_profile("mutants").derandomize
        and settings.get_profile("deep").max_examples == 10_000
    )
