"""The API: responses to valid and to hostile requests."""

from __future__ import annotations

import json
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.errors import CheckpointError
from captioner.web.app import create_app
from captioner.web.batching import Batches
from captioner.web.upload import read_upload
from tests.web.conftest import encoded

LIMIT = 3_000_000


@pytest.fixture
def app(batches: Batches) -> FastAPI:
    return create_app(batches, max_bytes=LIMIT, rate=0)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://localhost")


def form(content: bytes, name: str = "photo.jpg", field: str = "image") -> dict[str, Any]:
    return {"files": {field: (name, content, "image/jpeg")}}


def test_a_form_and_a_body_get_the_captioners_caption(client: TestClient, captioner: Captioner) -> None:
    image = encoded()
    expected = captioner(image)
    for request in (form(image), {"content": image}, {"content": image, "headers": {"content-type": "image/jpeg"}}):
        answer = client.post("/caption", **request)
        assert answer.status_code == 200
        value = answer.json()
        assert (value["caption"], value["tokens"], value["model"]) == (expected.text, expected.tokens, "first")
        assert value["log_probability"] == pytest.approx(expected.log_probability, abs=1e-3)
        assert value["image"] == ("photo.jpg" if "files" in request else "") and "attention" not in value
    assert client.post("/caption?model=second", **form(image)).json()["model"] == "second"


def test_attention_and_figures_are_added_on_request(client: TestClient, captioner: Captioner) -> None:
    image = encoded(size=(1600, 1200))
    value = client.post("/caption?attention=true&figure=true", **form(image)).json()
    np.testing.assert_allclose(value["attention"], captioner(image).attention, atol=1e-3)
    assert value["grid"] == [2, 2] and value["attention_of"] == "mean"
    assert value["figure"]["size"] == [960, 720] and value["figure"]["captions"][0]["tokens"] == value["tokens"]
    assert value["figure"]["photo"].startswith("data:image/jpeg;base64,")


def test_the_next_best_are_added_on_request(captioner: Captioner) -> None:
    several = Captioner(captioner.engine, n_best=3)
    batches = Batches(["first"], lambda name: several)
    try:
        client, image = TestClient(create_app(batches, rate=0), base_url="http://localhost"), encoded()
        expected = [other.text for other in several(image).others]
        assert client.post("/caption", content=image).json()["others"] == []
        for number in (1, 2, 3):
            value = client.post(f"/caption?n_best={number}", content=image).json()
            assert [other["caption"] for other in value["others"]] == expected[: number - 1]
        assert client.post("/caption?n_best=6", content=image).status_code == 422
    finally:
        batches.close()


def test_a_caption_is_translated_on_request(client: TestClient, batches: Batches) -> None:
    from captioner.cli.serve import _translator
    from captioner.translation.translator import Translator
    from tests.translation.test_translator import build

    translator = Translator(build(), device="cpu")
    refused = client.post("/caption?language=de", content=encoded())
    assert refused.status_code == 422 and "does not translate" in refused.json()["detail"]

    def load(language: str) -> Callable[[Caption], Caption]:
        return translator.caption if language == "de" else _translator(language)

    translating = TestClient(create_app(batches, load_translator=load), base_url="http://localhost")
    value = translating.post("/caption?language=de", content=encoded()).json()
    assert value["translation"] == {"language": "de", "text": translator(value["caption"]).text}
    unknown = translating.post("/caption?language=xx", content=encoded())
    assert unknown.status_code == 422 and "xx" in unknown.json()["detail"]


def test_requests_are_measured(client: TestClient) -> None:
    client.post("/caption", content=encoded())
    client.post("/caption", content=b"no image")
    client.post("/figure", content=encoded())
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in answer.text.splitlines() if line[0] != "#"}
    assert found['captioner_requests_total{path="/caption",status="200"}'] == 1
    assert found['captioner_requests_total{path="/caption",status="422"}'] == 1
    assert found['captioner_seconds_count{path="/caption"}'] == 2 and found["captioner_waiting"] == 0
    assert found['captioner_seconds_sum{path="/figure"}'] > 0


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("png", b"\x89PNG"),
        ("pdf", b"%PDF"),
        ("svg", b"<?xml"),
        ("gif", b"GIF8"),
        ("html", b"<!doctype"),
        ("json", b"{"),
    ],
)
def test_figures_are_those_of_attend(client: TestClient, kind: str, start: bytes) -> None:
    answer = client.post(f"/figure?format={kind}", **form(encoded(), name='..\\up/"näme\r\n.jpeg'))
    assert answer.status_code == 200 and answer.content.startswith(start)
    assert answer.headers["content-disposition"] == f'attachment; filename="_22nme_0D_0A.attention.{kind}"'


def test_health_and_the_description_of_the_api(client: TestClient, batches: Batches) -> None:
    assert client.get("/health").json()["models"] == ["first", "second"]
    assert client.get("/health").json()["loaded"] == ["first"]
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/caption", "/figure", "/translate", "/sidecars", "/health", "/metrics"}
    assert "multipart/form-data" in paths["/caption"]["post"]["requestBody"]["content"]
    docs = client.get("/docs").text
    assert "https://" not in docs and "/static-offline-docs/" in docs
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_a_phones_image_is_upright(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    value = client.post("/caption?figure=true", **form(encoded(size=(80, 60), exif=exif))).json()
    assert value["figure"]["size"] == [60, 80]


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


HOSTILE: dict[str, tuple[dict[str, Any], int, str]] = {
    "a text": (form(b"hello", "notes.txt"), 422, "of a known kind"),
    "a cut image": (form(encoded()[:900]), 422, "photo.jpg: damaged or truncated JPEG"),
    "an image of a billion pixels": (form(png_that_claims(50_000, 50_000)), 422, "above the limit of 2,000,000"),
    "a program": (form(b"%!PS-Adobe-3.0 EPSF", "x.eps"), 422, "PostScript"),
    "a page": (form(b"<html><script>alert(1)</script>", "x.jpg"), 422, "web page"),
    "an empty image": (form(b""), 400, "empty"),
    "no body": ({}, 400, "there is no image"),
    "another field": (form(encoded(), field="photo"), 400, 'no file "image" (it has photo)'),
    "the name of a file": ({"data": {"image": "/etc/passwd"}}, 422, "of a known kind"),
    "a name for an image": (
        {"content": b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n/etc/passwd\r\n--x--\r\n',
         "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, '(it has a text field of that name)'),
    "two images": (
        {"files": [("image", ("a.jpg", encoded())), ("image", ("b.jpg", encoded()))]}, 400, "send one image"),
    "a thousand fields": (
        {"files": {"image": ("a.jpg", encoded())}, "data": {f"f{i}": "x" for i in range(999)}}, 400, "Too many fields"),
    "a field of a megabyte": (
        {"files": {"image": ("a.jpg", encoded())}, "data": {"f": "x" * 1_000_000}}, 400, "Part exceeded maximum size"),
    "a form without a boundary": ({"content": b"xx", "headers": {"content-type": "multipart/form-data"}}, 400, "form"),
    "a form that ends early": (
        {"content": b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\nabc',
         "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, '(it has no complete field)'),
    "a form with another boundary": (
        {"content": b"--y\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "cannot be read"),
    "a compressed image": (
        {"content": zlib.compress(encoded()), "headers": {"content-encoding": "deflate"}}, 415, "(deflate)"),
    "a malformed origin": ({**form(encoded()), "headers": {"origin": "http://["}}, 403, "http://["),
    "too many bytes in a form": (form(bytes(LIMIT + 1)), 413, "more than 3 MB"),
    "too many bytes": ({"content": bytes(LIMIT + 1)}, 413, "more than 3 MB"),
    "far too many bytes": (form(bytes(4 * LIMIT)), 413, "more than 3 MB"),
    "endless bytes of no known length": ({"content": (bytes(65536) for _ in range(10_000))}, 413, "more than 3 MB"),
    "a model that is not served": ({**form(encoded()), "params": {"model": "../../etc"}}, 404, "is not served"),
    "a setting of the wrong kind": ({**form(encoded()), "params": {"attention": "maybe"}}, 422, "boolean"),
    "another site": ({**form(encoded()), "headers": {"origin": "http://evil.example"}}, 403, "evil.example"),
    "another name": ({**form(encoded()), "headers": {"host": "evil.example"}}, 421, "evil.example"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_get_a_reason_and_do_not_affect_others(client: TestClient, name: str) -> None:
    request, status, reason = HOSTILE[name]
    answer = client.post("/caption", **request)
    assert answer.status_code == status and reason in json.dumps(answer.json()["detail"]).replace('\\"', '"')
    assert client.post("/caption", **form(encoded())).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/caption", 405), ("PUT", "/caption", 405), ("GET", "/../../etc/passwd", 404), ("POST", "/", 405),
     ("GET", "/static-offline-docs/..%2f..%2fcore.py", 404), ("GET", "/no", 404), ("TRACE", "/", 405)],
)  # fmt: skip
def test_other_paths_do_not_exist(client: TestClient, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status


def test_an_image_that_never_arrives_is_given_up(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    async def endless() -> Any:
        yield encoded()[:100]
        await anyio.sleep(30)

    async def impatient(request: Any, reading: Any, **settings: Any) -> Any:
        return await read_upload(request, replace(reading, seconds=0.2), **settings)

    monkeypatch.setattr("captioner.web.app.read_upload", impatient)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(batches))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/caption", content=endless())

    answer = anyio.run(post)
    assert answer.status_code == 408 and "did not arrive" in answer.json()["detail"]


def test_a_client_that_disconnects_is_not_an_error(app: FastAPI, listening: Callable[..., str], capfd: Any) -> None:
    address = httpx.URL(listening(app))
    for kind in (b"image/jpeg", b"multipart/form-data; boundary=x"):
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(
                b"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\nContent-Type: "
                + kind
                + b"\r\n\r\n--x"
            )
    assert httpx.post(address.join("/caption"), **form(encoded()), timeout=60).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_model_that_cannot_be_loaded_is_named(captioner: Captioner) -> None:
    def load(name: str) -> Captioner:
        if name == "second":
            raise CheckpointError("second: no weights; copy the whole folder")
        return captioner

    batches = Batches(["first", "second"], load)
    try:
        client = TestClient(create_app(batches), base_url="http://localhost")
        answer = client.post("/caption?model=second", **form(encoded()))
        assert answer.status_code == 500 and "copy the whole folder" in answer.json()["detail"]
        assert client.post("/caption", **form(encoded())).status_code == 200
    finally:
        batches.close()


def test_no_file_is_ever_written(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    image = encoded("PNG", size=(900, 1000))
    assert len(image) > 1024 * 1024
    assert client.post("/caption?figure=true", **form(image)).status_code == 200
    assert client.post("/figure", **form(image)).status_code == 200


def test_images_per_minute_are_limited(batches: Batches) -> None:
    client = TestClient(create_app(batches, rate=3, local_rate=2), base_url="http://localhost")
    statuses = [client.post("/caption", **form(encoded())).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = client.post("/caption", **form(encoded()))
    assert 1 <= int(answer.headers["retry-after"]) <= 20 and "3 images a minute" in answer.json()["detail"]
    assert client.get("/health").status_code == 200
    local = TestClient(client.app, base_url="http://localhost", client=("127.0.0.1", 5))
    assert [local.post("/caption", **form(encoded())).status_code for _ in range(3)] == [200, 200, 429]
    assert "2 images a minute" in local.post("/caption", **form(encoded())).json()["detail"]


def test_when_too_many_wait_the_next_is_refused(captioner: Captioner) -> None:
    full = Batches(["first"], lambda name: captioner, waiting=0)
    try:
        answer = TestClient(create_app(full), base_url="http://localhost").post("/caption", **form(encoded()))
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
    finally:
        full.close()


def test_eight_clients_at_once_get_their_own_captions(
    app: FastAPI, captioner: Captioner, listening: Callable[..., str]
) -> None:
    address = listening(app)
    images = [encoded(seed=seed, size=(60 + seed, 60)) for seed in range(8)]
    images[5] = b"no image"
    expected = [captioner(image).text if image[:1] == b"\xff" else None for image in images]

    def ask(number: int) -> list[tuple[int, str | None]]:
        with httpx.Client(base_url=address, timeout=60) as client:
            answers = [client.post("/caption", **form(images[number])) for _ in range(4)]
            return [(answer.status_code, answer.json().get("caption")) for answer in answers]

    with ThreadPoolExecutor(8) as clients:
        results = list(clients.map(ask, range(8)))
    for number, answers in enumerate(results):
        assert answers == [(422, None) if number == 5 else (200, expected[number])] * 4


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.text and "connect-src 'self'" in page.text
    assert "https://" not in page.text.replace("https://arxiv", "") and "{{" not in page.text
