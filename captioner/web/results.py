"""Results of work in other threads, awaited while the client is connected, and the statuses of their errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from math import ceil
from typing import TypeVar

from fastapi import HTTPException, Request

from captioner.errors import CaptionerError, ImageError
from captioner.web.batching import UnknownModelError
from captioner.web.lanes import FullError

T = TypeVar("T")


class Results:
    """Awaits results.

    Args:
        seconds: the time limit of each.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self, request: Request, name: str, submit: Callable[[], Future[T]], otherwise: int = 422) -> T:
        """Await the result of what ``submit`` starts.

        Args:
            request: the request, which is given up when its client leaves.
            name: of the image, for its errors.
            submit: starts the work.
            otherwise: the status of errors other than those of the image, the model and a full server.

        Raises:
            HTTPException: it failed, takes too long, or the client has left.
        """
        try:
            return await _while_connected(request, submit(), self.seconds)
        except TimeoutError:
            raise later(503, f"the image has waited for {self.seconds:.0f} s", 10) from None
        except asyncio.CancelledError:
            raise later(503, "the server is shutting down", 10) from None
        except CaptionerError as error:
            error.__traceback__ = None  # the future that holds it is freed late, and would keep the image until then
            if isinstance(error, FullError):
                raise later(503, str(error), 2) from None
            status = {UnknownModelError: 404, ImageError: 422}.get(type(error), otherwise)
            reason = f"{name or 'the image'}: {error.reason}" if isinstance(error, ImageError) else str(error)
            raise HTTPException(status, reason) from None


def later(status: int, reason: str, seconds: float) -> HTTPException:
    """Return the error of a request that may succeed in some seconds, which its ``Retry-After`` names."""
    wait = max(1, ceil(seconds))
    return HTTPException(status, f"{reason}; try again in {wait} s", headers={"retry-after": str(wait)})


async def _while_connected(request: Request, future: Future[T], seconds: float) -> T:
    """Await a future, and cancel it as soon as the client closes the connection.

    Raises:
        HTTPException: the client has left.
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
        future.cancel()  # at once; cancelling `work` would reach it only in a later turn of the loop, after the answer
        work.cancel()
        gone.cancel()
        del work, future  # an exception in them refers to this frame, which holds the image
