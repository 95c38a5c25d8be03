"""The command that serves the page, as a process, and what it refuses to serve."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi_offline", reason="the page's packages are not installed: pip install 'captioner[web]'")
from starlette.testclient import TestClient

from captioner.store import DEFAULT


@contextmanager
def serving(model: str, end: signal.Signals = signal.SIGINT, **settings: Any) -> Iterator[str]:
    """Serve a model in a process until a signal ends it, and yield the address."""
    command = [sys.executable, "-m", "captioner", "serve", "--model", model, "--port", "0", "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **settings) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), process.stderr.read()
            yield address
        finally:
            process.send_signal(end)
        assert process.wait(30) == 0
        assert process.stderr.read() == "Press Ctrl+C to stop.\n"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(end: signal.Signals) -> None:
    with serving(DEFAULT, end) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/health").json()["models"] == [DEFAULT]
        assert client.post("/caption", content=b"x").status_code == 422
        form = {"content-type": "multipart/form-data; boundary=x"}
        assert client.post("/caption", content=b"--y", headers=form).status_code == 400


def test_an_unknown_model_is_reported_before_listening(run, model: Path, tmp_path: Path) -> None:
    result = run("serve", "--model", tmp_path / "none", "--port", "0")
    assert result.code == 1 and "does not exist" in result.err and not result.out
    result = run("serve", "--model", model, "--model", tmp_path, "--port", "0")
    assert result.code == 1 and f"{tmp_path}: not a model folder" in result.err


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("  ", "does not name an address"),
        ("*", "does not name an address"),
        ("0", "is short for every address"),
        ("0x0", "is short for every address"),
        ("00.0", "is short for every address"),
        ("no such place", "is not an address of this machine"),
        (" 127.0.0.1", "is not an address of this machine"),
        ("x" * 300, "is not an address of this machine"),
        ("a..b", "is not an address of this machine"),
        ("http://localhost", "is not an address of this machine"),
        ("[::1]", "is not an address of this machine"),
    ],
)
def test_short_forms_of_0_0_0_0_are_refused(
    run, model: Path, monkeypatch: pytest.MonkeyPatch, host: str, reason: str
) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    result = run("serve", "--model", model, "--port", "0", "--host", host)
    assert result.code == 1 and reason in result.err and not result.out and "Traceback" not in result.err
    assert "--host 127.0.0.1 for this machine alone, or --host 0.0.0.0 for other machines too" in result.err


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("localhost", "http://localhost:"),
        ("127.1", "http://127.1:"),
        ("::1", "http://[::1]:"),
        ("0.0.0.0", "http://localhost:"),
        ("::", "http://[::1]:"),
        ("0::0", "http://[::1]:"),
    ],
)
def test_the_address_that_is_shown_can_be_opened(
    run, model: Path, monkeypatch: pytest.MonkeyPatch, host: str, shown: str
) -> None:
    if ":" in host:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("there is no IPv6 here")

    def opened(server: Any, sockets: list[socket.socket]) -> None:
        place = sockets[0].getsockname()[1]
        socket.create_connection((httpx.URL(f"{shown}{place}").host, place), timeout=5).close()

    monkeypatch.setattr("uvicorn.Server.run", opened)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)  # those of the tests stay
    result = run("serve", "--model", model, "--port", "0", "--host", host, "--device", "cpu")
    assert result.code == 0 and result.out.startswith(shown), result.err


def test_a_port_or_an_address_of_others_is_named(run, model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", "--model", model, "--port", taken.getsockname()[1])
        assert result.code == 1 and "in use" in result.err and "give another --port" in result.err
    result = run("serve", "--model", model, "--port", "0", "--host", "192.0.2.1")  # for documentation only
    assert result.code == 1 and "cannot listen there" in result.err and "or --host" in result.err


def test_exported_and_other_captioners_are_served_together(
    run, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioner import Captioner

    models = [str(model), DEFAULT]  # the second one has graphs
    served: list[Any] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: served.append(server.config.app))
    monkeypatch.setattr("signal.signal", lambda *arguments: None)  # those of the tests stay
    result = run("serve", "--model", model, "--model", DEFAULT, "--port", "0", "--device", "cpu")
    assert result.code == 0, result.err
    with TestClient(served[0], base_url="http://localhost") as client:
        assert client.get("/health").json()["models"] == models
        content = (images / "red.jpg").read_bytes()
        for name in models:
            answer = client.post("/caption", params={"model": name}, content=content)
            assert answer.json()["tokens"] == Captioner.from_pretrained(name, device="cpu")(content).tokens


def test_missing_packages_are_named(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.code == 1 and "pip install 'captioner[web]'" in result.err


@pytest.mark.slow
def test_a_thousand_idle_connections_do_not_block_others() -> None:
    resource = pytest.importorskip("resource")
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (512, 512))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    try:
        with ExitStack() as opened, serving(DEFAULT, preexec_fn=limit) as shown:
            address = httpx.URL(shown)
            for _ in range(1030):
                opened.enter_context(socket.create_connection((address.host, address.port), timeout=10))
            for _ in range(3):
                began = time.monotonic()
                assert httpx.get(address.join("/health"), timeout=10).status_code == 200
                assert time.monotonic() - began < 5
                time.sleep(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_torch_only_what_runs_is_offered(run, monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[Any] = []
    monkeypatch.setattr("captioner.cli.serve.find_spec", lambda name: None)
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: apps.append(server.config.app))
    assert run("serve", "--port", "0").code == 0
    client = TestClient(apps[0], base_url="http://localhost")
    health = client.get("/health").json()
    assert health["models"] == [DEFAULT] and health["languages"] == []
    assert (
        "does not translate" in client.post("/translate", json={"language": "de", "texts": ["A dog."]}).json()["detail"]
    )
