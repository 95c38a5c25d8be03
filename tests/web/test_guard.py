"""Admitted and refused requests."""

from __future__ import annotations

import socket

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from captioner.web.guard import Admission, Guard, Rate, names_of


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=5")]})
    await send({"type": "http.response.body", "body": b"in"})


@pytest.fixture
def client() -> TestClient:
    return client_of(Admission(names_of("127.0.0.1", ["Photos.Example.org"])))


def client_of(admission: Admission) -> TestClient:
    return TestClient(Guard(application, admission), base_url="http://localhost:8000")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "127.0.0.1:8000",
        "192.168.1.7",
        "[::1]:8000",
        "photos.example.org",
        socket.gethostname(),
    ],
)
def test_its_names_and_all_addresses_are_served(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).text == "in"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "a b", "localhost@evil.example"],
)
def test_other_names_are_not(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"host": host})
    detail = answer.json()["detail"]
    assert answer.status_code == 421 and "is not called" in detail and not detail.endswith(" ")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("https://localhost:8000", 200),  # behind a server that has the encryption
        ("http://localhost:3000", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://[::g]", 403),
        ("", 403),
    ],
)
def test_other_sites_are_refused(client: TestClient, origin: str, status: int) -> None:
    for answer in (client.post("/", headers={"origin": origin}), client.options("/", headers={"origin": origin})):
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


def test_pages_of_an_allowed_site_may_send_and_read() -> None:
    client = client_of(Admission(origins=["https://Photos.example/"]))
    allowed, other = {"origin": "https://photos.example"}, {"origin": "https://evil.example"}
    answer = client.post("/caption", headers=allowed)
    assert answer.text == "in" and answer.headers["access-control-allow-origin"] == allowed["origin"]
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin" and answer.headers["vary"] == "origin"
    asked = client.options("/caption", headers=allowed | {"access-control-request-method": "POST"})
    assert asked.status_code == 204 and "authorization" in asked.headers["access-control-allow-headers"]
    for refused in (client.post("/caption", headers=other), client.options("/caption", headers=other)):
        assert refused.status_code == 403 and "--allow-origin https://evil.example" in refused.json()["detail"]
        assert "access-control-allow-origin" not in refused.headers
    everyone = client_of(Admission(origins=["*"]))
    assert everyone.post("/caption", headers=other).headers["access-control-allow-origin"] == other["origin"]
    assert "access-control-allow-origin" not in client.post("/caption").headers


def test_captions_and_measurements_need_the_token() -> None:
    client = client_of(Admission(token="sésame"))
    assert client.get("/").text == client.get("/health").text == client.get("/docs").text == "in"
    for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "Basic x"}, {"authorization": "Bearer "}):
        for answer in (client.post("/caption", headers=headers), client.get("/metrics", headers=headers)):
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in answer.json()["detail"]
    assert client.post("/caption", headers={"authorization": "Bearer sésame".encode()}).text == "in"


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for answer in (client.get("/"), client.get("/", headers={"host": "evil.example"})):
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
    assert client.get("/").headers["cache-control"] == "max-age=5"  # headers of the application are kept


def test_a_rate_refills() -> None:
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    assert [rate.take("a") for _ in range(60)] == [0] * 60
    assert rate.take("a") == pytest.approx(1) and rate.take("b") == 0
    now[0] = 0.5
    assert rate.take("a") == pytest.approx(0.5)
    now[0] = 1.01
    assert rate.take("a") == 0 and rate.take("a") > 0.9
    now[0] = 1000
    assert [rate.take("a") for _ in range(61)].count(0) == 60
    assert [Rate(0).take("a") for _ in range(1000)] == [0] * 1000


def test_a_rate_forgets_those_that_are_gone() -> None:
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    for number in range(10_001):
        rate.take(str(number))
    now[0] = 2
    rate.take("last")
    assert len(rate._buckets) == 1
