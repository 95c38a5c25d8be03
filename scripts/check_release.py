"""Build a release and check it: the source distribution equals the checkout, and its wheel captions an image.

The wheel is installed into a temporary environment that shares the other packages of this one. ``--output`` keeps the
two files, to upload exactly what was checked.

Example: python scripts/check_release.py --output dist

``--test`` also runs the tests of the unpacked source distribution, which takes minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import captioner
from captioner.store import CONFIG

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Build, check, install, caption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="keep the files in this folder")
    parser.add_argument("--test", action="store_true", help="run the source distribution's tests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        began = time.perf_counter()
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", ROOT, quiet=True)
        sdist, wheel = (next((place / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
        for file in (sdist, wheel):
            print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        print(f"built in {time.perf_counter() - began:.0f} s", flush=True)
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
        check_sdist(sdist)
        check_wheel(wheel)
        python = install(place / "environment", wheel)
        caption(python, place)
        if options.test:
            test(python, sdist, place)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            for file in (sdist, wheel):
                shutil.copy(file, options.output)


def run(*command: object, quiet: bool = False, **settings: object) -> str:
    """Run a command and return its output; exit if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if quiet else None,
        **settings,  # type: ignore[call-overload]
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return str(done.stdout)


def expect(files: set[str], expected: set[str], what: str) -> None:
    """Exit with the difference if files are not the expected ones."""
    if files != expected:
        sys.exit(f"{what}: missing {sorted(expected - files)}, not expected {sorted(files - expected)}")


def check_sdist(sdist: Path) -> None:
    """Check that the source distribution holds exactly the files of git."""
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    if (ROOT / ".git").exists():
        tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
        expect(files, {*tracked, "PKG-INFO"} - {""}, f"{sdist.name} (commit or ignore files first)")


def check_wheel(wheel: Path) -> None:
    """Check that the wheel holds the package, models, example images and py.typed, and has the version of the code."""
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        information = f"captioner-{captioner.__version__}.dist-info/"
        metadata = archive.read(information + "METADATA").decode()
    if f"\nVersion: {captioner.__version__}\n" not in metadata:
        sys.exit(f"{wheel.name}: is not version {captioner.__version__}")
    inside = {file for file in files if not file.startswith(information)}
    sources = [file for file in (ROOT / "captioner").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    folders = [*(path.parent for path in (ROOT / "assets").glob(f"*/{CONFIG}")), ROOT / "assets" / "examples"]
    shipped = [file for folder in folders for file in folder.iterdir()]
    expected = {str(file.relative_to(ROOT)) for file in sources}
    expected |= {f"captioner/{file.relative_to(ROOT)}" for file in shipped}
    expect(inside, expected, wheel.name)
    if "captioner/py.typed" not in inside:
        sys.exit(f"{wheel.name}: has no py.typed")


def install(folder: Path, wheel: Path) -> Path:
    """Install the wheel into an environment that shares this one's packages; return its Python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", wheel)
    # A path file adds a folder without the folder's own path files, one of which names the checkout.
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def clean(folder: Path) -> dict[str, str]:
    """Return an environment in which only the installed program is found."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PATH": f"{folder}{os.pathsep}{kept.get('PATH', '')}"}


def caption(python: Path, place: Path) -> None:
    """Caption an image with the installed program."""
    environment = clean(python.parent)
    where = run(python, "-c", "import captioner; print(captioner.__file__)", cwd=place, env=environment).strip()
    if not Path(where).is_relative_to(python.parent.parent):
        sys.exit(f"the installed program is not what runs, but {where}")
    photo = ROOT / "assets" / "examples" / "photographer.png"
    said = run(python.parent / "captioner", "caption", photo, cwd=place, env=environment).strip()
    if not said:
        sys.exit("the installed program says nothing of the photo")
    print(f"installed, it says: {said}", flush=True)


def test(python: Path, sdist: Path, place: Path) -> None:
    """Run the tests of the unpacked source distribution."""
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "source", filter="data")
    (source,) = (place / "source").iterdir()
    subprocess.run([python, "-m", "pytest"], cwd=source, env=clean(python.parent), check=True)


if __name__ == "__main__":
    main()
