"""The seal of a folder: a list of the hashes of its files, which is hashed itself, and the folder as a zip.

SHA256SUMS has one line a file, as `sha256sum` writes it, so that `sha256sum -c SHA256SUMS` reads it too. The
sha256 of that list is the digest of the folder: who has the digest from elsewhere knows that every file is
the one that was meant.
"""

import hashlib
import re
import shutil
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path

from cgrefine.errors import InputError

SEAL = "SHA256SUMS"
ZIP = ".zip"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in a zip: equal folders make equal zips."""


def seal(folder: Path) -> str:
    """Write the list of hashes of all files of a folder into it, and return the digest."""
    hashes = {_relative(path, folder): _sha256(path.read_bytes()) for path in _files(folder)}
    (folder / SEAL).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())))
    return digest_of(folder)


def digest_of(folder: Path) -> str:
    """sha256 of the list of hashes. Raises InputError when there is none."""
    return _sha256(_list(folder))


def check_seal(folder: Path, digest: str | None = None) -> dict[str, str]:
    """The hash of each file by its name, after every file has been compared with the list.

    digest: of the folder that is meant, if it is known. Raises InputError on a list that is missing or
    malformed or has another digest, and on files that are missing or changed.
    """
    content = _list(folder)
    if digest is not None and _sha256(content) != digest.lower():
        raise InputError(f"{folder}: its digest is {_sha256(content)}, and {digest} is demanded")
    hashes = {}
    for line in content.decode(errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError(f"{folder / SEAL}: {line[:80]!r} is no line of a list of hashes")
        hashes[found[2]] = found[1]
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: a file of the bundle is missing")
        if _sha256(path.read_bytes()) != expected:
            raise InputError(f"{path}: the content is not what {SEAL} records (sha256 differs)")
    return hashes


def write_zip(folder: Path, path: Path) -> None:
    """The folder as a zip of the same files, written under a temporary name and renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in [*_files(folder), folder / SEAL]:
            entry = zipfile.ZipInfo(_relative(file, folder), _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    temporary.rename(path)


class Unpacked:
    """A folder or zip as a folder: `folder`. What a zip is unpacked into goes when this object does.

    Raises InputError on a file that is no zip, and on one whose names lead out of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path
        if not path.is_file():
            return
        self.folder = Path(tempfile.mkdtemp(prefix="cgrefine-bundle-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if Path(name).is_absolute() or ".." in Path(name).parts:
                        raise InputError(f"{path}: the name {name!r} in it leads out of its folder")
                archive.extractall(self.folder)
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError) as error:
            raise InputError(f"{path}: is no zip of a bundle ({error})") from error


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in the place of another, which is removed."""
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)


def _list(folder: Path) -> bytes:
    try:
        return (folder / SEAL).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / SEAL}: cannot be read ({error.strerror})") from error


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and _relative(p, folder) != SEAL)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
