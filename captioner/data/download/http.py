"""HTTP requests for the rest of a file: ranges, versions, safe redirects, and which failures are worth another try."""

from __future__ import annotations

import http.client
import random
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import IO

import captioner
from captioner.data.download.unpack import BLOCK
from captioner.errors import first_line


class CutError(Exception):
    """A failure that may pass: a cut connection or a busy server, which may ask for a ``wait`` of some seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class RangeError(CutError):
    """The server cannot continue the file: it has to be fetched from the beginning."""


class RefusedError(Exception):
    """A failure that another try will not cure; the message names the address."""


@dataclass(frozen=True)
class Patience:
    """How long a download is retried.

    Attributes:
        attempts: failures in a row, without a byte received in between, after which the download is given up.
        first: seconds to wait after the first failure; doubled after each further one, and shortened at random by up to
            a half, so that the clients of a server that has come back do not all return at once.
        longest: seconds that one wait may last, even if the server asks for more.
        timeout: seconds of silence after which a connection counts as cut.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 60.0
    timeout: float = 30.0

    def wait(self, failures: int, asked: float = 0.0) -> float:
        """Seconds to wait after this many failures in a row; ``asked`` is what the server asks for."""
        own = min(self.first * 2.0 ** (failures - 1), self.longest) * random.uniform(0.5, 1.0)
        return max(own, min(asked, self.longest))


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request for a file.

    Attributes:
        response: the open response.
        offset: the position in the file of the first byte that the response brings.
        total: bytes of the whole file; None if the server does not say.
        version: what distinguishes this version of the file from others; None if the server does not say.
    """

    response: http.client.HTTPResponse
    offset: int
    total: int | None
    version: str | None

    def blocks(self, total: int | None) -> Iterator[bytes]:
        """Yield the bytes as they arrive, up to ``total`` bytes of the whole file.

        Raises:
            CutError: the connection was cut.
        """
        done = self.offset
        while total is None or done < total:
            try:
                block = self.response.read1(BLOCK if total is None else min(BLOCK, total - done))
            except (OSError, http.client.HTTPException) as error:
                raise CutError(f"the connection was cut after {done:,} bytes: {first_line(error)}") from error
            if not block:
                break
            done += len(block)
            yield block
        if total is not None and done < total:
            raise CutError(f"the connection was cut after {done:,} of {total:,} bytes")


def request(url: str, *, offset: int, total: int | None, version: str | None, timeout: float) -> Answer:
    """Ask for a file from ``offset`` on; a server that ignores ranges answers with the whole file.

    Args:
        url: its address.
        offset: bytes that are already there.
        total: bytes of the whole file, if known.
        version: the version that the bytes belong to, if known.
        timeout: seconds of silence after which the connection counts as cut.

    Raises:
        RangeError: the server cannot continue at ``offset``.
        CutError: another failure that may pass.
        RefusedError: the server refuses, or its certificate is not valid.
    """
    headers = {"User-Agent": f"captioner/{captioner.__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version:
            headers["If-Range"] = version
    response = _open(urllib.request.Request(url, headers=headers), timeout)
    if response.status == 200:
        offset, total, version = 0, _number(response.headers.get("Content-Length")), _version(response.headers)
    elif not (response.status == 206 and offset and _continues(response.headers, offset, total, version)):
        response.close()
        raise RangeError(f"HTTP {response.status}, which does not continue the part")
    total = total or _number(response.headers.get("Content-Range", "").rpartition("/")[2])
    return Answer(response, offset, total, version)


def _open(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(SafeRedirects)
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        status = f"HTTP {error.code} {first_line(error).partition(': ')[2] or error.reason}"
        if error.code in (408, 416, 425, 429) or error.code >= 500:
            kind = RangeError if error.code == 416 else CutError
            raise kind(status, _number(error.headers.get("Retry-After")) or 0) from error
        raise RefusedError(
            f"{request.full_url} does not exist or is not accessible ({status}); look for a newer Captioner, or put "
            "the file there yourself"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise RefusedError(
                f"{request.full_url} cannot be trusted ({reason.verify_message}); check this computer's date and "
                "certificates"
            ) from error
        detail = first_line(reason) if isinstance(reason, BaseException) else reason
        raise CutError(f"no connection: {detail}") from error


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to an address for which anybody on the way could answer."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Make the request that follows a redirect."""
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.HTTPError(req.full_url, code, f"leads from https to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continues(headers: Message, offset: int, total: int | None, version: str | None) -> bool:
    """Whether a partial answer (RFC 9110, section 14.4) begins at ``offset`` of the partly downloaded file."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    same = match is not None and int(match[1]) == offset and (total is None or match[2] in ("*", str(total)))
    return same and (version is None or _version(headers) in (None, version))


def _version(headers: Message) -> str | None:
    """What distinguishes versions of a file: a strong ETag, or else the date.

    Weak ETags may not be used with ranges (RFC 9110, section 13.1.5).
    """
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
