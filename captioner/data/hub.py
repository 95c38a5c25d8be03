"""Data sets on the Hugging Face hub, downloaded into its cache."""

from __future__ import annotations

import re
from pathlib import Path

from captioner.errors import AnnotationError, first_line

# A Path has one slash where an address has two.
_ADDRESS = re.compile(r"hf:/{1,2}datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<inside>.+?))?/?")


def is_on_hub(path: str | Path) -> bool:
    """Return whether a path is an address on the hub: it begins with ``hf:``."""
    return str(path).startswith("hf:/")


def local_copy(path: str | Path) -> Path:
    """Return the local copy of a data set on the hub, which is downloaded unless it is in the hub's cache.

    Every file is downloaded once, since training reads the images several times. An interrupted download resumes.

    Args:
        path: ``hf://datasets/USER/NAME``, perhaps with ``@REVISION``, and with a folder or file in it; other paths are
            returned unchanged.

    Raises:
        AnnotationError: the address is not of this form, there is no such data set or file, it may not be read, or it
            cannot be downloaded.
    """
    if not is_on_hub(path):
        return Path(path)
    address = re.sub("^hf:/+", "hf://", str(path))
    if (found := _ADDRESS.fullmatch(str(path))) is None:
        raise AnnotationError(
            f"{address}: is not the address of a data set on the hub; give hf://datasets/USER/NAME, with /FOLDER or "
            "/FILE for a part of it"
        )
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise AnnotationError(
            f"{address}: the hub's library cannot be imported ({first_line(error)}); run: pip install huggingface_hub"
        ) from None
    name, inside = found["name"], found["inside"]
    try:
        folder = huggingface_hub.snapshot_download(
            name,
            repo_type="dataset",
            revision=found["revision"],
            allow_patterns=[inside, f"{inside}/*"] if inside else None,
            library_name="captioner",
        )
    except errors.GatedRepoError as error:
        advice = f"request access at {huggingface_hub.constants.ENDPOINT}/datasets/{name}, then log in: hf auth login"
        raise AnnotationError(f"{address}: its owner decides who may read it; {advice}") from error
    except errors.RevisionNotFoundError as error:
        raise AnnotationError(f"{address}: the data set has no revision {found['revision']!r}") from error
    except errors.RepositoryNotFoundError as error:
        advice = "check the name, and for a private one log in: hf auth login"
        raise AnnotationError(f"{address}: there is no such data set on the hub, or it is private; {advice}") from error
    except Exception as error:  # the hub's and the network's own families
        advice = "check the network, and run the command again, which resumes the download"
        raise AnnotationError(f"{address}: cannot be downloaded ({first_line(error)}); {advice}") from error
    copy = Path(folder, inside) if inside else Path(folder)
    if not copy.exists():
        raise AnnotationError(f"{address}: the data set {name} has no such file or folder")
    return copy
