"""A limit on the bytes that all requests hold together, and paced sending of large responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PIECE = 1 << 16


class Budget:
    """Counts the bytes held for all requests: images until they are answered, responses until they are read.

    Args:
        max_bytes: limit in bytes, beyond which images are rejected.
        freed: called when nothing is held any more after more than a quarter of the limit was.
    """

    def __init__(self, max_bytes: int, freed: Callable[[], None] = lambda: None) -> None:
        self.max_bytes, self.held = max_bytes, 0
        self._freed, self._much = freed, False

    def has(self, count: int) -> bool:
        """Return whether ``count`` more bytes fit."""
        return self.held + count <= self.max_bytes

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes bytes from the budget; all are returned at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            taken += count
            self.held += count
            self._much = self._much or self.held > self.max_bytes // 4

        try:
            yield take
        finally:
            self.held -= taken
            if self._much and not self.held:
                self._much = False
                self._freed()


class PacedResponses:
    """Middleware that sends large responses in pieces, as fast as the client reads, and counts them meanwhile.

    Otherwise the server would buffer a whole response for a client that does not read, uncounted.

    Args:
        app: the application.
        budget: counts the responses.
    """

    def __init__(self, app: ASGIApp, budget: Budget) -> None:
        self.app, self.budget = app, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

        async def sending(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] != "http.response.body" or len(body) <= _PIECE:
                await send(message)
                return
            with self.budget.share() as take:
                take(len(body))
                more = message.get("more_body", False)
                for start in range(0, len(body), _PIECE):
                    last = start + _PIECE >= len(body)
                    await send({**message, "body": body[start : start + _PIECE], "more_body": more or not last})

        await self.app(scope, receive, sending)
