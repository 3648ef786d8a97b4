"""Weight files are fetched whole or not at all, from a server of our own."""

import dataclasses
import errno
import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from metrics import download, weights
from metrics.download import DownloadError, pull
from thbench.cli import weights as commands
from thbench.cli.parser import main

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``breaks`` times it hangs up after ``after`` bytes; notes all ranges."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []
        self.breaks, self.after, self.ranges = 0, 300_000, True

    def url(self, name=""):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path[1:])
        wanted = self.headers.get("Range") if self.server.ranges else None
        self.server.asked.append((self.path[1:], wanted))
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if self.server.breaks:
            self.server.breaks -= 1
            rest = rest[: self.server.after]
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.files["net.pth"] = CONTENT
        yield running
        running.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("THBENCH_MIRROR", raising=False)
    return tmp_path / "weights"


@pytest.fixture
def entry(server):
    return weights.Weights("net.pth", server.url("net.pth"), "MIT", sha256=DIGEST[:16])


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_checked_and_not_fetched_again(server, entry, folder):
    assert pull(entry).read_bytes() == CONTENT
    assert pull(entry) == folder / "net.pth"
    assert server.asked == [("net.pth", None)]
    assert left(folder) == ["net.pth"]


def test_git_hashes_are_checked_too(server, entry, folder):
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    by_git = dataclasses.replace(entry, sha256=None, git_blob=blob)
    assert pull(by_git).is_file()
    (folder / "net.pth").unlink()
    with pytest.raises(DownloadError, match="hash differs"):
        pull(dataclasses.replace(by_git, git_blob="0" * 40))


def test_it_goes_on_where_it_stopped(server, entry, folder):
    folder.mkdir()
    (folder / "net.pth.part").write_bytes(CONTENT[:1000])
    assert pull(entry).read_bytes() == CONTENT
    assert server.asked == [("net.pth", "bytes=1000-")]


def test_broken_connections_are_taken_up_again(server, entry, folder):
    server.breaks = 3
    assert pull(entry).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [
        None, "bytes=300000-", "bytes=600000-", "bytes=900000-"
    ]  # fmt: skip


def test_a_server_that_always_hangs_up_is_given_up_and_the_part_stays(server, entry, folder):
    server.breaks, server.after = 99, 0
    folder.mkdir()
    (folder / "net.pth.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="broke off"):
        pull(entry)
    assert left(folder) == ["net.pth.part"]
    server.breaks = 0
    assert pull(entry).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, entry, folder):
    server.ranges = False
    folder.mkdir()
    (folder / "net.pth.part").write_bytes(b"x" * 1000)
    assert pull(entry).read_bytes() == CONTENT


def test_a_part_of_something_else_is_thrown_away(server, entry, folder):
    folder.mkdir()
    (folder / "net.pth.part").write_bytes(b"x" * 1000)
    assert pull(entry).read_bytes() == CONTENT
    assert server.asked == [("net.pth", "bytes=1000-"), ("net.pth", None)]


@pytest.mark.parametrize("extra", [0, 5])
def test_a_part_that_is_whole_or_too_long(server, entry, folder, extra):
    folder.mkdir()
    (folder / "net.pth.part").write_bytes(CONTENT + b"x" * extra)
    assert pull(entry).read_bytes() == CONTENT


def test_a_wrong_hash_deletes_what_came_and_keeps_nothing(server, entry, folder):
    server.files["net.pth"] = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=r"hash differs.*deleted.*put net\.pth into") as caught:
        pull(entry)
    assert "\n" not in str(caught.value)
    assert left(folder) == []
    assert len(server.asked) == 1


def test_a_file_that_is_not_the_published_one_is_replaced(server, entry, folder):
    folder.mkdir()
    (folder / "net.pth").write_bytes(b"another")
    assert pull(entry).read_bytes() == CONTENT


def test_addresses_are_tried_in_order(server, entry, folder, monkeypatch):
    server.files |= {"bad/net.pth": b"bad", "other/net.pth": CONTENT}
    del server.files["net.pth"]
    mirrors = (server.url("bad/net.pth"), server.url("other/net.pth"))
    assert pull(dataclasses.replace(entry, mirrors=mirrors)).read_bytes() == CONTENT
    assert [name for name, _ in server.asked] == ["net.pth", "bad/net.pth", "other/net.pth"]
    for pass_by in ("option", "variable"):
        (folder / "net.pth").unlink()
        server.asked.clear()
        if pass_by == "variable":
            monkeypatch.setenv("THBENCH_MIRROR", server.url("other"))
        pull(entry, mirror=server.url("other/") if pass_by == "option" else None)
        assert server.asked == [("other/net.pth", None)]


def test_a_shared_folder_is_a_mirror(server, entry, folder, tmp_path):
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert pull(entry, mirror=tmp_path.as_uri()).read_bytes() == CONTENT
    (folder / "net.pth").rename(folder / "net.pth.part")  # whole, but not yet in its place
    assert pull(entry, mirror=tmp_path.as_uri()).read_bytes() == CONTENT
    assert server.asked == []
    (folder / "net.pth").unlink()
    (tmp_path / "net.pth").unlink()
    assert pull(entry, mirror=tmp_path.as_uri()).read_bytes() == CONTENT
    assert server.asked == [("net.pth", None)]


@pytest.mark.parametrize("url", ["https://nowhere.invalid/net.pth", "no address", "http://[", ""])
def test_addresses_that_lead_nowhere(entry, folder, url):
    with pytest.raises(DownloadError, match="Without a network, fetch") as caught:
        pull(dataclasses.replace(entry, url=url))
    assert "\n" not in str(caught.value)


def test_offline_says_from_where_and_whereto(server, entry, folder):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError) as caught:
        pull(entry)
    text = str(caught.value)
    assert "refused" in text
    assert f"fetch {entry.url} elsewhere and put net.pth into {folder}" in text
    assert "\n" not in text


def test_a_full_disk_is_said_and_the_part_stays(server, entry, folder, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="1 MB are needed, 1 are free; make room"):
        pull(entry)
    monkeypatch.undo()
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folder))

    def full(self, n):
        raise OSError(errno.ENOSPC, "No space left on device")

    (folder / "net.pth.part").write_bytes(CONTENT[:1000])
    monkeypatch.setattr(download.tqdm, "update", full)
    with pytest.raises(DownloadError, match="No space left on device; make room"):
        pull(entry)
    monkeypatch.undo()
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folder))
    assert (folder / "net.pth.part").stat().st_size > 1000
    assert pull(entry).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(server, entry, folder):
    folder.write_bytes(b"a file")
    with pytest.raises(DownloadError, match="set THBENCH_WEIGHTS to a folder"):
        pull(entry)


def test_two_processes_do_not_write_one_file(server, entry, folder):
    folder.mkdir()
    with (
        download._locked(folder / "net.pth"),
        pytest.raises(DownloadError, match="another process"),
    ):
        pull(entry)
    assert pull(entry).is_file()


# Archives


def zipped(**members):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.onnx", content)
    return made.getvalue()


@pytest.fixture
def packed(server, entry):
    server.files["pack.zip"] = zipped(net=CONTENT, other=b"large and not needed")
    return dataclasses.replace(
        entry, file="net.onnx", url=server.url("pack.zip"), member="net.onnx"
    )


def test_a_member_is_taken_out_of_its_archive(packed, folder):
    assert pull(packed).read_bytes() == CONTENT
    assert left(folder) == ["net.onnx"]


def test_an_archive_that_was_put_there_by_hand_is_used(server, packed, folder):
    folder.mkdir()
    (folder / "pack.zip").write_bytes(server.files["pack.zip"])
    assert pull(packed).read_bytes() == CONTENT
    assert server.asked == []
    assert left(folder) == ["net.onnx", "pack.zip"]
    (folder / "net.onnx").unlink()
    (folder / "pack.zip").write_bytes(b"cut")
    with pytest.raises(DownloadError, match=r"no whole zip archive\. Delete it"):
        pull(packed)
    assert left(folder) == ["pack.zip"]


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (zipped(other=b"x"), "holds no net.onnx"),
        (zipped(net=b"x"), "hash of its net.onnx differs"),
        (b"no archive", "no whole zip archive"),
    ],
)
def test_wrong_archives(server, packed, folder, archive, says):
    server.files["pack.zip"] = archive
    with pytest.raises(DownloadError, match=says):
        pull(packed)
    assert left(folder) == []


# The command


@pytest.fixture
def table(server, entry, packed, folder, monkeypatch):
    for module in (weights, commands):  # both imported before: each must get its own back
        monkeypatch.setattr(module, "WEIGHTS", {"net": entry, "packed": packed})


def test_list_says_what_is_here(table, folder, capsys):
    assert main(["weights", "list"]) == 0
    before = capsys.readouterr().out
    assert main(["weights", "pull", "net"]) == 0
    (folder / "net.onnx").write_bytes(b"another")
    assert "MIT" in capsys.readouterr().out
    assert main(["weights", "list"]) == 0
    after = capsys.readouterr().out
    for out, here in ((before, ["no", "no"]), (after, ["yes", "differs"])):
        assert [line.split()[1] for line in out.splitlines()[1:3]] == here
        assert str(folder) in out
        assert "pack.zip" in out
        assert DIGEST[:12] in out


def test_check_and_pull_all(table, folder, capsys):
    assert main(["weights", "check"]) == 0
    assert main(["weights", "check", "net"]) == 2
    assert "1 problem(s): run `thbench weights pull net`" in capsys.readouterr().err
    assert main(["weights", "pull", "--all"]) == 0
    assert main(["weights", "check", "net", "packed"]) == 0
    (folder / "net.pth").write_bytes(b"another")
    capsys.readouterr()
    assert main(["weights", "check"]) == 2
    assert "net: net.pth has another hash" in capsys.readouterr().out


def test_one_failure_does_not_keep_the_others_away(table, server, folder, capsys):
    del server.files["net.pth"]
    assert main(["weights", "pull", "--all"]) == 2
    assert left(folder) == ["net.onnx"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("thbench: net: ")
    assert "404" in line
