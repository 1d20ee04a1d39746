"""The published archives: fetched with resume, verified by checksum, unpacked without trust in their file names."""

import errno
import hashlib
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import gdown
from gdown.exceptions import DownloadError

from pdamlib.data.readers import BBBC039
from pdamlib.data.splits import bbbc039_lists
from pdamlib.errors import UserError


@dataclass(frozen=True)
class Source:
    """One archive: its address, its file name here, and its sha256, None where nobody has published one."""

    url: str
    archive: str
    sha256: str | None


_BROAD = "https://data.broadinstitute.org/bbbc/BBBC039"
SOURCES: dict[str, tuple[Source, ...]] = {
    "bbbc039": (
        Source(
            f"{_BROAD}/images.zip", "images.zip", "6f30a5d4fe38c928ded972704f085975f8dc0d65d9aa366df00e5a9d449fddd7"
        ),
        Source(f"{_BROAD}/masks.zip", "masks.zip", "f9e6043d8ca56344a4886f96a700d804d6ee982f31e2b2cd3194af2a053c2710"),
        Source(f"{_BROAD}/metadata.zip", "metadata.zip", None),
    ),
    "kumar": (
        Source(
            "https://drive.google.com/uc?id=1ZgqFJomqQGNnsx7w7QBzQQMVA16lbVCA",
            "MoNuSeg_2018_Training_Data.zip",
            "25d3d3185bb2970b397cafa72eb664c9b4d24294aee382e7e3df9885affce742",
        ),
    ),
    "tnbc": (
        Source(
            "https://zenodo.org/records/1175282/files/TNBC_NucleiSegmentation.zip",
            "TNBC_NucleiSegmentation.zip",
            "da708c3a988f4ad4b9bbb9283b387faf703f0bc0e5e689927306bd27ea13a57f",
        ),
    ),
}
"""BBBC039 is CC0 1.0 (Caicedo et al. 2019; Ljosa et al. 2012), Kumar CC BY-NC-SA 4.0 in the release of MoNuSeg 2018
(Kumar et al. 2017), TNBC CC BY 4.0 (Naylor et al. 2018)."""

LISTS_SHA256 = {
    "train": "6544a40d0ad3de86e840d92636a024b4b974345ce7169a40a02c4fe41bb4cd13",
    "validation": "a7fb6f3273544720e8ba37fa03acce7c1202a308e8edba1ebaa9aebd3d54ec33",
    "test": "cff6c33a260121fb6f4067da26912ed125fefadc36014067fc80afaaee0a2765",
}
"""The official BBBC039 lists (100, 50, 50): sha256 of their sorted image names joined by newlines. They vouch for
metadata.zip, whose own checksum is not published."""

ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
TIMEOUT = 60.0  # s without a byte


def download(dataset: str, root: Path, *, base_url: str | None = None, progress: bool = True) -> Path:
    """Return the folder root/dataset, downloaded and unpacked; one that is there already is left as it is.

    The folder appears only when everything has been verified. An interrupted download leaves its part in
    root/.download-<dataset> and the next call goes on from there.
    base_url: a mirror that holds the archives by their names.
    Raises UserError for an unknown dataset, a failed download, a wrong checksum or an unsafe archive.
    """
    if dataset not in SOURCES:
        raise UserError(f"there is no dataset {dataset!r} to download; choose one of {', '.join(SOURCES)}")
    folder = root / dataset
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    store = root / f".download-{dataset}"
    archives = []
    for source in SOURCES[dataset]:
        url = f"{base_url.rstrip('/')}/{source.archive}" if base_url else source.url
        archives.append(fetch(url, store / source.archive, source.sha256, progress=progress))
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{dataset}-") as temporary:
        fresh = Path(temporary) / dataset
        fresh.mkdir()
        for archive in archives:
            unpack(archive, fresh)
        if dataset == "bbbc039":
            verify_lists(fresh, archives[-1])
        if folder.is_dir():
            folder.rmdir()
        fresh.rename(folder)
    shutil.rmtree(store)
    return folder


def fetch(url: str, path: Path, sha256: str | None, *, progress: bool = True, retries: int = 3) -> Path:
    """Return path, downloaded from a URL (plain or Google Drive) and of the given sha256 (None: not verified).

    A broken connection is tried again, then leaves a part beside path (path's name, eight characters, `.part`), which
    the next call continues by a range request. A file of another checksum is deleted.
    Raises UserError when the download fails, or its checksum is wrong.
    """
    _make_folder(path.parent)
    _adopt_whole_part(path, sha256)
    if not path.is_file():
        try:
            gdown.download(
                url, str(path), quiet=not progress, resume=True, use_cookies=False, timeout=TIMEOUT, retries=retries
            )
        except (DownloadError, OSError) as error:
            raise UserError(_complaint(url, path, error)) from error
    if sha256 is not None and (found := _digest(path)) != sha256:
        path.unlink()
        raise UserError(f"{url}: its sha256 is {found}, not {sha256}; the file was deleted, download it again")
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of a zip or tar archive below a folder; what a Mac adds to archives is left out.

    Every member is looked at before the first is written. An error may leave some files: give a fresh folder and
    rename it when done.
    Raises UserError when the archive is damaged or needs more room than the disk has, or when a member has an
    absolute path, climbs out by "..", or is a link or a device.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _unpack_zip(zipped, archive, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarred:
                _unpack_tar(tarred, archive, folder)
        else:
            raise UserError(f"{archive}: neither a zip nor a tar archive; delete it and download it again")
    except ARCHIVE_ERRORS as error:
        raise UserError(f"{archive}: damaged archive ({error}); delete it and download it again") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked to {folder} ({error}); make room and call again") from error


def verify_lists(folder: Path, archive: Path) -> None:
    """Raise UserError unless the lists of an unpacked BBBC039 are the official ones and its images are those listed.

    The archive they came from is deleted then, so that the next call fetches it anew.
    """
    try:
        lists = bbbc039_lists(folder)
        for which, names in lists.items():
            if hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest() != LISTS_SHA256[which]:
                raise UserError(f"{archive}: its {which} list is not the official one; download it again")
        if set().union(*lists.values()) != set(BBBC039(folder).names()):
            raise UserError(f"{archive}: its lists do not name the images of images.zip; download both again")
    except UserError:
        archive.unlink()
        raise


def _unpack_zip(zipped: zipfile.ZipFile, archive: Path, folder: Path) -> None:
    members = [m for m in zipped.infolist() if not _is_clutter(m.filename)]
    for member in members:
        _refuse_climbing(member.orig_filename, archive)
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive}: its member {member.filename!r} is a link or a device; nothing was unpacked")
    _refuse_too_big(sum(m.file_size for m in members), archive, folder)
    zipped.extractall(folder, members)


def _unpack_tar(tarred: tarfile.TarFile, archive: Path, folder: Path) -> None:
    members = [m for m in tarred.getmembers() if not _is_clutter(m.name)]
    for member in members:
        _refuse_climbing(member.name, archive)
        if not (member.isfile() or member.isdir()):
            raise UserError(f"{archive}: its member {member.name!r} is a link or a device; nothing was unpacked")
    _refuse_too_big(sum(m.size for m in members), archive, folder)
    tarred.extractall(folder, members, filter="data")


def _refuse_climbing(name: str, archive: Path) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", name):
        raise UserError(f"{archive}: its member {name!r} would leave the folder; nothing was unpacked, do not trust it")


def _refuse_too_big(size: int, archive: Path, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{archive}: needs {size >> 20} MB unpacked, {folder} has {free >> 20} MB; make room there")


def _is_clutter(name: str) -> bool:
    return "__MACOSX" in Path(name).parts or Path(name).name.startswith(("._", ".DS_Store"))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); give a data root one may write to") from error


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}????????.part"))


def _adopt_whole_part(path: Path, sha256: str | None) -> None:
    """Rename a part that holds the whole file: a run killed just before its end leaves one that no server continues."""
    for part in _parts(path):
        if not path.exists() and sha256 is not None and _digest(part) == sha256:
            part.rename(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _complaint(url: str, path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{path.parent}: no space left on the disk; make room and call again, the part is kept"
    reason = " ".join(str(error).split())
    parts = ", ".join(map(str, _parts(path)))
    kept = f"call again to go on from the part, or delete {parts} to begin anew" if parts else "call again"
    return f"{url}: download failed ({reason}); {kept}"
