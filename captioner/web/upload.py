"""Reads the image of a request into memory, and never more of it than is allowed.

The image is the body itself, or the field ``image`` of a form. Nothing is written to the disk: Starlette's parser would
put larger files into temporary ones, so its limit for that is the limit of the request.
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

_FORM = 16 * 1024  # bytes that a form may have beside its image


class Upload(NamedTuple):
    """An image as it was sent.

    Attributes:
        name: the file's name, without folders; empty if it has none.
        content: the file.
    """

    name: str
    content: bytes


async def read_upload(
    request: Request, *, limit: int, budget: Budget, take: Callable[[int], None], seconds: float = 30.0
) -> Upload:
    """Read the image of a request.

    Args:
        request: with the image as its body, or a form with a field ``image``.
        limit: the image's most bytes.
        budget: of all requests together.
        take: counts the bytes in the budget; see :meth:`Budget.share`.
        seconds: within which all of it must arrive.

    Raises:
        HTTPException: 400 if there is no image, 408 if it takes too long, 413 if it is too large, 415 if the request is
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
        raise HTTPException(400, "the connection was closed before the image was there") from None  # nobody reads it
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
            there = ", ".join(sorted(form)) or "nothing that is complete"
            there = "a text of that name" if image is not None else there
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
