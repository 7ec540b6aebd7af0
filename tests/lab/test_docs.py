"""README.md and docs/: short, and naming only what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *PAGES]
}
README = TEXTS["README.md"]


def missing_links(name, text):
    """The relative targets of links and pictures that do not exist, from the page's folder."""
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^()\s]+)\)", text)]
    targets = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    return [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()]


def missing_paths(text):
    """The paths of this project, and in backticks the files at its root, that do not exist.

    Code blocks count too: readers type what they name.
    """
    paths = re.findall(r"(?<![\w/.-])(?:lab|tests|docs|\.github)/[\w./-]*", text)
    names = re.findall(r"`([\w-]+\.(?:py|sh|md|cff|toml)|requirements[\w-]*\.txt|LICENSE)`", text)
    found = {path.rstrip(".") for path in [*paths, *names] if path != "__init__.py"}
    return sorted(path for path in found if not (ROOT / path).exists())


def missing_functions(text):
    """Each `fpl.NAME` in backticks that fpl.py does not define."""
    tree = ast.parse((ROOT / "fpl.py").read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named = set(re.findall(r"`fpl\.(\w+)", text)) - {"py"}
    return sorted(named - defined)


def test_the_checks_see_what_is_missing():
    text = "[a](no.md) [b](https://x.org/no) `no.py` `fpl.no` see lab/no/such.py, lab/run/train.py."
    assert missing_links("docs/results.md", text) == ["no.md"]
    assert missing_paths(text) == ["lab/no/such.py", "no.py"]
    assert missing_functions(text) == ["no"]


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_page_links_to_is_there(name):
    assert missing_links(name, TEXTS[name]) == []


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_page_names_is_there(name):
    assert missing_paths(TEXTS[name]) == []
    assert missing_functions(TEXTS[name]) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_start_with_a_heading_and_a_paragraph(path):
    heading, paragraph, *_ = path.read_text(encoding="utf-8").split("\n\n")
    assert re.fullmatch(r"# \S.*", heading)
    assert re.match(r"[A-Z]", paragraph) and paragraph.endswith(".")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_readme_links_to_each_page(path):
    assert f"](docs/{path.name})" in README


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 180
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_the_readme_names_no_commit_and_no_processor():
    """They date; docs/ has them beside the numbers."""
    assert re.findall(r"\b[0-9a-f]{7,40}\b", README) == []
    assert re.findall(r"Xeon|EPYC|Intel|AMD\b", README) == []
