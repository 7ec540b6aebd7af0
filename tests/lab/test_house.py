"""The house: imports go one way, and the Python use that fpl.py shows runs as it stands."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / name for name in ("fpl.py", "finch.py", "oracle_np.py")]
FILES += sorted((ROOT / "lab").rglob("*.py"))
NAMES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in FILES
}
NAMES = {name.removesuffix(".__init__"): path for name, path in NAMES.items()}


def imported(path):
    """The dotted names that a file imports, anywhere in it; for `from a import b` a and a.b.

    Flower puts the folder of its app on the path, so that a file there imports another by its name.
    """
    package = path.relative_to(ROOT).parent.parts
    beside = {other.stem: ".".join([*package, other.stem]) for other in path.parent.glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (beside.get(alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*parts, *filter(None, [node.module])])
            start = start if node.level else beside.get(start, start)
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


IMPORTS = {name: set(imported(path)) for name, path in NAMES.items()}


def reached(name):
    """All of our files that a file imports, directly or through others."""
    found, waiting = set(), [name]
    while waiting:
        for other in IMPORTS[waiting.pop()] & NAMES.keys() - found:
            found.add(other)
            waiting.append(other)
    return found


CHECK = reached("lab.proof.check")


def circle_through(name):
    """The files on the way from a file back to itself; none where there is no such way."""
    return sorted(other for other in reached(name) if name in reached(other))


def inside(name, *rooms):
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_no_files_import_each_other_in_circles():
    circles = {name: circle_through(name) for name in NAMES}
    assert {name: circle for name, circle in circles.items() if circle} == {}


@pytest.mark.parametrize("room", ["lab.shell", "lab.data"])
def test_shell_and_data_load_no_mindspore(room):
    """Nor fpl, neither themselves nor through what they import."""
    assert any(inside(name, room) for name in NAMES)
    for name in NAMES:
        if inside(name, room):
            everything = set().union(*(IMPORTS[other] for other in {name} | reached(name)))
            assert [other for other in everything if inside(other, "fpl", "mindspore")] == [], name


def test_the_shell_imports_no_other_room():
    for name in NAMES:
        if inside(name, "lab.shell"):
            assert [other for other in reached(name) if not inside(other, "lab.shell", "lab")] == []


def test_fpl_imports_finch_and_nothing_else_here():
    assert reached("fpl") == {"finch"}
    assert reached("finch") == set()


def test_the_oracles_import_numpy_and_math_only():
    """So that nothing in them is what they check; the baselines' oracle may use FPL's."""
    assert IMPORTS["oracle_np"] <= {"math", "numpy"}
    if "lab.methods.oracle" in NAMES:
        ours = {name.partition(".")[0] for name in IMPORTS["lab.methods.oracle"]}
        assert ours <= {"math", "numpy", "oracle_np"}


def test_check_needs_numpy_and_hypothesis_alone():
    """So that it runs in anybody's environment, without MindSpore and without pytest."""
    everything = set().union(*(IMPORTS[name] for name in {"lab.proof.check"} | CHECK))
    packages = {name.partition(".")[0] for name in everything} - sys.stdlib_module_names
    assert packages == {"hypothesis", "lab", "numpy", "oracle_np"}


def test_check_is_written_for_python_3_9():
    """Its syntax, and no `A | B` for a type, no zip(strict=...)."""
    for name in {"lab", "lab.proof", "lab.shell", "lab.proof.check"} | CHECK:
        tree = ast.parse(NAMES[name].read_text(encoding="utf-8"), feature_version=(3, 9))
        assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
        hints = [node.annotation for node in ast.walk(tree) if getattr(node, "annotation", None)]
        hints += [node.returns for node in ast.walk(tree) if getattr(node, "returns", None)]
        for hint in hints:
            assert not any(isinstance(node, ast.BitOr) for node in ast.walk(hint)), name
        strict = [node for node in ast.walk(tree) if getattr(node, "arg", "") == "strict"]
        assert strict == [], name


def test_every_room_says_what_is_in_it():
    rooms = [path for path in NAMES.values() if path.name == "__init__.py"]
    silent = [path for path in rooms if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def python_use(docstring):
    """The indented block of a docstring that starts with an import of fpl."""
    lines = docstring[docstring.index("    import fpl\n") :].splitlines()
    ends = next((i for i, line in enumerate(lines) if line and not line.startswith("    ")), None)
    return textwrap.dedent("\n".join(lines[:ends])).strip() + "\n"


@pytest.mark.slow
def test_the_python_use_in_the_header_runs(tmp_path):
    """Two rounds, an accuracy for each domain, and some prototypes in the end."""
    program = python_use(ast.get_docstring(ast.parse((ROOT / "fpl.py").read_text())))
    assert 8 <= len([line for line in program.splitlines() if line]) <= 10
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith("1 ") and second.startswith("2 ")
    assert all(f"'{domain}': " in second for domain in ("mnist", "usps", "svhn", "syn"))
    assert last.endswith("cluster prototypes of each class") and " 0 " not in last
