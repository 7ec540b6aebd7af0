"""What a run compiles is kept for the next one, and never taken for another one's."""

import dataclasses
import json
from pathlib import Path

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import pytest
from tiny import TINY

from lab.many import compiled


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Folders in tmp_path; instead of compiling, MindSpore's two files appear, if they are not."""
    monkeypatch.setattr(compiled, "KEPT", tmp_path)
    done = []

    def compile_both(cfg):
        folder = tmp_path / compiled.key(cfg) / "rank_0" / "graph_cache"
        done.append("taken" if folder.exists() else "compiled")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (folder / f"compile_cache_{number}.mindir").write_text(f"graph {number}")

    monkeypatch.setattr(compiled, "compile_both", compile_both)
    return done


def test_the_second_process_takes_what_the_first_compiled(asked):
    compiled.prepare(TINY)
    compiled.prepare(TINY)
    assert asked == ["compiled", "taken"]


@pytest.mark.parametrize("field", dataclasses.fields(fpl.Config), ids=lambda field: field.name)
def test_another_setting_is_another_folder(field):
    """Only what no graph can see shares one; tau once came back stale from MindSpore's cache."""
    value = getattr(TINY, field.name)
    other = (7,) if isinstance(value, tuple) else value + type(value)(1)
    same = compiled.key(dataclasses.replace(TINY, **{field.name: other})) == compiled.key(TINY)
    assert same == (field.name in ("seed", "rounds"))


def test_other_code_is_another_folder(tmp_path, monkeypatch):
    before = compiled.key(TINY)
    path = tmp_path / "fpl.py"
    path.write_bytes(Path(fpl.__file__).read_bytes() + b"\n")
    monkeypatch.setattr(fpl, "__file__", str(path))
    assert compiled.key(TINY) != before


@pytest.mark.parametrize("how", ["changed", "cut", "more", "no sums", "sums no json"])
def test_a_damaged_folder_is_compiled_anew(asked, tmp_path, how):
    compiled.prepare(TINY)
    folder = tmp_path / compiled.key(TINY)
    graph = folder / "rank_0" / "graph_cache" / "compile_cache_1.mindir"
    if how == "no sums":
        (folder / compiled.SUMS).unlink()
    elif how == "sums no json":
        (folder / compiled.SUMS).write_text(json.dumps({})[:1])
    else:
        graph.write_text({"changed": "graph 2", "cut": "", "more": "graph 1 "}[how])
    compiled.prepare(TINY)
    compiled.prepare(TINY)
    assert asked == ["compiled", "compiled", "taken"] and graph.read_text() == "graph 1"


def test_a_folder_that_cannot_be_made_stops_nothing(asked, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compiled, "KEPT", tmp_path / "file")
    compiled.prepare(TINY)
    assert asked == []


def test_only_the_newest_folders_are_kept(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "MOST", 3)
    for width in range(1, 6):
        compiled.prepare(dataclasses.replace(TINY, width=width))
    compiled.prepare(dataclasses.replace(TINY, width=5))
    assert len(list(tmp_path.iterdir())) == 3 and asked == ["compiled"] * 5 + ["taken"]
