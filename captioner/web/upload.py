"""Reads the image of a request into memory, up to a size limit.

The image is the request body, the field ``image`` of a form, or in JSON. Nothing is written to disk: Starlette's parser
would spool large files to temporary ones, so its spool limit is raised to the size limit.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from anyio import fail_after
from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from captioner.errors import first_line
from captioner.web.answers import ImageRequest
from captioner.web.budget import Budget

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_FORM = 16 * 1024  # maximum bytes of a form in addition to its image


class Upload(NamedTuple):
    """An uploaded image.

    Attributes:
        name: the file name without folders; may be empty.
        content: the file content.
    """

    name: str
    content: bytes


@dataclass(frozen=True)
class Reading:
    """What bounds the reading of a request.

    Attributes:
        limit: maximum bytes of an image.
        budget: the byte budget of all requests.
        take: takes bytes from the budget; see :meth:`Budget.share`.
        seconds: time limit for the upload.
    """

    limit: int
    budget: Budget
    take: Callable[[int], None]
    seconds: float = 30.0

    def hold(self, count: int) -> None:
        """Take bytes from the budget.

        Raises:
            HTTPException: 503 if they do not fit.
        """
        self.check(count)
        self.take(count)

    def check(self, count: int) -> None:
        """Check that as many bytes fit into the budget; see :meth:`hold`."""
        if not self.budget.has(count):
            raise HTTPException(
                503, "the server holds as many images as it can; try again in 2 s", headers={"retry-after": "2"}
            )


async def read_upload(
    request: Request, reading: Reading, *, fetch: Callable[[str], Awaitable[bytes]] | None = None
) -> Upload:
    """Read the image of a request.

    Args:
        request: its body is the image, a form with a field ``image``, or JSON of :class:`ImageRequest`.
        reading: the bounds.
        fetch: fetches an image at an address that JSON names; without it there is no such image.

    Raises:
        HTTPException: 400 without an image, 403 for an address without ``fetch``, 408 if it takes too long, 413 if it
            is too large, 415 if the request is compressed, 422 if its JSON is invalid, 503 if the budget is spent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _bounded(request, reading, _FORM, partial(_from_form, request, limit=reading.limit))
    if kind == "application/json":
        return await _from_json(request, reading, fetch)
    content = await _bounded(request, reading, 0, _joined)
    if not content:
        raise HTTPException(
            400, "there is no image in the request; send one as its body, or as a form: -F image=@photo.jpg"
        )
    return Upload("", content)


async def read_json(request: Request, reading: Reading, kind: type[M], *, more: int = 0) -> M:
    """Read a request of JSON.

    Args:
        request: its body is JSON.
        reading: the bounds.
        kind: what the JSON describes.
        more: bytes that are allowed beyond the limit.

    Raises:
        HTTPException: as for :func:`read_upload`.
    """
    body = await _bounded(request, reading, more, _joined)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, problem(error.errors(include_url=False, include_input=False))) from None


def problem(errors: Sequence[Any]) -> str:
    """Return the first of Pydantic's errors as a sentence that names the field."""
    place = ".".join(str(part) for part in errors[0]["loc"] if part not in ("query", "path", "body"))
    return f"{place or 'the body'}: {errors[0]['msg']}; see /docs"


async def _bounded(
    request: Request, reading: Reading, more: int, parse: Callable[[AsyncGenerator[bytes, None]], Awaitable[T]]
) -> T:
    """Parse a request's body, of ``more`` bytes than the limit of an image at most."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HTTPException(415, f"the request is compressed ({coding}); send it as it is")
    length = request.headers.get("content-length", "")
    max_bytes = reading.limit + more
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(reading.limit)
    if length.isdecimal():
        reading.check(int(length))

    async def parts() -> AsyncGenerator[bytes, None]:
        total = 0
        async for part in request.stream():
            total += len(part)
            if total > max_bytes:
                raise _too_large(reading.limit)
            reading.hold(len(part))
            yield part

    try:
        with fail_after(reading.seconds):
            return await parse(parts())
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed before the image was there") from None
    except TimeoutError:
        raise HTTPException(
            408, f"the image did not arrive within {reading.seconds:.0f} seconds; send it again"
        ) from None


async def _joined(parts: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([part async for part in parts])


async def _from_json(request: Request, reading: Reading, fetch: Callable[[str], Awaitable[bytes]] | None) -> Upload:
    given = await read_json(request, reading, ImageRequest, more=reading.limit // 2 + _FORM)
    name = _file_name(given.name)
    if (given.image is None) == (given.url is None):
        raise HTTPException(400, "the JSON has no image, or two; give `image` or `url`")
    if given.image is not None:
        reading.hold(len(given.image))
        content = _decoded(given.image)
        if len(content) > reading.limit:
            raise _too_large(reading.limit)
        return Upload(name, content)
    if fetch is None:
        raise HTTPException(
            403,
            "this server fetches no addresses; send the image itself, or start it with: captioner serve "
            "--allow-addresses",
        )
    url = given.url or ""
    if not url.lower().startswith(("http://", "https://")):
        raise HTTPException(422, "url: must begin with https:// or http://")
    reading.hold(reading.limit)
    return Upload(name or _file_name(unquote(urlsplit(url).path)), await fetch(url))


def _decoded(text: str) -> bytes:
    """Return the bytes of an image in base64, or in a data URL."""
    head, comma, rest = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if comma and not head.lower().endswith(";base64"):
        raise HTTPException(422, "image: is a data URL that is not in base64; encode it")
    try:
        content = base64.b64decode("".join(rest.split()), validate=True)
    except ValueError as error:
        raise HTTPException(
            422, f"image: is not base64 ({first_line(error)}); encode the file, or send it itself"
        ) from None
    if not content:
        raise HTTPException(400, "the image is empty (0 bytes); send another")
    return content


async def _from_form(request: Request, parts: AsyncGenerator[bytes, None], *, limit: int) -> Upload:
    parser = MultiPartParser(request.headers, parts, max_files=1, max_fields=16, max_part_size=_FORM)
    parser.spool_max_size = limit + _FORM
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = getattr(error, "message", str(error))
        advice = "send one image in a request" if reason.startswith("Too many files") else "send it again"
        raise HTTPException(400, f"the form cannot be read ({reason}); {advice}") from None
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
        return Upload(_file_name(image.filename or ""), content)
    finally:
        await form.close()


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the request has more than {limit / 1e6:g} MB; send a smaller one")


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
