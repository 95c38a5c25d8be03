"""The bytes that all requests together may hold, and answers that wait until they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PIECE = 1 << 16


class Budget:
    """Counts the bytes that are held for all requests: images until they are answered, answers until they are read.

    Args:
        most: bytes beyond which images are refused.
        freed: called when nothing is held any longer, after much was.
    """

    def __init__(self, most: int, freed: Callable[[], None] = lambda: None) -> None:
        self.most, self.held = most, 0
        self._freed, self._much = freed, False

    def has(self, count: int) -> bool:
        """Return whether there is room for so many bytes more."""
        return self.held + count <= self.most

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes more; all of them are given back at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            taken += count
            self.held += count
            self._much = self._much or self.held > self.most // 4

        try:
            yield take
        finally:
            self.held -= taken
            if self._much and not self.held:
                self._much = False
                self._freed()


class Paced:
    """Sends large answers in pieces, each when its client has read those before, and counts them meanwhile.

    The server would otherwise keep a copy of an answer that nobody reads, beside the request that is done for it.

    Args:
        app: the application.
        budget: counts the answers.
    """

    def __init__(self, app: ASGIApp, budget: Budget) -> None:
        self.app, self.budget = app, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

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
