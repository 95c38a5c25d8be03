"""``captioner serve``: a page and a JSON API that caption images."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import complete, console, options

if TYPE_CHECKING:
    from captioner.caption import Caption

EXAMPLES = """Example: captioner serve

Example: captioner serve --model show_attend_tell --model runs/mine/best

Example: captioner serve --host 0.0.0.0 --port 80 --allow-host photos.example.org

Example: CAPTIONER_TOKEN=secret captioner serve --host 0.0.0.0 --allow-origin https://example.org

Example: curl -F image=@photo.jpg localhost:8000/caption"""


_limit = partial(typer.Option, rich_help_panel="Limits")


def run(
    *,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.models,
            help="A shipped model, a model folder, user/model on the hub, or an ensemble of them as A+B; may be "
            "repeated, and the first is the default. Without it, all shipped captioners that run here.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 also accepts other machines, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of this server that requests may use; may be repeated."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Let the pages of this site use the API, for example https://example.org; * for all; may be repeated.",
        ),
    ] = None,
    token: Annotated[
        str,
        typer.Option(
            envvar="CAPTIONER_TOKEN",
            show_default=False,
            help="A secret that requests must send as Authorization: Bearer TOKEN, and the page's address must have as "
            "#token=TOKEN; safer in the environment, as other users may see the options of programs.",
        ),
    ] = "",
    root_path: Annotated[
        str,
        typer.Option(metavar="PATH", help="The path under which a proxy serves it, as /captions.", show_default=False),
    ] = "",
    allow_addresses: Annotated[
        bool,
        typer.Option("--allow-addresses", help="Fetch images from public web addresses in requests."),
    ] = False,
    search: options.NBest,
    batch_size: options.BatchSize = 16,
    max_megabytes: Annotated[float, _limit(min=0.001, max=1e6, help="Refuse larger files.")] = 20.0,
    max_pixels: Annotated[int, _limit(min=1, help="Refuse images with more pixels.")] = 50_000_000,
    rate: Annotated[
        int | None,
        _limit(
            min=0,
            help="Images a minute from one address; 0 sets no limit. By default 120, and no limit for this machine.",
        ),
    ] = None,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
) -> None:
    """Serve a page that captions the images dropped on it, and a JSON API.

    The page compares two models and shows the attention of each for every word. POST /caption takes an image and
    answers in JSON; /docs describes it. Images of several requests share a batch.

    Images are kept in memory and never written to disk. Connections are not encrypted, and without --token the API is
    open to everyone: outside your own network, put it behind a reverse proxy with encryption and a password.
    """
    from captioner.errors import CaptionerError
    from captioner.machine.packages import missing

    try:
        import uvicorn

        from captioner.web.app import MAX_N_BEST, create_app
        from captioner.web.connections import NoHandles, protocol, room
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("captioner", "torch")):
            raise
        raise CaptionerError(missing("the page", error.name or "")) from None
    from captioner import store
    from captioner.captioner import Captioner
    from captioner.data.examples import example_images
    from captioner.store import shipped
    from captioner.web.batching import Batches
    from captioner.web.guard import Admission, names_of
    from captioner.web.titles import title

    has_torch = find_spec("torch") is not None
    runnable = [name for name, folder in shipped().items() if has_torch or store.has_graphs(store.read_config(folder))]
    names = list(dict.fromkeys(models or sorted(runnable, key=lambda name: name != store.DEFAULT)))
    if not names:
        raise CaptionerError("no model comes with this copy of captioner; give one with --model")
    for name in names[1:]:
        store.locate_captioners(name)
    settings = search.settings()

    def load(name: str) -> Captioner:
        loaded = Captioner.from_pretrained(name, device=device, engine=engine, **settings)
        # An n-best list is limited to the model's beam width, as a wider beam may change the best caption.
        most = max(loaded.search.n_best, min(MAX_N_BEST, loaded.search.width))
        loaded.search = loaded.search.changed(n_best=most)
        return loaded

    listening = _listen(host, port)
    try:
        batches = Batches(
            names,
            load,
            size=batch_size,
            max_pixels=max_pixels,
        )
    except BaseException:
        listening.close()
        raise
    app = create_app(
        batches,
        admission=Admission(names_of(host, allow_host or ()), frozenset(allow_origin or ()), token),
        examples=example_images(),
        titles={name: title(name) for name in names},
        load_translator=_translator if has_torch else None,
        languages=sorted(store.translators()) if has_torch else (),
        allow_addresses=allow_addresses,
        n_best=search.n_best,
        max_bytes=round(1e6 * max_megabytes),
        rate=120 if rate is None else rate,
        local_rate=rate or 0,
    )
    max_open = room()
    config = uvicorn.Config(
        app,
        http=protocol(max_open),
        ws="none",
        loop="asyncio",  # other loops accept connections differently
        backlog=min(64, max_open),  # asyncio accepts so many before it counts the first
        log_level="error",  # uvicorn warns of each malformed request
        server_header=False,
        root_path=root_path.rstrip("/"),
        timeout_graceful_shutdown=3,
        lifespan="on",
    )
    logging.getLogger("asyncio").addFilter(NoHandles())
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each malformed form
    shown = {"0.0.0.0": "localhost", "::": "::1"}.get(str(_address(host)), host)
    typer.echo(f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}")
    console.note("Press Ctrl+C to stop.")
    # Both signals are the usual way to end it; uvicorn raises them again when it is done.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    if batches.stuck or server.force_exit:
        # Decoding may take long, and a thread that decodes while the interpreter shuts down would crash it.
        sys.stdout.flush()
        os._exit(0)


def _translator(language: str) -> Callable[[Caption], Caption]:
    from captioner.translation.translator import Translator  # needs torch, and captions alone do not

    return Translator.for_language(language).caption


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; return ``None`` for a name or a short form."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _listen(host: str, port: int) -> socket.socket:
    """Bind an address and a port; refuse a host that means every address without being ``0.0.0.0`` or ``::``."""
    from captioner.errors import CaptionerError

    choices = "give --host 127.0.0.1 for this machine alone, or --host 0.0.0.0 for other machines too"
    if not host.strip() or host.strip() == "*":
        raise CaptionerError(f"--host {host!r} does not name an address; {choices}, which need no password")
    try:
        family, kind, number, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a name"
        raise CaptionerError(f"--host {host!r} is not an address of this machine ({reason}); {choices}") from None
    if ipaddress.ip_address(str(place[0]).partition("%")[0]).is_unspecified and _address(host) is None:
        raise CaptionerError(f"--host {host!r} is short for every address of this machine; {choices}")
    taken = socket.socket(family, kind, number)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(place)
        taken.listen(1)  # fails if another program listens there
    except OSError as error:
        taken.close()
        advice = "give another --port" if error.errno == errno.EADDRINUSE else "give another --port or --host"
        raise CaptionerError(f"{host}:{port}: cannot listen there ({error.strerror}); {advice}") from None
    return taken
