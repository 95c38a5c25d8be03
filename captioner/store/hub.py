"""Models on the Hugging Face hub: one file fetched into its cache, and a whole model published in one commit.

A model there is named ``user/model``, or ``user/model@revision`` with a branch, a tag or a commit, as in the hub's own
addresses. :mod:`captioner.store.publish` interprets the files; this module does not need torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captioner
from captioner.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOGIN = "hf auth login"
_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(@.+)?")
_EXTRAS = {".gitattributes", "README.md", "LICENSE", "LICENSE.txt"}  # files of an otherwise empty repository


def is_name(text: str) -> bool:
    """Return whether a text has the form ``user/model`` or ``user/model@revision``."""
    return _NAME.fullmatch(text) is not None


def fetch(name: str, file: str, *, commit: str | None = None) -> Path | None:
    """Return a file of a model, in the hub's cache, where it is downloaded unless it is there.

    The newest version is taken; without a network, or with ``HF_HUB_OFFLINE``, the one in the cache.

    Args:
        name: ``user/model`` or ``user/model@revision``.
        file: its name in the repository.
        commit: take it from this commit, which needs no network if it is in the cache.

    Returns:
        Its path, or ``None`` if the repository has no such file.

    Raises:
        CheckpointError: there is no such model or revision, it may not be read, or it cannot be downloaded.
    """
    repository, _, revision = name.partition("@")
    hub = _library(name)
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    where = {"repo_id": repository, "filename": file, "revision": commit or revision or None}
    try:
        if commit is None:  # one request, since a download that cannot begin is tried again for half a minute
            hub.get_hf_file_metadata(hub.hf_hub_url(**where), **_introduction())
        return Path(hub.hf_hub_download(**where, **_introduction()))
    except Exception as error:  # the hub's and the network's own families
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        there = not isinstance(error, (ValueError, RevisionNotFoundError)) and hub.try_to_load_from_cache(**where)
        if isinstance(there, str):
            return Path(there)
        raise CheckpointError(f"model {name!r}: {_reason(error, name)}") from error


def publish(
    name: str,
    files: Mapping[str, Path | bytes],
    *,
    private: bool = False,
    known: Collection[str] = (),
    ours: Callable[[], bool] = lambda: False,
) -> str:
    """Upload a model in one commit, never visible in part, and return its address.

    Args:
        name: ``user/model``; the repository is made if there is none.
        files: by their names in the repository.
        private: make a repository that nobody else can see.
        known: names of files that belong to a model; those that this one lacks are deleted.
        ours: whether the repository, if it has files, holds a model that may be replaced.

    Raises:
        CheckpointError: you may not write there, the repository holds something else or is public although ``private``
            is requested, or the upload failed.
    """
    if "@" in name or not is_name(name):
        raise CheckpointError(f"{name!r}: is not a model's name on the hub; give user/model, without a revision")
    hub = _library(name)
    api = hub.HfApi(**_introduction())
    try:
        there, is_private = _there(api, name)
        if private and is_private is False:
            raise CheckpointError(
                f"{name}: exists and is public; make it private on its page, {api.endpoint}/{name}/settings, or give "
                "another name"
            )
        if there - _EXTRAS and not ours():
            raise CheckpointError(f"{name}: exists and is not a model of captioner; give another name")
        if is_private is None:
            api.create_repo(name, private=private, exist_ok=True)
        operations: list[Any] = [hub.CommitOperationAdd(file, content) for file, content in files.items()]
        operations += [hub.CommitOperationDelete(file) for file in sorted(there.intersection(known) - set(files))]
        api.create_commit(name, operations, commit_message=f"Upload by captioner {captioner.__version__}")
    except CheckpointError:
        raise
    except Exception as error:  # the hub's and the network's own families
        raise CheckpointError(
            f"{name}: could not be uploaded, and no file there was changed: {_reason(error, name, writing=True)}"
        ) from error
    return f"{api.endpoint}/{name}"


def _library(name: str) -> Any:
    """Import the hub's library, which a small environment may lack."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"model {name!r}: the hub's library cannot be imported ({first_line(error)}); run: pip install "
            "huggingface_hub"
        ) from None
    return huggingface_hub


def _introduction() -> dict[str, str]:
    return {"library_name": "captioner", "library_version": captioner.__version__}


def _there(api: HfApi, name: str) -> tuple[set[str], bool | None]:
    """Return the names of a repository's files and whether it is private, which is ``None`` if there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(name)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return set(), None
    return {file.rfilename for file in info.siblings or ()}, bool(info.private)


def _reason(error: BaseException, name: str, *, writing: bool = False) -> str:
    """Return the reason of a refusal, by the hub or the network, and what to do."""
    from huggingface_hub import constants, errors, get_token

    while not isinstance(error, errors.HfHubHTTPError) and error.__cause__ is not None:
        error = error.__cause__
    repository, _, revision = name.partition("@")
    address = f"{constants.ENDPOINT}/{repository}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        return f"access to it must be requested at {address}; then log in with: {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision or 'main'!r}; {address} lists its branches, tags and commits"
    if status == 401 and get_token() is not None:
        return f"your login is not valid; log in again with: {LOGIN}"
    if status == 401 and writing:
        return f"you are not logged in; run: {LOGIN}"
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such folder, and no such model on the hub, or it is private; check the name, and for a "
            f"private one log in with: {LOGIN}"
        )
    if status == 403:
        may = "write to it" if writing else "read it"
        return f"your login may not {may}; log in as one who may, with a token that allows it: {LOGIN}"
    if isinstance(error, errors.HFValidationError):
        return f"is not a name on the hub ({first_line(error)}); give user/model or user/model@revision"
    if status is not None and status < 500 and status != 429:
        return f"the hub answered {status} ({_hub_message(error)})"
    here = "" if writing else "there is no such folder, the hub's cache does not have all of it, and "
    if status is not None:
        return f"{here}the hub answered {status} ({_hub_message(error)}); try again later"
    if constants.HF_HUB_OFFLINE or isinstance(error, errors.OfflineModeIsEnabled):
        return f"{here}HF_HUB_OFFLINE forbids any transfer; unset that"
    reason = f"{constants.ENDPOINT} cannot be reached, or broke off ({_hub_message(error)})"
    return f"{here}{reason}; check the network and try again"


def _hub_message(error: BaseException) -> str:
    """Return the hub's message of an error, on one line."""
    return " ".join((getattr(error, "server_message", None) or str(error)).split()) or first_line(error)
