"""Mutation testing: faults are put into the mathematics one at a time; the tests must notice each.

cosmic-ray makes the mutants and keeps the session; this file runs the tests
on each and reads the outcome. mutants.toml says which functions are mutated,
which tests each of them gets, and why a survivor is left.

A mutant lies in a copy of the project in a temporary folder. Its tests run in a fork of this
process, which imports MindSpore but never runs an operator of it (a fork after one hangs): as fresh
as a new process, without the 3 s of imports. Tests stop at the first failure and shrink nothing
(profile "mutants" in tests/conftest.py).

What a result rests on decides how long it is kept in runs/mutants/:
a module that changes has its mutants made and run anew;
a survivor is run again when its tests change; a killed mutant stays killed until --fresh.
"""

import argparse
import ast
import difflib
import functools
import gc
import hashlib
import json
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

# Before MindSpore is imported: networks this small gain nothing by two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HYPOTHESIS_PROFILE"] = "mutants"

import numpy as np
import pytest
from tqdm import tqdm

import fpl  # noqa: F401  (MindSpore is loaded once, before the forks)
from lab.shell.errors import InputError
from lab.shell.options import read_options
from lab.shell.program import guarded

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib  # Python 3.10; pytest brings it

ROOT = Path(__file__).resolve().parents[2]
PLAN = Path(__file__).with_name("mutants.toml")
OWN = ("fpl", "finch", "oracle_np", "lab")  # what a fork imports from the copy
WANTED = 95.0  # percent killed
FOREVER = 3600  # seconds of the clock, for a mutant that waits and does nothing
MEMORY = 8 << 30  # bytes of address space for one mutant's tests: some would ask for all there is


class Mutant(NamedTuple):
    """The occurrence-th place of its module where the operator can be applied."""

    module: str
    function: str
    line: int
    operator: str
    occurrence: int
    job: str  # its number in cosmic-ray's session


class Outcome(NamedTuple):
    """Of the tests of one mutant."""

    how: str  # survived | killed | timeout
    by: str  # the test that failed, or the signal
    seconds: float  # of processor time
    tests: str  # the digest of what ran


# ---------------------------------------------------------------- which mutants


def read_plan(path=PLAN):
    """mutants.toml.

    leave_out: patterns of operators; group: [{module, functions, tests}];
    left: [{module, was, now, reason}].
    """
    with open(path, "rb") as file:
        return tomllib.load(file)


def group_of(plan, module, function):
    """The first group with that function; one without `functions` has them all.

    None: it is not mutated.
    """
    for group in plan["group"]:
        if group["module"] == module and function in group.get("functions", [function]):
            return group
    return None


def changed(source, code):
    """The lines that a mutant replaces, and what it replaces them by."""
    lines = list(difflib.unified_diff(source.splitlines(), code.splitlines(), n=0, lineterm=""))[2:]
    return tuple(
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )


def is_python(code):
    """Whether it can be read at all.

    cosmic-ray takes the star of `f(*rows)` for a product and makes `f(/rows)` of it.
    """
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


@functools.cache
def pickled_tree(source):
    """A tree that reads ten times faster than the source.

    A visitor changes its tree, so each mutant needs one of its own.
    """
    from cosmic_ray.ast import get_ast

    return pickle.dumps(get_ast(source))


@functools.cache
def operator_named(name):
    from cosmic_ray.plugins import get_operator

    return get_operator(name)()


def mutate(source, operator, occurrence):
    """The module's text with that one mutation."""
    from cosmic_ray.mutating import MutationVisitor

    return (
        MutationVisitor(occurrence, operator_named(operator))
        .walk(pickle.loads(pickled_tree(source)))
        .get_code()
    )


def make(db, plan, module):
    """Fill a session with the module's mutants.

    Those that do not count are marked as skipped, as cosmic-ray's filters do.
    """
    from cosmic_ray.commands.init import init
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    init([Path(module)], db, {})
    skipped = []
    for item in db.work_items:
        spec = item.mutations[0]
        counts = group_of(plan, module, spec.definition_name) and not any(
            re.search(pattern, spec.operator_name) for pattern in plan["leave_out"]
        )
        if not counts:
            skipped.append(item.job_id)
    db.set_multiple_results(skipped, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def mutants_of(db):
    """The mutants of a session that count, from the top of the module to its end."""
    from cosmic_ray.work_item import WorkerOutcome

    skipped = {job for job, result in db.results if result.worker_outcome == WorkerOutcome.SKIPPED}
    found = []
    for item in db.work_items:
        if item.job_id not in skipped:
            spec = item.mutations[0]
            found.append(
                Mutant(
                    str(spec.module_path),
                    spec.definition_name or "",
                    spec.start_pos[0],
                    spec.operator_name,
                    spec.occurrence,
                    item.job_id,
                )
            )
    return sorted(found, key=lambda mutant: (mutant.line, mutant.operator, mutant.occurrence))


def session_file(folder, plan, module, source):
    """A session holds for one text of the module and one choice of functions and operators."""
    chosen = [
        source,
        plan["leave_out"],
        [group.get("functions") for group in plan["group"] if group["module"] == module],
    ]
    digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
    return folder / f"{Path(module).stem}-{digest[:12]}.sqlite"


# ---------------------------------------------------------------- the tests of one mutant


def copy_of(root, folder):
    """The project in a folder, as far as the tests read it."""
    for name in ("fpl.py", "finch.py", "oracle_np.py", "pyproject.toml"):
        shutil.copy(root / name, folder)
    for name in ("tests", "lab"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def digest(folder, tests):
    """Of what the outcome of these tests hangs on, the mutated module apart.

    That is themselves, what test files share, and the properties.
    tests: stages, each pytest's arguments.
    """
    files = {folder / name for name in re.findall(r"tests/[\w/]+\.py", " ".join(tests))}
    files |= {*folder.glob("tests/*.py"), *folder.glob("tests/adapters/*.py")}
    files |= {*folder.glob("lab/proof/properties/*.py")}
    texts = [tests, *(path.read_text() for path in sorted(files))]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]


def in_the_fork(folder, tests, seconds, keep_bytecode):
    """The tests in the copy, stage by stage until one fails. -> pytest's exit status"""
    sys.dont_write_bytecode = not keep_bytecode
    for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(ROOT))]
    os.environ["PYTHONPATH"] = str(folder)
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(
        resource.RLIMIT_CPU, (seconds, seconds + 5)
    )  # seconds of work: a busy machine makes no difference
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(FOREVER)
    for stage in tests:
        status = pytest.main(
            ["-x", "-q", "--tb=no", "-W", "ignore", "-p", "no:cacheprovider", *shlex.split(stage)]
        )
        if status:
            break
    sys.stdout.flush()
    return int(status)


def run_tests(folder, tests, seconds, keep_bytecode=False):
    """The tests on what lies in the folder, in a process of their own -> Outcome.

    seconds: of work, at most.
    """
    child = os.fork()
    if not child:
        status = 70
        try:
            os.chdir(folder)
            status = in_the_fork(folder, tests, seconds, keep_bytecode)
        finally:
            os._exit(status)
    try:
        _, status, used = os.wait4(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    status, took, rests_on = (
        os.waitstatus_to_exitcode(status),
        used.ru_utime + used.ru_stime,
        digest(folder, tests),
    )
    if status == 0:
        return Outcome("survived", "", took, rests_on)
    if -status in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return Outcome("timeout", signal.Signals(-status).name, took, rests_on)
    if status < 0:
        return Outcome("killed", signal.Signals(-status).name, took, rests_on)
    output = (folder / "output").read_text(errors="replace")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    # 1: a test failed; 2: the module could not even be imported
    if status not in (1, 2) or not failed:
        raise InputError(
            f"pytest {tests} ended with status {status} and no failure: {output[-500:]!r}; "
            "look at lab/proof/mutants.toml"
        )
    return Outcome("killed", failed[0], took, rests_on)


def baseline(folder, module, tests):
    """The seconds that a mutant may take.

    Ten for the start, and four times what the tests need on the program as it is.
    """
    outcome = run_tests(folder, tests, 3600, keep_bytecode=True)
    if outcome.how != "survived":
        raise InputError(f"the tests fail on the program as it is: {outcome.by}; mend that first")
    for left in (folder / module).parent.joinpath("__pycache__").glob(f"{Path(module).stem}.*"):
        # Or Python would take it for the mutant's,
        # where both are equally long and were written in one tick of the clock.
        left.unlink()
    return int(10 + 4 * outcome.seconds)


def to_result(outcome):
    """As cosmic-ray keeps it. None: not a program, skipped."""
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    if outcome is None:
        return WorkResult(worker_outcome=WorkerOutcome.SKIPPED)
    verdict = TestOutcome.SURVIVED if outcome.how == "survived" else TestOutcome.KILLED
    return WorkResult(
        worker_outcome=WorkerOutcome.NORMAL,
        test_outcome=verdict,
        output=json.dumps(outcome._asdict()),
    )


def outcomes_of(db):
    """job -> Outcome, of the mutants that were run."""
    from cosmic_ray.work_item import WorkerOutcome

    return {
        job: Outcome(**json.loads(result.output))
        for job, result in db.results
        if result.worker_outcome == WorkerOutcome.NORMAL
    }


def run_module(plan, module, options, sessions):
    """Make and run one module's mutants. -> (its mutants, those chosen, {job: Outcome})."""
    from cosmic_ray.work_db import use_db

    source = (ROOT / module).read_text()
    path = session_file(sessions, plan, module, source)
    if options.fresh:
        path.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fpl-mutants-", ignore_cleanup_errors=True) as folder,
        use_db(path) as db,
    ):
        folder = Path(folder)
        copy_of(ROOT, folder)
        if not db.num_work_items:
            where = os.getcwd()
            os.chdir(folder)
            try:
                make(db, plan, module)
            finally:
                os.chdir(where)
        mutants = mutants_of(db)
        chosen = [mutant for mutant in mutants if options.function in (None, mutant.function)]
        if options.sample is not None:
            order = np.random.default_rng(options.seed).permutation(len(chosen))[: options.sample]
            chosen = [chosen[i] for i in np.sort(order)]
        tests = {
            mutant.job: tuple(group_of(plan, module, mutant.function)["tests"]) for mutant in chosen
        }
        now, before = (
            {stages: digest(folder, stages) for stages in set(tests.values())},
            outcomes_of(db),
        )
        waiting = [
            mutant
            for mutant in chosen
            if mutant.job not in before
            or before[mutant.job].how == "survived"
            and before[mutant.job].tests != now[tests[mutant.job]]
        ]
        limits = {}
        for mutant in tqdm(waiting, desc=module, unit="mutant", disable=None):
            stages = tests[mutant.job]
            if stages not in limits:
                (folder / module).write_text(source)
                limits[stages] = baseline(folder, module, stages)
            code = mutate(source, mutant.operator, mutant.occurrence)
            (folder / module).write_text(code)
            db.set_result(
                mutant.job,
                to_result(run_tests(folder, stages, limits[stages]) if is_python(code) else None),
            )
        outcomes = outcomes_of(db)
        mutants, chosen = mutants_of(db), [mutant for mutant in chosen if mutant.job in outcomes]
    return mutants, chosen, {mutant.job: outcomes[mutant.job] for mutant in chosen}


# ---------------------------------------------------------------- what came out


def reason_of(plan, module, was, now):
    """Why this survivor is left; "" if mutants.toml does not say."""
    for entry in plan.get("left", []):
        if entry["module"] == module and entry["was"] == was and now in entry["now"]:
            return entry["reason"]
    return ""


def stale(plan, sources):
    """The lines that have a reason in mutants.toml but no longer stand in their module."""

    def words(text):
        return " ".join(line.strip() for line in text.splitlines())

    return [
        entry["was"]
        for entry in plan.get("left", [])
        if entry["was"] not in words(sources[entry["module"]])
    ]


def share(killed, chosen):
    """In percent."""
    return 100 * killed / chosen if chosen else 100.0


def table(results):
    """results: {module: (mutants, chosen, outcomes)} -> lines of Markdown"""
    lines = [
        "| module | mutants | run | killed | of these by time-out | survived | killed, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    sums = np.zeros(5, int)
    for module, (mutants, chosen, outcomes) in results.items():
        how = [outcomes[mutant.job].how for mutant in chosen]
        survived = how.count("survived")
        row = np.array(
            [len(mutants), len(how), len(how) - survived, how.count("timeout"), survived]
        )
        sums += row
        lines.append(f"| {module} | {' | '.join(map(str, row))} | {share(row[2], row[1]):.1f} |")
    return [*lines, f"| all | {' | '.join(map(str, sums))} | {share(sums[2], sums[1]):.1f} |"]


def change(mutant, sources):
    """The lines that a mutant replaces, and what it replaces them by."""
    source = sources[mutant.module]
    return changed(source, mutate(source, mutant.operator, mutant.occurrence))


def shown(mutant, sources, note):
    """Three lines of Markdown: where, what stands there, what the mutant puts there."""
    was, now = change(mutant, sources)
    operator = mutant.operator.removeprefix("core/")
    return [
        f"- {mutant.module}:{mutant.line} {mutant.function}, {operator}: {note}",
        f"      - {was}",
        f"      + {now}",
    ]


def commit(root=ROOT):
    """The commit, and whether the files differ from it; "no commit" outside of git."""

    def git(*words):
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
        return done.stdout.strip()

    try:
        number = git("rev-parse", "--short", "HEAD") or "no commit"
        return number + (", changed since" if git("status", "--porcelain") else "")
    except OSError:
        return "no commit"


def summary(plan, sources, results, title):
    """The whole report as Markdown; whether enough are killed and each survivor has its reason.

    sources: {module: text}.
    """
    by_end = {"survived": [], "timeout": [], "killed": []}
    for _, chosen, outcomes in results.values():
        for mutant in chosen:
            by_end[outcomes[mutant.job].how].append(mutant)
    reasons = {
        mutant: reason_of(plan, mutant.module, *change(mutant, sources))
        for mutant in by_end["survived"]
    }
    missing = {mutant: "survived" for mutant, reason in reasons.items() if not reason}
    explained = {mutant: reason for mutant, reason in reasons.items() if reason}
    late, old = dict.fromkeys(by_end["timeout"], "time-out"), stale(plan, sources)
    run = sum(map(len, by_end.values()))
    enough = share(run - len(reasons), run) >= WANTED

    def all_shown(notes):
        return [line for mutant, note in notes.items() for line in shown(mutant, sources, note)]

    sections = {
        "": [] if enough else [f"NOT ENOUGH: {WANTED:g} % must be killed."],
        "SURVIVORS WITHOUT A REASON in lab/proof/mutants.toml": all_shown(missing),
        "Reasons for lines that are no longer there": [f"- {line}" for line in old],
        "Killed because they ran out of time": all_shown(late),
        "Survivors, and why they are left": all_shown(explained),
    }
    lines = [f"# {title}", "", *table(results), ""]
    for head, body in sections.items():
        lines += ([f"## {head}", ""] if head and body else []) + ([*body, ""] if body else [])
    return "\n".join(lines), enough and not missing and not old


def mutants(argv):
    """What `main` does when all goes well.

    Exit status 0: enough are killed and every survivor has a reason; 1 otherwise.
    """
    plan = read_plan()
    modules = list(dict.fromkeys(group["module"] for group in plan["group"]))
    parser = argparse.ArgumentParser(
        prog="./run.sh mutants", allow_abbrev=False, description=__doc__.splitlines()[0]
    )
    parser.add_argument("--module", choices=modules, help="this one alone")
    parser.add_argument("--function", help="the mutants of this function alone")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="only N mutants of each module, drawn by seed"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = read_options(parser, argv)
    if (options.sample is not None and options.sample < 1) or options.seed < 0:
        raise InputError(
            f"--sample is {options.sample}, --seed {options.seed}; they must be at least 1 and 0"
        )
    sessions = ROOT / "runs" / "mutants"
    sessions.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    gc.collect()
    gc.freeze()  # or each fork would look through all of MindSpore again: 0.3 s of its 0.4
    results = {
        module: run_module(plan, module, options, sessions)
        for module in modules
        if options.module in (None, module)
    }
    if not any(chosen for _, chosen, _ in results.values()):
        raise InputError(
            f"no mutant was chosen (--function {options.function}); "
            "mutants.toml names the functions"
        )
    how = ""
    if options.sample is not None:
        how = f", {options.sample} drawn of each module by seed {options.seed}"
    sources = {module: (ROOT / module).read_text() for module in modules}
    took = time.perf_counter() - start
    title = f"Mutants of {commit()}{how}; this call took {took:.0f} s"
    text, good = summary(plan, sources, results, title)
    (sessions / "report.md").write_text(text)
    print(text)
    return 0 if good else 1


def main(argv=None):
    """Exit status: 0 or 1 as `mutants`, 2 bad input, 130 interrupted."""
    return guarded(mutants, argv, "Stopped; the same command goes on from here.")
