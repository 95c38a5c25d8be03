"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import gzip
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No test has a time limit, as a busy machine is not a bug.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Compiling kernels takes longer than what most tests do with them; those that need it ask for `compiling`.
os.environ.setdefault("CAPTIONER_COMPILE", "0")

# pytest-xdist runs one worker per core: more threads in each would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Leave modules and tests out of full garbage collections, which would take 0.3 s each, and collect less often."""
    gc.freeze()
    gc.set_threshold(700, 10, 100)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile kernels, here and in processes that the test starts; for slow tests."""
    from captioner.machine.backend import can_compile

    monkeypatch.setenv("CAPTIONER_COMPILE", "1")
    can_compile.cache_clear()  # another test may have asked before
    yield
    can_compile.cache_clear()


@pytest.fixture
def compiled_graphs(compiling: None) -> Callable[[], int]:
    """Return a function that counts the graphs compiled since the test began; for slow tests."""
    from torch import _dynamo
    from torch._dynamo.utils import counters

    _dynamo.reset()
    counters.clear()
    return lambda: int(counters["stats"]["unique_graphs"])


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """Do not wait until files are on the disk: tests stop processes, but not the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images with captions; set ``CAPTIONER_DATA`` to point elsewhere."""
    folder = Path(os.environ.get("CAPTIONER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real photos are not here ({folder}); set CAPTIONER_DATA to their folder to run this test")
    return folder


@pytest.fixture(scope="module")
def few_paraphrases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give METEOR, ours and pycocoevalcap's, only a handful of paraphrases: the full table takes 10 s to load."""
    from pycocoevalcap.meteor import meteor

    folder = tmp_path_factory.mktemp("meteor")
    (folder / "data").mkdir()
    shutil.copy(Path(meteor.__file__).parent / meteor.METEOR_JAR, folder)
    table = "0.4\nis sleeping\nsleeps\n0.3\nare playing\nplay\n0.3\noutside\nthrough the grass\n"
    (folder / "data" / "paraphrase-en.gz").write_bytes(gzip.compress(table.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "__file__", str(folder / "meteor.py"))
        yield
