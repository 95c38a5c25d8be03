"""Requests of an archive over HTTP, as a whole or from a position; temporary failures have errors of their own."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any

import captioner
from captioner.data.download.record import PartInfo
from captioner.data.download.unpack import BLOCK
from captioner.errors import DownloadError, first_line


class CutError(Exception):
    """A temporary failure: a cut connection or a busy server, which may request a ``wait`` in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class RangeError(CutError):
    """The server cannot resume the file; it has to be fetched from the beginning."""


def request(
    url: str, target: Path, offset: int, known: PartInfo, timeout: float
) -> tuple[http.client.HTTPResponse, int, PartInfo]:
    """Request an archive from ``offset`` on, or as a whole from a server that ignores ranges.

    Args:
        url: the address of the archive.
        target: the file that it becomes, for errors.
        offset: bytes that are there already.
        known: size and version of the file that they belong to.
        timeout: seconds of silence after which the connection counts as cut.

    Returns:
        The open response, the position of its first byte in the file, and the file's size and version.

    Raises:
        RangeError: the server cannot resume at ``offset``.
        CutError: another temporary failure.
        DownloadError: the server refuses, or its certificate is not valid.
    """
    headers = {"User-Agent": f"captioner/{captioner.__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if known.version:
            headers["If-Range"] = known.version
    response = _open(urllib.request.Request(url, headers=headers), target, timeout)
    if response.status == 200:
        total = _number(response.headers.get("Content-Length"))
        return response, 0, PartInfo(total=total, version=_version(response.headers))
    if response.status == 206 and offset and _continues(response.headers, offset, known):
        total = known.total or _number(response.headers["Content-Range"].rpartition("/")[2])
        return response, offset, PartInfo(total=total, version=known.version)
    response.close()
    raise RangeError(f"HTTP {response.status}, which does not continue the part")


def blocks(response: http.client.HTTPResponse, done: int, total: int | None) -> Iterator[bytes]:
    """Yield the bytes of a response as they arrive, from position ``done`` up to ``total``.

    Raises:
        CutError: the connection was cut.
    """
    while total is None or done < total:
        try:
            block = response.read1(BLOCK if total is None else min(BLOCK, total - done))
        except (OSError, http.client.HTTPException) as error:
            raise CutError(f"the connection was cut after {done:,} bytes: {first_line(error)}") from error
        if not block:
            break
        done += len(block)
        yield block
    if total is not None and done < total:
        raise CutError(f"the connection was cut after {done:,} of {total:,} bytes")


def _open(request: urllib.request.Request, target: Path, timeout: float) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener(SafeRedirects).open(request, timeout=timeout)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        status = f"HTTP {error.code} {first_line(error).partition(': ')[2] or error.reason}"
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            kind = RangeError if error.code == 416 else CutError
            raise kind(status, _number(error.headers.get("Retry-After")) or 0) from error
        raise DownloadError(
            f"{target}: {request.full_url} does not exist or is not accessible ({status}); look for a newer "
            "Captioner, or put the file there yourself"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{target}: {request.full_url} cannot be trusted ({reason.verify_message}); check this "
                "computer's date and certificates"
            ) from error
        detail = first_line(reason) if isinstance(reason, BaseException) else reason
        raise CutError(f"no connection: {detail}") from error


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to an unprotected address."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, *rest: Any) -> Any:
        """Return the request that follows a redirect; ``rest`` is the message, the headers and the address."""
        _, headers, address = rest
        if req.type == "https" and not address.lower().startswith("https:"):
            raise urllib.error.HTTPError(req.full_url, code, f"leads from https to {address}", headers, fp)
        return super().redirect_request(req, fp, code, *rest)


def _continues(headers: Message, offset: int, known: PartInfo) -> bool:
    """Return whether a partial response (RFC 9110, section 14.4) continues the part at ``offset``."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if (
        match is None
        or int(match[1]) != offset
        or (known.total is not None and match[2] not in ("*", str(known.total)))
    ):
        return False
    return known.version is None or _version(headers) in (None, known.version)


def _version(headers: Message) -> str | None:
    """Return the mark of a file's version: a strong ETag, or else the date.

    Weak ETags may not be used with ranges (RFC 9110, section 13.1.5).
    """
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
