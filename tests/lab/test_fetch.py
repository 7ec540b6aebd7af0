"""lab/data/fetch.py against a server here: it resumes, skips, and never loses a good file."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lab.data import fetch as module
from lab.data.find import DIGITS
from lab.shell.errors import InputError
from lab.shell.files import locked
from lab.shell.words import one_line

CONTENT = bytes(range(256)) * 3000
MD5 = hashlib.md5(CONTENT).hexdigest()


# where a server sends us
ELSEWHERE = {"moved": "/plain/a.bin", "round": "/round/a.bin", "local": "file:///etc/hostname"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.starts.append(start)
        mode, _, name = self.path[1:].partition("/")
        if mode in ELSEWHERE:
            self.send_response(302)
            self.send_header("Location", ELSEWHERE[mode])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if name != "a.bin":
            return self.send_error(404)
        if mode == "norange":
            start = 0
        if start >= len(CONTENT):
            return self.send_error(416)
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if mode != "endless":
            self.send_header("Content-Length", "many" if mode == "nonsense" else str(len(body)))
        if start:
            first = 0 if mode == "wrongrange" else start
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body[:1000] if mode == "broken" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
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
    return module.fetch(
        folder, {"SET": f"http://127.0.0.1:{server.server_port}/{mode}/"}, [("SET", name, md5)]
    )


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_whole_and_once(server, tmp_path):
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


def test_a_complete_part_only_takes_its_name(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin.part").write_bytes(CONTENT)
    get(server, tmp_path)
    assert server.starts == [] and names(tmp_path) == ["a.bin"]


def test_a_broken_connection_leaves_a_part(server, tmp_path):
    with pytest.raises(InputError, match=f"1000 of {len(CONTENT)} bytes.*again"):
        get(server, tmp_path, "broken")
    assert names(tmp_path) == ["a.bin.part"]
    get(server, tmp_path)
    assert server.starts == [0, 1000] and (tmp_path / "set/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"stale", CONTENT + b"too long"])
def test_a_wrong_sum_keeps_the_old_file(server, tmp_path, part):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin").write_bytes(b"good")
    (tmp_path / "set/a.bin.part").write_bytes(part)
    with pytest.raises(InputError, match="^http[^ ]*: MD5 .*wanted 0000.*run the command again$"):
        get(server, tmp_path, md5="0" * 32)
    assert (tmp_path / "set/a.bin").read_bytes() == b"good" and names(tmp_path) == ["a.bin"]


def test_another_file_of_that_name_is_kept(server, tmp_path, capsys):
    """It may be damaged, or the only copy of something else: nothing is lost."""
    (tmp_path / "set").mkdir()
    for number, content in enumerate((b"damaged", b"my own"), 1):
        (tmp_path / "set/a.bin").write_bytes(content)
        get(server, tmp_path)
        assert (tmp_path / "set/a.bin").read_bytes() == CONTENT
        assert (tmp_path / f"set/a.bin.old-{number}").read_bytes() == content
        assert f"it is a.bin.old-{number} now" in capsys.readouterr().out


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


def test_a_file_that_has_moved_is_followed(server, tmp_path):
    get(server, tmp_path, "moved")
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT and names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "mode, words",
    [("round", "infinite loop"), ("local", "not allowed"), ("nonsense", "invalid literal")],
)
def test_a_server_that_leads_astray_spoils_nothing(mode, words, server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin").write_bytes(b"old")
    with pytest.raises(InputError, match=words) as caught:
        get(server, tmp_path, mode)
    assert len(one_line(caught.value).splitlines()) == 1
    assert (tmp_path / "set/a.bin").read_bytes() == b"old" and set(names(tmp_path)) <= {
        "a.bin",
        "a.bin.part",
    }


def test_an_answer_to_another_range_is_refused(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin.part").write_bytes(CONTENT[:5000])
    with pytest.raises(InputError, match="MD5"):
        get(server, tmp_path, "wrongrange")
    assert names(tmp_path) == []
    get(server, tmp_path)
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT


def test_a_download_without_an_end_is_removed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", len(CONTENT) - 1)
    with pytest.raises(InputError, match="more than .* bytes came"):
        get(server, tmp_path, "endless")
    assert names(tmp_path) == []


def test_a_file_without_a_stated_length_arrives_whole(server, tmp_path):
    get(server, tmp_path, "endless")
    assert (tmp_path / "set/a.bin").read_bytes() == CONTENT


def test_a_part_that_links_elsewhere_is_refused(server, tmp_path):
    (tmp_path / "inside/set").mkdir(parents=True)
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "inside/set/a.bin.part").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="leads out of"):
        get(server, tmp_path / "inside")
    assert (tmp_path / "mine").read_bytes() == b"mine" and server.starts == []


@pytest.mark.parametrize("loop", [".", "set", "set/a.bin", "set/a.bin.part"])
def test_a_link_to_itself_is_one_line(loop, server, tmp_path):
    place = tmp_path / "inside" / loop
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(place)
    with pytest.raises(InputError, match="symbolic links|File exists|no file") as caught:
        get(server, tmp_path / "inside")
    assert (
        len(one_line(caught.value).splitlines()) == 1 and server.starts == [] and place.is_symlink()
    )


@pytest.mark.parametrize("name", ["a.bin", "a.bin.part"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_written(name, make, server, tmp_path):
    (tmp_path / "set").mkdir()
    make(tmp_path / "set" / name)
    with pytest.raises(InputError, match="is there and no file"):
        get(server, tmp_path)
    assert os.listdir(tmp_path / "set") == [name] and server.starts == []


def test_a_second_fetch_into_one_folder_is_refused(server, tmp_path):
    """The first would go on writing into the file that the second has just named."""
    with (
        locked(tmp_path / "set", wait=False),
        pytest.raises(InputError, match="^another fetch is at work"),
    ):
        get(server, tmp_path)
    assert server.starts == [] and names(tmp_path) == []
    get(server, tmp_path)
    assert names(tmp_path) == ["a.bin"]


def test_ctrl_c_leaves_a_part(server, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.tqdm, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path)
    monkeypatch.undo()
    first = (tmp_path / "set/a.bin.part").stat().st_size
    assert 0 < first <= module.CHUNK
    get(server, tmp_path)
    assert server.starts == [0, first] and (tmp_path / "set/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["digits", "--data", ""], "--data is empty"),
        (["digits", "--data=--"], "--data has no value"),
        (["letters"], "invalid choice: 'letters'"),
        ([], "required: task"),
        (["digits", "--data", "x/file"], "x/file"),
        (["digits", "--data", "a\nb/../../x/file"], "file"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "BASE_URLS", {})
    (tmp_path / "x").mkdir()
    (tmp_path / "x/file").write_bytes(b"mine")
    assert module.main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and (tmp_path / "x/file").read_bytes() == b"mine"


def test_the_command_says_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "fetch", lambda folder: None)
    assert module.main(["digits", "--data", str(tmp_path)]) == 0
    assert "imgs_train" in capsys.readouterr().out
    assert module.main(["office"]) == 0 and "amazon, caltech10" in capsys.readouterr().out


def test_what_goes_wrong_is_one_line(monkeypatch, capsys):
    def fail(folder):
        raise InputError("no network")

    monkeypatch.setattr(module, "fetch", fail)
    assert module.main(["digits"]) == 2
    assert capsys.readouterr().err == "no network\n"


def test_the_published_list_is_what_readers_want():
    wanted = {
        name.replace("?", "-")
        for domain in ("mnist", "usps", "svhn")
        for names in DIGITS[domain][1]
        for name in names.split("|")
    }
    assert all(
        name.rsplit("/", 1)[1] in {*wanted, *(f"{name}.gz" for name in wanted)}
        for _, name, _ in module.FILES
    )
    assert len(module.FILES) == 8 and {source for source, _, _ in module.FILES} == set(
        module.BASE_URLS
    )
