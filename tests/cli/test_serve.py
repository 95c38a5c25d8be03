"""The command that serves the page, as a process, and what it refuses to serve."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi_offline", reason="the page's packages are not installed: pip install 'captioner[web]'")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(model: Path, end: signal.Signals) -> None:
    command = [sys.executable, "-m", "captioner", "serve", "--model", str(model), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), process.stderr.read()
            with httpx.Client(base_url=address, timeout=60) as client:
                assert client.get("/health").json()["models"] == [str(model)]
                assert client.post("/caption", content=b"x").status_code == 422
        finally:
            process.send_signal(end)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


def test_what_cannot_be_served_is_said_before_it_listens(run, model: Path, tmp_path: Path) -> None:
    result = run("serve", "--model", tmp_path / "none", "--port", "0")
    assert result.code == 1 and "does not exist" in result.err and not result.out
    result = run("serve", "--model", model, "--model", tmp_path, "--port", "0")
    assert result.code == 1 and f"{tmp_path}: not a model folder" in result.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", "--model", model, "--port", taken.getsockname()[1])
    assert result.code == 1 and "give another --port" in result.err and "Traceback" not in result.err
    assert run("serve", "--host", "no such place", "--model", model).code == 1


def test_exported_and_other_captioners_are_served_together(
    run, model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from captioner import Captioner

    pytest.importorskip("onnxruntime")
    exported = tmp_path / "exported"
    assert run("export", model, "-o", exported).code == 0
    served: list[Any] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: served.append(server.config.app))
    monkeypatch.setattr("signal.signal", lambda *arguments: None)  # those of the tests stay
    result = run("serve", "--model", model, "--model", exported, "--port", "0", "--device", "cpu")
    assert result.code == 0, result.err
    with TestClient(served[0], base_url="http://localhost") as client:
        assert client.get("/health").json()["models"] == [str(model), str(exported)]
        content = (photos / "red.jpg").read_bytes()
        for folder in (model, exported):
            answer = client.post("/caption", params={"model": str(folder)}, content=content)
            assert answer.json()["tokens"] == Captioner.from_pretrained(folder, device="cpu")(content).tokens


def test_without_its_packages_it_says_what_to_install(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve")
    assert result.code == 1 and "pip install 'captioner[web]'" in result.err
