"""onnxruntime-web, which runs the graphs in browsers: one version, pinned by checksums.

Its archive is downloaded once and kept in the user's cache, or taken from a file or folder for machines offline. Later
versions run the graphs no faster, and their WebAssembly is larger. Of its builds this is the smallest: for the CPU,
with SIMD. It takes one thread, or several on pages that the web host isolates.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from captioner.data.download import Progress, download
from captioner.data.download.catalog import Archive
from captioner.errors import CaptionerError, first_line

VERSION = "1.24.3"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
ARCHIVE = Archive(
    url=f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz",
    path=f"onnxruntime-web-{VERSION}.tgz",
    # npm's "integrity" of this version.
    checksum="sha512:e35743abb7f1b539b45f3184ecdd1dea6f0570e63c116b5403ae4690e8b124f0"
    "7f1bb0c6cc19a20c09d55571f39d1c3d6e0519a5bfb8ff59502bf3cdc46a5bad",
    size=30_848_838,
    unpacked=0,
    places=(),
)
_FILES = {  # bytes and SHA-256
    SCRIPT: (72_812, "9f716d6e3c4280dcced6f0fcb9814c1d7630de83d8177880a2ef445fe48ca913"),
    WASM: (12_361_745, "be0e129949062ad50290ef94683fac8be5bb6156f709e030b7a5f1661a2f6c17"),
}
_LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
_INSIDE = "package/dist/"  # the archive's folder with the builds


def cache() -> Path:
    """Return the folder that keeps the archive."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captioner"


def cached() -> Path | None:
    """Return the archive in the cache; ``None`` if it has not been downloaded."""
    path = cache() / ARCHIVE.path
    return path if path.is_file() else None


def fetch(progress: Progress | None = None) -> Path:
    """Return the archive in the cache, which is downloaded first if it is not there whole.

    Raises:
        DownloadError: it cannot be downloaded.
    """
    for outcome in download([ARCHIVE], cache(), progress=progress):
        if outcome.error:
            raise outcome.error
    return cache() / ARCHIVE.path


def read(path: Path) -> dict[str, bytes]:
    """Return the files that a page needs, with their licences, by name.

    Args:
        path: the archive of npm, the package unpacked, or a folder with the two files themselves.

    Raises:
        CaptionerError: one of them is missing, or is not that of :data:`VERSION`; or the licence is not installed.
    """
    if not path.exists():
        raise CaptionerError(f"{path}: there is no such file or folder; {_ADVICE}")
    found = _unpacked(path) if path.is_dir() else _packed(path)
    for name, (size, checksum) in _FILES.items():
        if len(found[name]) != size or hashlib.sha256(found[name]).hexdigest() != checksum:
            raise CaptionerError(f"{path}: its {name} is not that of onnxruntime-web {VERSION}; {_ADVICE}")
    return {**found, **_licences()}


_ADVICE = f"give what npm pack onnxruntime-web@{VERSION} writes, or leave --runtime out to download it"


def _unpacked(path: Path) -> Mapping[str, bytes]:
    folders = (path, path / "dist", path / _INSIDE)
    try:
        return {
            name: next(file for file in (folder / name for folder in folders) if file.is_file()).read_bytes()
            for name in _FILES
        }
    except StopIteration:
        raise CaptionerError(f"{path}: holds no {' and '.join(_FILES)}; {_ADVICE}") from None
    except OSError as error:
        raise CaptionerError(f"{error.filename}: {error.strerror}; {_ADVICE}") from None


def _packed(path: Path) -> Mapping[str, bytes]:
    found = {}
    try:
        with tarfile.open(path) as archive:
            for name, (size, _) in _FILES.items():
                member = archive.extractfile(_INSIDE + name)
                found[name] = b"" if member is None else member.read(size + 1)
    except KeyError as error:
        raise CaptionerError(f"{path}: {first_line(error)}; {_ADVICE}") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        raise CaptionerError(f"{path}: not a readable archive ({first_line(error)}); {_ADVICE}") from None
    return found


def _licences() -> Mapping[str, bytes]:
    """Return the licences; the archive has none, but the Python package is of the same sources."""
    folder = resources.files("onnxruntime")
    try:
        return {name: folder.joinpath(name).read_bytes() for name in _LICENCES}
    except OSError:
        raise CaptionerError(
            "the licence of onnxruntime, which the page must come with, is not in the installed package; run: "
            "pip install --force-reinstall onnxruntime"
        ) from None
