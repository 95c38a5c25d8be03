"""The ASGI application: the page, ``POST /caption``, ``POST /figure``, and what describes them."""

# Without ``from __future__ import annotations``: FastAPI reads the types of functions inside others.

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Future
from contextlib import asynccontextmanager
from math import ceil
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar

from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi_offline import FastAPIOffline
from PIL import Image
from pydantic import BaseModel, Field

import captioner
from captioner.backend import return_freed_memory
from captioner.caption import Caption
from captioner.data.images import load_image
from captioner.errors import CaptionerError, ImageError
from captioner.figures import Figure, Style
from captioner.figures.document import assemble
from captioner.figures.explorer import data_url, numbers, reduced
from captioner.web.batching import Batches, UnknownModelError
from captioner.web.budget import Budget, Paced
from captioner.web.guard import Guard, Rate, is_local, names_of
from captioner.web.lanes import FullError
from captioner.web.upload import Upload, read_upload

T = TypeVar("T")

_TYPES = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "gif": "image/gif",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
}
_PHOTO = {
    "requestBody": {
        "required": True,
        "description": "The image: as the field `image` of a form, or as the body itself.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary", "description": "the image's file"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class ErrorResponse(BaseModel):
    """Why a request was refused."""

    detail: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "There is no image in the request.",
        403: "The request comes from another site's page.",
        404: "The model is not served.",
        408: "The image did not arrive in time.",
        413: "The image has too many bytes.",
        415: "The request is compressed.",
        422: "The image cannot be read, and why; or a parameter is wrong.",
        429: "Too many images from this address; Retry-After says when to go on.",
        503: "Too many images wait, or this one has waited too long; Retry-After says when to try again.",
    }.items()
}


class OtherCaption(BaseModel):
    """One of the next best captions."""

    caption: str
    log_probability: float = Field(description="natural logarithm, summed over the words and the end")


class CaptionResponse(BaseModel):
    """The caption of an image."""

    image: str = Field(description="the file's name, if it was sent")
    model: str
    caption: str = Field(description="the sentence")
    tokens: list[str] = Field(description="its words as the model wrote them")
    log_probability: float = Field(description="natural logarithm, summed over the words and the end")
    others: list[OtherCaption] = Field(default_factory=list, description="the next best captions, best first")
    attention: list[list[float]] | None = Field(
        None, description="with attention=true: for each word the weight of each place, which sum to one"
    )
    attention_of: str | None = Field(None, description="whose attention: the mean over all heads")
    grid: tuple[int, int] | None = Field(None, description="rows and columns, if the places are a grid, row by row")
    boxes: list[list[float]] | None = Field(
        None, description="x0, y0, x1, y1 of each place, if they are regions; relative to `seen`"
    )
    labels: list[str] | None = Field(None, description="the detector's labels of the regions")
    scores: list[float] | None = Field(None, description="how sure the detector is of each label")
    seen: tuple[float, float, float, float] | None = Field(
        None, description="x0, y0, x1, y1 of the part of the image that the model saw; relative to the image"
    )
    figure: dict[str, Any] | None = Field(None, description="with figure=true: what the page draws")


class HealthResponse(BaseModel):
    """Whether the server works, and how busy it is."""

    status: Literal["ok"] = "ok"
    version: str
    models: list[str] = Field(description="those that are served, the default first")
    loaded: list[str] = Field(description="those in memory; others are loaded when they are first requested")
    waiting: int = Field(description="images that wait for a batch")


def create_app(
    batches: Batches,
    *,
    names: Collection[str] = names_of("localhost"),
    max_bytes: int = 20_000_000,
    rate: int = 120,
    local_rate: int = 0,
    max_held: int | None = None,
    seconds: float = 60.0,
) -> FastAPI:
    """Make the application.

    Args:
        batches: caption its images; they are closed when it shuts down.
        names: under which the server may be called, beside addresses; see :func:`captioner.web.guard.names_of`.
        max_bytes: of an image.
        rate: images a minute from one address; 0 is no limit.
        local_rate: the same for this machine itself.
        max_held: bytes of all images and answers together; by default 256 million, or the most bytes of two images.
        seconds: within which an image must be captioned, and its figure drawn.
    """
    # The command line keeps freed memory, which is faster, but images in flight can be many times the models' memory.
    budget = Budget(max(256_000_000, 2 * max_bytes) if max_held is None else max_held, freed=_trim_later)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(batches.close)

    app = FastAPIOffline(
        redoc_url=None,
        title="Captioner",
        version=captioner.__version__,
        description="Says in a sentence what an image shows, and shows where it looked for every word.",
        lifespan=lifespan,
    )
    app.add_middleware(Paced, budget=budget)
    app.add_middleware(Guard, names=frozenset(names))
    style = Style()
    rates = {False: Rate(rate), True: Rate(local_rate)}
    page = assemble(
        "web/app.html",
        styles="common.css explorer.css web/app.css",
        scripts="common.js maps.js explorer.js web/app.js",
        data={"models": batches.models, "megabytes": max_bytes / 1e6, "formats": ["png", "pdf", "gif", "html"]},
        texts={
            "language": "en",
            "title": "Captioner",
            "image": "data:,",
            "caption": "",
            "note": "",
            "most": "strongest of the word",
        },
        policy="img-src data: blob:; connect-src 'self'",
    )

    async def uploaded(request: Request) -> AsyncIterator[Upload]:
        client = request.client.host if request.client else ""
        limit = rates[is_local(client)]
        if wait := limit.take(client):
            raise _later(429, f"more than {limit.per_minute} images a minute from this address", wait)
        with budget.share() as take:
            yield await read_upload(request, limit=max_bytes, budget=budget, take=take)

    async def result(request: Request, upload: Upload, submit: Callable[[], Future[T]], otherwise: int = 422) -> T:
        """Wait for what becomes of an image, as long as its client does; other errors have the status ``otherwise``."""
        try:
            return await _while_connected(request, submit(), seconds)
        except TimeoutError:
            raise _later(503, f"the image has waited for {seconds:.0f} s", 10) from None
        except asyncio.CancelledError:
            raise _later(503, "the server is shutting down", 10) from None
        except CaptionerError as error:
            error.__traceback__ = None  # the future that has it is freed late, and would keep the image so long
            if isinstance(error, FullError):
                raise _later(503, str(error), 2) from None
            status = {UnknownModelError: 404, ImageError: 422}.get(type(error), otherwise)
            reason = f"{upload.name or 'the image'}: {error.reason}" if isinstance(error, ImageError) else str(error)
            raise HTTPException(status, reason) from None

    async def small(request: Request, upload: Upload, style: Style) -> Image.Image:
        """Return the image as it is shown; only that is kept."""

        def work() -> Image.Image:
            return reduced(load_image(upload.content, max_pixels=batches.max_pixels, min_size=style.side), style)

        return await result(request, upload, lambda: batches.decode(upload.content, work))

    ImageUpload = Annotated[Upload, Depends(uploaded)]
    Model = Annotated[str | None, Query(description="One of those that /health lists; by default the first.")]

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.post(
        "/caption",
        tags=["images"],
        responses=_ERRORS,
        openapi_extra=_PHOTO,
        response_model_exclude_none=True,
        summary="Caption an image",
    )
    async def caption(
        request: Request,
        upload: ImageUpload,
        model: Model = None,
        attention: Annotated[bool, Query(description="Add where the model looked for each word.")] = False,
        figure: Annotated[
            bool, Query(description="Add what the page draws: compact weights and a small image.")
        ] = False,
    ) -> CaptionResponse:
        """Say what an image shows; for example `curl -F image=@photo.jpg localhost:8000/caption`."""
        found = await result(request, upload, lambda: batches.submit(upload.content, model), 500)
        value = found.to_dict(attention=attention)
        if figure:
            shown = await small(request, upload, style)
            value["figure"] = await result(request, upload, lambda: batches.draw(lambda: _figure(found, shown, style)))
        return CaptionResponse(**{"model": model or batches.models[0], **value, "image": upload.name})

    @app.post(
        "/figure", responses=_ERRORS, openapi_extra=_PHOTO, response_class=Response, summary="Draw where it looked"
    )
    async def figure(
        request: Request,
        upload: ImageUpload,
        model: Model = None,
        format: Annotated[
            Literal["png", "svg", "pdf", "gif", "html", "json"],
            Query(description="A sheet with a panel for each word, an animation, a page to explore, or the numbers."),
        ] = "png",
    ) -> Response:
        """Show where the model looked for each word, as `captioner attend` does."""
        found = await result(request, upload, lambda: batches.submit(upload.content, model), 500)
        shown = await small(request, upload, Style(side=style.width))
        content: bytes = await result(
            request, upload, lambda: batches.draw(lambda: getattr(Figure(found, shown, style), format)())
        )
        stem = PurePath(upload.name).stem or "image"
        name = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in stem if letter.isascii())
        disposition = f'attachment; filename="{name or "image"}.attention.{format}"'
        return Response(content, media_type=_TYPES[format], headers={"content-disposition": disposition})

    @app.get("/health", tags=["server"], summary="Say that it works")
    async def health() -> HealthResponse:
        """Say that the server works, which models it has, and how many images wait."""
        return HealthResponse(
            version=captioner.__version__,
            models=list(batches.models),
            loaded=list(batches.loaded),
            waiting=batches.waiting,
        )

    return app


def _later(status: int, reason: str, seconds: float) -> HTTPException:
    wait = max(1, ceil(seconds))
    return HTTPException(status, f"{reason}; try again in {wait} s", headers={"retry-after": str(wait)})


async def _while_connected(request: Request, future: Future[T], seconds: float) -> T:
    """Return a result to come, or cancel it as soon as the client closes the connection.

    Raises:
        HTTPException: the client is gone; nobody reads it.
        TimeoutError: it takes longer than ``seconds``.
    """

    async def closed() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.wrap_future(future), asyncio.ensure_future(closed())
    try:
        await asyncio.wait((work, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if gone.done():
            raise HTTPException(400, "the connection was closed before the answer was there")
        raise TimeoutError
    finally:
        future.cancel()  # at once; cancelling `work` would reach it only when the loop is free, after the answer
        work.cancel()
        gone.cancel()
        del work, future  # an exception in them refers to this call, and so to the image


def _figure(caption: Caption, image: Image.Image, style: Style) -> dict[str, Any]:
    """Return what the page draws of a caption: the numbers of the explorer, and the image as it shows it."""
    return {**numbers(caption, image.size, style), "photo": data_url(image)}


def _trim_later() -> None:
    """Return freed memory to the system, once nothing refers to the last request any longer."""
    asyncio.get_running_loop().call_later(1.0, threading.Thread(target=return_freed_memory, daemon=True).start)
