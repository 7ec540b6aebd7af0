"""What lab/fetch.py promises, against a server on this machine: resume, skip, and never a good file lost."""
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fpl import InputError
from lab import fetch as module

CONTENT = bytes(range(256)) * 3000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.starts.append(start)
        mode, _, name = self.path[1:].partition("/")
        if name != "a.bin":
            return self.send_error(404)
        if mode == "norange":
            start = 0
        if start >= len(CONTENT):
            return self.send_error(416)
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body[:1000] if mode == "broken" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(running):
    running.starts = []
    return running


def get(server, folder, mode="plain", name="set/a.bin", md5=MD5):
    return module.fetch(folder, {"SET": f"http://127.0.0.1:{server.server_port}/{mode}/"}, [("SET", name, md5)])


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    assert get(server, tmp_path) == [tmp_path / "set/a.bin"]
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT and names(tmp_path) == ["a.bin"]
    get(server, tmp_path)
    assert server.starts == [0]


@pytest.mark.parametrize("mode", ["plain", "norange"])
def test_a_partial_file_is_completed(server, tmp_path, mode):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin.part").write_bytes(CONTENT[:5000])
    get(server, tmp_path, mode)
    assert server.starts == [5000]
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT and names(tmp_path) == ["a.bin"]


def test_a_complete_partial_file_only_takes_its_name(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin.part").write_bytes(CONTENT)
    get(server, tmp_path)
    assert server.starts == [] and names(tmp_path) == ["a.bin"]


def test_a_broken_connection_leaves_a_part_to_go_on_from(server, tmp_path):
    with pytest.raises(InputError, match=f"1000 of {len(CONTENT)} bytes.*again"):
        get(server, tmp_path, "broken")
    assert names(tmp_path) == ["a.bin.part"]
    get(server, tmp_path)
    assert server.starts == [0, 1000] and (tmp_path / "set/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"stale", CONTENT + b"too long"])
def test_a_wrong_sum_keeps_the_file_that_was_there(server, tmp_path, part):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin").write_bytes(b"good")
    (tmp_path / "set/a.bin.part").write_bytes(part)
    with pytest.raises(InputError, match="MD5 .*wanted 0000"):
        get(server, tmp_path, md5="0" * 32)
    assert (tmp_path / "set/a.bin").read_bytes() == b"good" and names(tmp_path) == ["a.bin"]


def test_a_damaged_file_is_replaced_by_a_right_one(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin").write_bytes(b"damaged")
    get(server, tmp_path)
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT


def test_a_dead_link_is_one_line(server, tmp_path):
    with pytest.raises(InputError, match="404.*by hand") as caught:
        get(server, tmp_path, name="set/b.bin")
    assert "\n" not in str(caught.value) and names(tmp_path) == []


@pytest.mark.parametrize("name", ["../a.bin", "set/../../a.bin", "/tmp/a.bin", "link/a.bin"])
def test_names_that_leave_the_folder_are_refused(server, tmp_path, name):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of"):
        get(server, tmp_path / "inside", name=name)
    assert server.starts == [] and names(tmp_path) == []


def test_the_command_says_what_is_left_to_do_or_exits_with_2(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "fetch", lambda folder: None)
    assert module.main(["digits", "--data", str(tmp_path)]) == 0
    assert "imgs_train" in capsys.readouterr().out
    assert module.main(["office"]) == 0 and "amazon, caltech10" in capsys.readouterr().out

    def fail(folder):
        raise InputError("no network")
    monkeypatch.setattr(module, "fetch", fail)
    assert module.main(["digits"]) == 2
    assert capsys.readouterr().err == "no network\n"


def test_the_published_list_is_what_the_reader_looks_for():
    from lab.data import DIGITS
    wanted = {name.replace("?", "-") for domain in ("mnist", "usps", "svhn") for names in DIGITS[domain][1] for name in names.split("|")}
    assert all(name.rsplit("/", 1)[1] in {*wanted, *(f"{name}.gz" for name in wanted)} for _, name, _ in module.FILES)
    assert len(module.FILES) == 8 and {source for source, _, _ in module.FILES} == set(module.BASE_URLS)
