import errno
import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from pdamlib.data import download as module
from pdamlib.data.download import SOURCES, Source, download, fetch, unpack
from pdamlib.data.readers import TNBC
from pdamlib.errors import UserError

MIB = 1 << 20


class Loopback(ThreadingHTTPServer):
    """A server of `files` that counts the bytes of bodies it serves and breaks connections `cuts` bytes into a body."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.served, self.ranges, self.gets, self.honours_ranges = {}, [], 0, [], 0, True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self):
        self.server.gets += 1
        body = self.server.files.get(self.path.lstrip("/"))
        if body is None:
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.server.honours_ranges else None
        start = int(asked[1]) if asked else 0
        if asked and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.server.ranges.append(start)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(body)
        try:
            self.wfile.write(body[start:end])
        except OSError:  # a client that resumes drops its first, plain answer
            return
        self.server.served += len(body[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    loopback = Loopback()
    thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield loopback
    loopback.shutdown()
    thread.join()
    loopback.server_close()


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def picture(mode="L"):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 3), np.uint16 if mode == "I;16" else np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def offer(server, monkeypatch, dataset, *archives):
    """Serve archives as the sources of a dataset; an archive is its name, its bytes and its sha256."""
    sources = tuple(Source(f"http://nowhere.invalid/{name}", name, digest) for name, _, digest in archives)
    monkeypatch.setitem(SOURCES, dataset, sources)
    server.files |= {name: body for name, body, _ in archives}


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# fetch


def test_a_file_arrives_whole_and_a_second_call_asks_for_nothing(server, tmp_path):
    body = server.files["a.zip"] = bytes(range(256)) * 5000
    path = fetch(f"{server.url}/a.zip", tmp_path / "new" / "a.zip", sha256(body), progress=False)
    assert path.read_bytes() == body
    assert everything_below(tmp_path) == ["new", "new/a.zip"]
    fetch(f"{server.url}/a.zip", path, sha256(body), progress=False)
    assert server.gets == 1


def test_an_interrupted_download_keeps_its_part_and_the_next_call_fetches_only_the_rest(server, tmp_path):
    body = server.files["a.zip"] = np.random.default_rng(0).bytes(8 * MIB)
    server.cuts = [6 * MIB]
    with pytest.raises(UserError, match=r"a\.zip: download failed .*call again to go on") as caught:
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256(body), progress=False, retries=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.zip").exists()
    (part,) = tmp_path.glob("a.zip*.part")
    kept = part.stat().st_size
    assert kept >= 5 * MIB
    assert part.read_bytes() == body[:kept]

    path = fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256(body), progress=False)
    assert path.read_bytes() == body
    assert server.ranges == [kept]
    assert everything_below(tmp_path) == ["a.zip"]


def test_a_broken_connection_is_taken_up_again_within_one_call(server, tmp_path):
    body = server.files["a.zip"] = np.random.default_rng(0).bytes(4 * MIB)
    server.cuts = [3 * MIB]
    path = fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256(body), progress=False, retries=1)
    assert path.read_bytes() == body
    (start,) = server.ranges
    assert start >= 2 * MIB
    assert server.served == 3 * MIB + 4 * MIB - start


def test_a_part_that_is_whole_already_is_taken_without_a_request(tmp_path):
    (tmp_path / "a.zipabcd1234.part").write_bytes(b"whole")
    path = fetch("http://nowhere.invalid/a.zip", tmp_path / "a.zip", sha256(b"whole"), progress=False)
    assert path.read_bytes() == b"whole"
    assert everything_below(tmp_path) == ["a.zip"]


def test_a_server_that_cannot_resume_is_reported_with_the_part_to_delete(server, tmp_path):
    server.files["a.zip"] = b"x" * 1000
    server.honours_ranges = False
    part = tmp_path / "a.zipabcd1234.part"
    part.write_bytes(b"x" * 10)
    with pytest.raises(UserError, match=rf"delete {re.escape(str(part))} to begin anew"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", None, progress=False, retries=0)
    assert part.read_bytes() == b"x" * 10


def test_a_wrong_checksum_is_reported_and_the_file_deleted(server, tmp_path):
    server.files["a.zip"] = b"something else"
    with pytest.raises(UserError, match=f"sha256 is {sha256(b'something else')}, not {sha256(b'a')}; .*again"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", sha256(b"a"), progress=False)
    assert everything_below(tmp_path) == []


def test_a_missing_page_and_a_silent_server_are_one_line(server, tmp_path):
    with pytest.raises(UserError, match=r"a\.zip: download failed \(404"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", None, progress=False)
    with pytest.raises(UserError, match=r"download failed .*refused") as caught:
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", None, progress=False, retries=0)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.gdown, "download", full)
    with pytest.raises(UserError, match="no space left on the disk; make room"):
        fetch("http://nowhere.invalid/a.zip", tmp_path / "a.zip", None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken: cannot be made"):
        fetch("http://nowhere.invalid/a.zip", tmp_path / "taken" / "a.zip", None)


def test_progress_is_shown_when_asked_for(server, tmp_path, capsys):
    server.files |= {"a.zip": b"a", "b.zip": b"b"}
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", None, progress=False)
    assert capsys.readouterr() == ("", "")
    fetch(f"{server.url}/b.zip", tmp_path / "b.zip", None, progress=True)
    assert "1.00/1.00" in capsys.readouterr().err


# unpack


def make_tar(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for member, body in members:
            archive.addfile(member, io.BytesIO(body))
    return path


def tar_member(name, body=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(body)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, body


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_an_archive_is_unpacked_without_what_a_mac_adds(tmp_path, form):
    members = {"top/a.txt": b"a", "top/deep/b.txt": b"b", "__MACOSX/top/._a.txt": b"", "top/.DS_Store": b""}
    archive = tmp_path / "archive"
    if form == "zip":
        archive.write_bytes(zipped(members))
    else:
        make_tar(archive, *(tar_member(name, body) for name, body in members.items()))
    (tmp_path / "out").mkdir()
    unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path / "out") == ["top", "top/a.txt", "top/deep", "top/deep/b.txt"]
    assert (tmp_path / "out/top/deep/b.txt").read_bytes() == b"b"


CLIMBING = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil", "\\evil", "a/.."]


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_member_that_would_leave_the_folder_is_named_and_nothing_is_written(tmp_path, form, name):
    archive, out = tmp_path / "archive", tmp_path / "out"
    if form == "zip":
        archive.write_bytes(zipped({"good": b"good", name: b"evil"}))
    else:
        make_tar(archive, tar_member("good", b"good"), tar_member(name, b"evil"))
    out.mkdir()
    with pytest.raises(UserError, match=rf"archive: its member '.*{name[-3:].strip('./')}' would leave the folder"):
        unpack(archive, out)
    assert everything_below(tmp_path) == ["archive", "out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_with_a_link_or_a_device_is_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "archive", tar_member("good", b"good"), tar_member("odd", type=kind, linkname="good"))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="its member 'odd' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path / "out") == []


def test_a_zip_with_a_link_is_refused(tmp_path):
    member = zipfile.ZipInfo("odd")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("good", b"good")
        archive.writestr(member, "/etc")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="its member 'odd' is a link or a device"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert everything_below(tmp_path / "out") == []


def test_an_archive_larger_than_the_disk_is_refused_before_it_fills_it(tmp_path, monkeypatch):
    (tmp_path / "archive").write_bytes(zipped({"a": bytes(3 * MIB)}))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: module.shutil._ntuple_diskusage(1, 1, 2 * MIB))
    with pytest.raises(UserError, match=r"needs 3 MB unpacked, .* has 2 MB; make room"):
        unpack(tmp_path / "archive", tmp_path)


def test_a_damaged_archive_is_named_with_its_cure(tmp_path):
    body = zipped({"a": np.random.default_rng(0).bytes(MIB)})
    for damaged in (b"<html>quota exceeded</html>", body[: len(body) // 2], body[:1000] + b"oops" + body[1004:]):
        (tmp_path / "archive").write_bytes(damaged)
        with pytest.raises(UserError, match=r"archive: .*delete it and download it again"):
            unpack(tmp_path / "archive", tmp_path)


# download


def test_a_dataset_is_fetched_verified_and_unpacked_and_leaves_nothing_else(server, tmp_path, monkeypatch):
    body = zipped({"TNBC_NucleiSegmentation/Slide_01/01_1.png": picture()})
    offer(server, monkeypatch, "tnbc", ("tnbc.zip", body, sha256(body)))
    folder = download("tnbc", tmp_path, base_url=server.url + "/", progress=False)
    assert folder == tmp_path / "tnbc"
    assert everything_below(tmp_path)[0] == "tnbc"
    assert all(name.startswith("tnbc") for name in everything_below(tmp_path))
    assert TNBC(folder).names() == ["01_1"]
    assert download("tnbc", tmp_path, base_url=server.url, progress=False) == folder
    assert server.gets == 1


def test_an_unsafe_archive_leaves_no_dataset_folder(server, tmp_path, monkeypatch):
    body = zipped({"Slide_01/01_1.png": picture(), "../evil": b"evil"})
    offer(server, monkeypatch, "tnbc", ("tnbc.zip", body, sha256(body)))
    with pytest.raises(UserError, match="would leave the folder"):
        download("tnbc", tmp_path, base_url=server.url, progress=False)
    assert everything_below(tmp_path) == [".download-tnbc", ".download-tnbc/tnbc.zip"]


def bbbc039_archives(lists):
    images = zipped({f"images/{name}.png": picture("I;16") for name in "abcd"})
    masks = zipped({f"masks/{name}.png": picture() for name in "abcd"})
    metadata = zipped({f"metadata/{file}.txt": text for file, text in lists.items()})
    return (
        ("images.zip", images, sha256(images)),
        ("masks.zip", masks, sha256(masks)),
        ("metadata.zip", metadata, None),
    )


@pytest.fixture
def official(monkeypatch):
    """Make d and a, b, c the official lists."""
    digests = {"train": sha256(b"a\nd"), "validation": sha256(b"b"), "test": sha256(b"c")}
    monkeypatch.setattr(module, "LISTS_SHA256", digests)
    return {"training": "d.png\na.png\n", "validation": "b.png\n", "test": "c.png\n"}


def test_the_lists_of_bbbc039_are_verified_by_their_content(server, tmp_path, monkeypatch, official):
    offer(server, monkeypatch, "bbbc039", *bbbc039_archives(official))
    folder = download("bbbc039", tmp_path, base_url=server.url, progress=False)
    assert everything_below(tmp_path)[:2] == ["bbbc039", "bbbc039/images"]
    assert (folder / "metadata" / "training.txt").read_text() == "d.png\na.png\n"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"training": "a.png\nb.png\n"}, "its train list is not the official one"), ({"test": ""}, "missing or empty")],
)
def test_other_lists_are_refused_and_fetched_anew(server, tmp_path, monkeypatch, official, change, complaint):
    offer(server, monkeypatch, "bbbc039", *bbbc039_archives(official | change))
    with pytest.raises(UserError, match=complaint):
        download("bbbc039", tmp_path, base_url=server.url, progress=False)
    assert everything_below(tmp_path / ".download-bbbc039") == ["images.zip", "masks.zip"]
    assert not (tmp_path / "bbbc039").exists()
    offer(server, monkeypatch, "bbbc039", *bbbc039_archives(official))
    assert download("bbbc039", tmp_path, base_url=server.url, progress=False).is_dir()
    assert server.gets == 3 + 1


def test_lists_that_name_other_images_are_refused(server, tmp_path, monkeypatch, official):
    monkeypatch.setitem(module.LISTS_SHA256, "test", sha256(b"c\ne"))
    offer(server, monkeypatch, "bbbc039", *bbbc039_archives(official | {"test": "c.png\ne.png\n"}))
    with pytest.raises(UserError, match="do not name the images"):
        download("bbbc039", tmp_path, base_url=server.url, progress=False)


def test_an_unknown_dataset_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="'monusac' to download; choose one of bbbc039, kumar, tnbc"):
        download("monusac", tmp_path)


def test_the_published_lists_are_the_official_ones(data_root):
    module.verify_lists(data_root / "bbbc039", data_root / "no such archive")


def test_every_archive_but_the_lists_has_a_checksum():
    digests = {s.archive: s.sha256 for sources in SOURCES.values() for s in sources}
    assert [name for name, digest in digests.items() if digest is None] == ["metadata.zip"]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests.values() if digest)
