"""The ASGI application: the page, and the JSON API that ``/docs`` describes."""

# Without ``from __future__ import annotations``, because FastAPI reads the types of nested functions.

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import captioner
from captioner.caption import Caption
from captioner.data.addresses import fetch_image
from captioner.data.formats import readable_formats
from captioner.data.images import load_image
from captioner.errors import CaptionerError
from captioner.figures import Figure, Style
from captioner.figures.explorer import data_url, numbers, reduced
from captioner.machine.backend import return_freed_memory
from captioner.web.answers import (
    IMAGE,
    CaptionResponse,
    HealthResponse,
    SidecarsRequest,
    TranslationRequest,
    TranslationsResponse,
    answers,
    body_of,
    schema_of,
)
from captioner.web.batching import Batches
from captioner.web.budget import Budget, PacedResponses
from captioner.web.guard import Admission, Guard, Rate, is_local
from captioner.web.lanes import Lane
from captioner.web.metrics import Metrics
from captioner.web.page import page_of
from captioner.web.results import Results, later
from captioner.web.sidecars import zipped
from captioner.web.upload import Reading, Upload, problem, read_json, read_upload

REFUSALS = (400, 401, 403, 408, 413, 415, 421, 422, 429, 503)
"""Statuses of requests that are not answered, other than by a fault of the server."""

FETCHING = 20.0
"""Seconds in which an image must arrive from its address on the web."""

MAX_N_BEST = 5
"""Longest n-best list that a request may ask for."""

_TYPES = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "gif": "image/gif",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
}


def create_app(
    batches: Batches,
    *,
    admission: Admission | None = None,
    examples: Sequence[Path] = (),
    titles: Mapping[str, str] | None = None,
    load_translator: Callable[[str], Callable[[Caption], Caption]] | None = None,
    languages: Sequence[str] = (),
    allow_addresses: bool = False,
    n_best: int = 1,
    max_bytes: int = 20_000_000,
    rate: int = 120,
    local_rate: int = 0,
    max_held: int | None = None,
    seconds: float = 60.0,
) -> FastAPI:
    """Create the application.

    Args:
        batches: captions the images; closed when the application shuts down.
        admission: who is let in; by default browsers on this machine's own pages, and all other programs.
        examples: images to try, which the page offers.
        titles: names of the models on the page, by their own, where they differ.
        load_translator: loads what adds a translation into a language to a caption, or raises a
            :class:`CaptionerError`; without it there are no translations.
        languages: those that the page offers and ``GET /health`` lists.
        allow_addresses: fetch images from public web addresses that requests name.
        n_best: number of captions of an image, if a request does not name it.
        max_bytes: maximum size of an image.
        rate: images per minute from one address; 0 means no limit.
        local_rate: images per minute from this machine.
        max_held: maximum bytes of all images and responses together; by default 256 million or two images of maximum
            size, whichever is larger.
        seconds: time limit for captioning an image, and for drawing a figure of it.
    """
    # The command line keeps freed memory for speed, but images in flight can be many times larger than the models.
    budget = Budget(max(256_000_000, 2 * max_bytes) if max_held is None else max_held, freed=_trim_later)

    addresses = Lane(4 if allow_addresses else 0, max_jobs=32)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        addresses.close()
        await to_thread.run_sync(batches.close)

    app = FastAPIOffline(
        redoc_url=None,
        title="Captioner",
        version=captioner.__version__,
        description="Describes an image in a sentence, and shows where the model looked for each word.",
        lifespan=lifespan,
    )
    app.add_middleware(PacedResponses, budget=budget)
    app.add_middleware(Guard, admission=admission or Admission())
    metrics = Metrics(lambda: batches.waiting)
    app.add_middleware(metrics.middleware)
    style = Style()
    rates = {False: Rate(rate), True: Rate(local_rate)}
    page = page_of(
        {name: (titles or {}).get(name, name) for name in batches.models},
        languages=languages,
        examples=[path.name for path in examples],
        max_bytes=max_bytes,
    )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": problem(error.errors())}, 422)

    async def admitted(request: Request) -> AsyncIterator[Reading]:
        client = request.client.host if request.client else ""
        limit = rates[is_local(client)]
        if wait := limit.take(client):
            raise later(429, f"more than {limit.per_minute} images a minute from this address", wait)
        with budget.share() as take:
            yield Reading(max_bytes, budget, take)

    Admitted = Annotated[Reading, Depends(admitted)]

    result = Results(seconds)

    async def uploaded(request: Request, reading: Admitted) -> Upload:
        async def fetch(url: str) -> bytes:
            get = partial(fetch_image, url, max_bytes=max_bytes, seconds=FETCHING, public=True)
            return await result(request, "", lambda: addresses.submit(get))

        return await read_upload(request, reading, fetch=fetch if allow_addresses else None)

    async def submitted(request: Request, upload: Upload, model: str | None, number: int | None) -> Caption:
        """Return the caption of an image with as many of the next best as were requested."""
        found = await result(request, upload.name, lambda: batches.submit(upload.content, model), 500)
        return replace(found, others=found.others[: (number or n_best) - 1])

    async def small(request: Request, upload: Upload, style: Style) -> Image.Image:
        """Return the image reduced for display; the full one is freed."""

        def work() -> Image.Image:
            return reduced(load_image(upload.content, max_pixels=batches.max_pixels, min_size=style.side), style)

        return await result(request, upload.name, lambda: batches.decode(upload.content, work))

    ImageUpload = Annotated[Upload, Depends(uploaded)]
    Model = Annotated[str | None, Query(description="One of the models listed by /health; by default the first.")]

    translator = lru_cache(maxsize=8)(load_translator or _no_translator)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        path = next((path for path in examples if path.name == name), None)
        if path is None:
            raise HTTPException(404, f"no example is named {name!r}")
        return FileResponse(path, headers={"cache-control": "max-age=3600"})

    @app.post(
        "/caption",
        tags=["images"],
        responses=answers(*REFUSALS, 404, 500),
        openapi_extra=IMAGE,
        response_model_exclude_none=True,
        summary="Caption an image",
        response_description="The caption.",
    )
    async def caption(
        request: Request,
        upload: ImageUpload,
        model: Model = None,
        attention: Annotated[bool, Query(description="Add where the model looked for each word.")] = False,
        figure: Annotated[
            bool, Query(description="Add data for the page's explorer: compact weights and a small image.")
        ] = False,
        n_best: Annotated[
            int | None,
            Query(
                ge=1,
                le=MAX_N_BEST,
                description="Number of captions: the best, and the next as `others`; at most the beam width.",
            ),
        ] = None,
        language: Annotated[
            str | None, Query(max_length=20, description="Add a translation, for example into de.")
        ] = None,
    ) -> CaptionResponse:
        """Describe an image; for example `curl -F image=@photo.jpg localhost:8000/caption`."""
        found = await submitted(request, upload, model, n_best)
        if language is not None:
            plain = found
            found = await result(request, upload.name, lambda: batches.draw(lambda: translator(language)(plain)))
        value = found.to_dict(attention=attention)
        if figure:
            shown = await small(request, upload, style)
            value["figure"] = await result(
                request, upload.name, lambda: batches.draw(lambda: _figure(found, shown, style))
            )
        return CaptionResponse(**{"model": model or batches.models[0], **value, "image": upload.name})

    @app.post(
        "/figure",
        tags=["images"],
        responses=answers(
            *REFUSALS, 404, 500, found={"content": {kind: {} for kind in _TYPES.values()}, "description": "The figure."}
        ),
        openapi_extra=IMAGE,
        response_class=Response,
        summary="Draw where it looked",
    )
    async def figure(
        request: Request,
        upload: ImageUpload,
        model: Model = None,
        format: Annotated[
            Literal["png", "svg", "pdf", "gif", "html", "json"],
            Query(description="A sheet with a panel for each word, an animation, an interactive page, or the numbers."),
        ] = "png",
    ) -> Response:
        """Show where the model looked for each word, as `captioner attend` does."""
        found = await submitted(request, upload, model, None)
        shown = await small(request, upload, Style(side=style.width))
        content: bytes = await result(
            request, upload.name, lambda: batches.draw(lambda: getattr(Figure(found, shown, style), format)())
        )
        stem = PurePath(upload.name).stem or "image"
        name = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in stem if letter.isascii())
        disposition = f'attachment; filename="{name or "image"}.attention.{format}"'
        return Response(content, media_type=_TYPES[format], headers={"content-disposition": disposition})

    @app.post(
        "/translate",
        tags=["captions"],
        responses=answers(*REFUSALS, 500),
        openapi_extra=body_of(
            ("application/json", schema_of(TranslationRequest)), description="The captions and the language."
        ),
        summary="Translate captions",
        response_description="The translations.",
    )
    async def translate(request: Request, reading: Admitted) -> TranslationsResponse:
        """Translate captions without their images, for example those that `POST /caption` returned."""
        given = await read_json(request, reading, TranslationRequest)
        best, *others = (Caption(text, [], 0.0) for text in given.texts)
        found = await result(
            request,
            "",
            lambda: batches.draw(lambda: translator(given.language)(replace(best, others=others))),
        )
        made = [one.translation for one in (found, *found.others)]
        for text, translation in zip(given.texts, made, strict=True):
            if translation and translation.is_cut:
                raise HTTPException(
                    422, f"{text[:40]!r}...: is longer than the translator reads; send one sentence in each text"
                )
        return TranslationsResponse(language=given.language, texts=[each.text if each else "" for each in made])

    @app.post(
        "/sidecars",
        tags=["captions"],
        responses=answers(*REFUSALS, found={"content": {"application/zip": {}}, "description": "A ZIP of the files."}),
        openapi_extra=body_of(
            ("application/json", schema_of(SidecarsRequest)), description="The captions of each photo."
        ),
        response_class=Response,
        summary="Put captions next to photos",
    )
    async def sidecars(request: Request, reading: Admitted) -> Response:
        """Return the files that `captioner caption --sidecar` writes next to photos without other captions."""
        given = await read_json(request, reading, SidecarsRequest)
        content = await result(request, "", lambda: batches.draw(lambda: zipped(given)))
        disposition = f'attachment; filename="captions.{given.format}.zip"'
        return Response(content, media_type="application/zip", headers={"content-disposition": disposition})

    @app.get("/health", tags=["server"], summary="Check the server", response_description="The state.")
    async def health() -> HealthResponse:
        """Return the served models and the number of waiting images."""
        return HealthResponse(
            version=captioner.__version__,
            models=list(batches.models),
            loaded=list(batches.loaded),
            languages=list(languages),
            formats=list(readable_formats()),
            waiting=batches.waiting,
        )

    @app.get(
        "/metrics",
        tags=["server"],
        responses=answers(401, found={"content": {"text/plain": {}}, "description": "The measurements."}),
        summary="Measure the server",
        response_class=Response,
    )
    async def measure() -> Response:
        """Return counts and times of requests, and the number of waiting images, as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _no_translator(language: str) -> Callable[[Caption], Caption]:
    raise CaptionerError(f"{language}: this server does not translate; leave the language out")


def _figure(caption: Caption, image: Image.Image, style: Style) -> dict[str, Any]:
    return {**numbers(caption, image.size, style), "photo": data_url(image)}


def _trim_later() -> None:
    """Return freed memory to the system once nothing refers to the last request."""
    asyncio.get_running_loop().call_later(1.0, threading.Thread(target=return_freed_memory, daemon=True).start)
