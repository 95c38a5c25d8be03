"""The names that ``import captioner`` provides, and what it imports."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import captioner
from captioner import errors

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "PIL",
    "matplotlib",
    "nltk",
    "pycocoevalcap",
    "lightning_fabric",
    "huggingface_hub",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import captioner",
        "from captioner import CaptionerError, ImageError, __version__",
        "import captioner; dir(captioner)",
        "import captioner.files, captioner.metadata, captioner.registry, captioner.text.vocabulary",
    ],
)
def test_importing_loads_no_large_library(statement: str, repository: Path) -> None:
    program = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "captioner" in loaded
    assert not loaded & HEAVY
    assert done.stderr == ""


@pytest.mark.parametrize("name", captioner.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(captioner, name) is getattr(captioner, name)
    assert name in dir(captioner)


def test_lazy_names_are_the_objects_themselves() -> None:
    from captioner.captioner import Captioner
    from captioner.memory import Memory

    assert captioner.Memory is Memory
    assert captioner.Captioner is Captioner


def test_an_unknown_name_is_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="module 'captioner' has no attribute 'Captoiner'"):
        captioner.Captoiner  # noqa: B018
    assert not hasattr(captioner, "caption_everything")


def test_the_citation_names_the_version(repository: Path) -> None:
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {captioner.__version__}\n" in citation


def test_one_except_clause_catches_every_error() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)]
    assert len(raised) > 5
    assert all(issubclass(error, captioner.CaptionerError) for error in raised)
    # A failing program must not be mistaken for a failing input, nor the other way round.
    assert not issubclass(captioner.CaptionerError, (ValueError, OSError, RuntimeError))


def test_an_image_error_names_the_image_and_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(captioner.ImageError(Path("photos") / "dog.jpg", "is empty; copy it again")))
    assert isinstance(error, captioner.ImageError)
    assert (error.source, error.reason) == (str(Path("photos") / "dog.jpg"), "is empty; copy it again")
    assert str(error) == f"{error.source}: is empty; copy it again"


def test_every_family_is_registered_in_any_order_of_imports() -> None:
    # One process, as torch takes seconds to load: it forgets the modules of this package in between.
    script = """
import sys
for module in ("captioner.model", "captioner.encoders.encoder"):
    for name in [name for name in sys.modules if name.startswith("captioner")]:
        del sys.modules[name]
    __import__(module)
    from captioner.model.caption_model import ENCODERS, DECODERS, REFINERS
    print(*ENCODERS, *REFINERS, *DECODERS)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    encoders, decoders = (
        ["grid", "grid+regions", "regions"],
        ["show_attend_tell", "show_tell", "top_down", "transformer", "transformer_xl"],
    )
    assert [line.split() for line in out.splitlines()] == 2 * [[*encoders, "transformer", *decoders]]
