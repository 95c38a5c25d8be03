"""Counts and times of requests, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATHS = ("/caption", "/figure", "/translate", "/sidecars")
_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Measures the requests for captions, figures, translations and sidecars.

    Args:
        waiting: returns the number of images that wait for a batch.

    Attributes:
        registry: of the measurements.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "captioner_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "captioner_seconds", "Time to answer a request.", ["path"], buckets=_SECONDS, registry=self.registry
        )
        Gauge("captioner_waiting", "Images that wait for a batch.", registry=self.registry).set_function(waiting)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return an application that measures the requests of another one."""

        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
            if scope["type"] != "http" or path not in _PATHS:
                await app(scope, receive, send)
                return
            began, status = time.perf_counter(), 500

            async def sending(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, sending)
            finally:
                self._requests.labels(path, str(status)).inc()
                self._seconds.labels(path).observe(time.perf_counter() - began)

        return measured
