"""Reads the image of a request into memory, up to a size limit.

The image is the request body, or the field ``image`` of a form. Nothing is written to disk: Starlette's parser would
spool large files to temporary ones, so its spool limit is raised to the size limit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

from anyio import fail_after
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from captioner.web.budget import Budget

_FORM = 16 * 1024  # maximum bytes of a form in addition to its image


class Upload(NamedTuple):
    """An uploaded image.

    Attributes:
        name: the file name without folders; may be empty.
        content: the file content.
    """

    name: str
    content: bytes


async def read_upload(
    request: Request, *, limit: int, budget: Budget, take: Callable[[int], None], seconds: float = 30.0
) -> Upload:
    """Read the image of a request.

    Args:
        request: its body is the image, or a form with a field ``image``.
        limit: maximum bytes of the image.
        budget: the byte budget of all requests.
        take: takes bytes from the budget; see :meth:`Budget.share`.
        seconds: time limit for the upload.

    Raises:
        HTTPException: 400 without an image, 408 if it takes too long, 413 if it is too large, 415 if the request is
            compressed, 503 if the budget is spent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HTTPException(415, f"the request is compressed ({coding}); send the image as it is")
    length = request.headers.get("content-length", "")
    most = limit + _FORM if kind == "multipart/form-data" else limit
    if length.isdecimal() and int(length) > most:
        raise _too_large(limit)
    if length.isdecimal() and not budget.has(int(length)):
        raise _spent()

    async def parts() -> AsyncGenerator[bytes, None]:
        total = 0
        async for part in request.stream():
            total += len(part)
            if total > most:
                raise _too_large(limit)
            if not budget.has(len(part)):
                raise _spent()
            take(len(part))
            yield part

    try:
        with fail_after(seconds):
            if kind == "multipart/form-data":
                return await _from_form(request, parts(), limit)
            content = b"".join([part async for part in parts()])
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed before the image was there") from None
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {seconds:.0f} seconds; send it again") from None
    if not content:
        raise HTTPException(
            400, "there is no image in the request; send one as its body, or as a form: -F image=@photo.jpg"
        )
    return Upload("", content)


async def _from_form(request: Request, parts: AsyncGenerator[bytes, None], limit: int) -> Upload:
    parser = MultiPartParser(request.headers, parts, max_files=1, max_fields=16, max_part_size=_FORM)
    parser.spool_max_size = limit + _FORM
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = getattr(error, "message", str(error))
        cure = "send one image in a request" if reason.startswith("Too many files") else "send it again"
        raise HTTPException(400, f"the form cannot be read ({reason}); {cure}") from None
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            there = ", ".join(sorted(form)) or "no complete field"
            there = "a text field of that name" if image is not None else there
            raise HTTPException(
                400, f'the form has no file "image" (it has {there}); send one: curl -F image=@photo.jpg'
            )
        content = await image.read()
        if len(content) > limit:
            raise _too_large(limit)
        if not content:
            raise HTTPException(400, "the image is empty (0 bytes); send another")
        return Upload((image.filename or "").replace("\\", "/").rpartition("/")[2], content)
    finally:
        await form.close()


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the image has more than {limit / 1e6:.0f} MB; send a smaller one")


def _spent() -> HTTPException:
    return HTTPException(
        503, "the server holds as many images as it can; try again in 2 s", headers={"retry-after": "2"}
    )
