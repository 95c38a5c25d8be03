"""The folder of the page, and the page in a browser."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from captioner.captioner import Captioner
from captioner.data.examples import example_images
from captioner.errors import CaptionerError, CheckpointError
from captioner.store import GRAPHS, locate
from captioner.web.browser import runtime, site
from tests.browser import launched

RUNTIME = {runtime.SCRIPT: b"export {};", runtime.WASM: b"\0asm", "LICENSE": b"MIT License"}
MODEL = "show_attend_tell"


def test_the_folder_has_what_its_settings_name(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    written = site.write(locate(MODEL), folder, RUNTIME, name=MODEL)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == written
    settings = json.loads((folder / site.SETTINGS).read_text(encoding="utf-8"))
    assert {f"model/{name}" for name in (*GRAPHS, "vocabulary.json", "consensus.safetensors")} < settings[
        "files"
    ].keys()
    assert {name: (folder / name).stat().st_size for name in settings["files"]} == settings["files"]
    assert all((folder / settings["runtime"][name]).is_file() for name in ("script", "wasm"))
    assert settings["search"]["width"] == 20 and settings["transform"]["size"] == 448
    assert len(list((folder / "examples").iterdir())) == len(example_images()) == 8
    page = (folder / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy[1].split(";")}
    assert rules["default-src"] == ["'none'"] and rules["connect-src"] == ["'self'"]
    assert rules["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    for name in re.findall(r'(?:href|src)="(?!data:|#)([^"]+)"', page):
        assert (folder / name).is_file(), name


def test_only_a_page_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "settings.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(CaptionerError, match="exists and is not a page of captioner export --web"):
            site.write(locate(MODEL), folder, RUNTIME, name=MODEL)
    (folder / "model" / "settings.json").write_text('{"page": 1}')
    for file in (folder / "model" / "old.onnx", folder / "CNAME"):
        file.touch()
    written = site.write(locate(MODEL), folder, RUNTIME, name=MODEL)
    assert not (folder / "model" / "old.onnx").exists()
    assert (folder / "CNAME").is_file() and folder / "CNAME" not in written


def test_a_model_without_graphs_is_refused(tmp_path: Path) -> None:
    assert site.has_graphs(locate(MODEL)) and not site.has_graphs(locate("show_tell"))
    with pytest.raises(CheckpointError, match="has no graphs"):
        site.write(locate("show_tell"), tmp_path / "site", RUNTIME, name="show_tell")
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with the real onnxruntime-web, if it is in the cache."""
    packed = runtime.cached()
    if packed is None:
        pytest.skip(
            f"onnxruntime-web is not in {runtime.cache()}: captioner export {MODEL} --web FOLDER downloads it there"
        )
    made = tmp_path_factory.mktemp("web") / "site"
    site.write(locate(MODEL), made, runtime.read(packed), name=MODEL)
    return made


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve a folder as a plain web host, with more headers if any are given, and return its address."""
    servers = []

    def start(folder: Path, **headers: str) -> str:
        class Host(SimpleHTTPRequestHandler):
            def log_message(self, *given: Any) -> None:
                pass

            def end_headers(self) -> None:
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                super().end_headers()

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address, after a script; an error in a script or a request to elsewhere fails the test."""
    problems: list[str] = []
    pages = []

    def call(address: str, *, strict: bool = True, first: str = "") -> Any:
        page = browser.new_page()
        page.add_init_script(first)
        pages.append(page)
        page.on("pageerror", lambda error: problems.append(str(error)))
        if strict:
            page.on("console", lambda line: problems.append(line.text))
        inside = (address, "data:", f"blob:{address}")
        page.on("request", lambda request: None if request.url.startswith(inside) else problems.append(request.url))
        page.goto(address)
        return page

    yield call
    for page in pages:
        page.close()
    assert not problems


@pytest.mark.slow
@pytest.mark.parametrize("isolated", [False, True])
def test_captions_are_those_of_python(show: Any, serve: Any, folder: Path, isolated: bool) -> None:
    headers = {"Cross_Origin_Opener_Policy": "same-origin", "Cross_Origin_Embedder_Policy": "require-corp"}
    page = show(serve(folder, **headers if isolated else {}))
    assert page.evaluate("crossOriginIsolated") is isolated
    images = example_images()
    page.set_input_files("#files", images)
    page.locator("#count", has_text=re.compile(f"^{len(images)} images$")).wait_for(timeout=120_000)
    found = page.evaluate("Object.fromEntries(rows().map((row) => [row.image, row]))")
    captioner = Captioner.from_pretrained(MODEL, device="cpu", engine="onnx")
    expected = {image.name: captioner(image) for image in images}
    # The browser rounds sums of eight-bit numbers in its own way, which changes as much as one pixel that is a grey
    # level brighter, and can change a word.
    other = {name: row["caption"] for name, row in found.items() if row["caption"] != expected[name].text}
    assert found.keys() == expected.keys() and len(other) <= 1, other
    for name in found.keys() - other.keys():
        assert found[name]["log_probability"] == pytest.approx(expected[name].log_probability, abs=0.3)
    page.locator(".tile button").first.click()
    first = page.locator(".explorer")
    assert first.locator(".words span").all_text_contents() == found[images[0].name]["tokens"]
    first.locator(".words button").nth(1).hover()
    assert "looked most" in first.locator(".status").inner_text()


@pytest.mark.slow
def test_errors_name_the_file(show: Any, serve: Any, folder: Path, tmp_path: Path) -> None:
    page = show(serve(folder))
    image = example_images()[0].read_bytes()
    for name, content in {"notes.txt": b"hello", "empty.png": b"", "cut.jpg": image[:200], "x.heic": b"ftyp"}.items():
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#files", tmp_path / name)
    page.locator(".failed").nth(3).wait_for(timeout=60_000)
    lines = page.locator(".failed").all_inner_texts()
    for name, reason in (
        ("notes.txt", "not an image that this browser reads"),
        ("empty.png", "the file is empty"),
        ("cut.jpg", "it is damaged, or of a kind that this browser does not read"),
        ("x.heic", "it is damaged, or of a kind that this browser does not read"),
    ):
        assert any(line.startswith(f"{name}: {reason}") for line in lines), lines
    assert page.get_by_text("Try again").count() == 0


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("worker.js", "worker.js: the web host answers 404"),
        ("model/step.onnx", "model/step.onnx: the web host answers 404"),
    ],
)
def test_a_missing_file_is_named(show: Any, serve: Any, tmp_path: Path, missing: str, reason: str) -> None:
    folder = tmp_path / "site"
    site.write(locate(MODEL), folder, RUNTIME, name=MODEL)
    (folder / missing).unlink()
    page = show(serve(folder), strict=False)
    page.locator("#terms", has_text=reason).wait_for(timeout=60_000)
    page.set_input_files("#files", example_images()[0])
    page.locator(".result .failed", has_text=reason).wait_for()
    assert page.get_by_text("Try again").count() == 1


def test_the_policy_keeps_the_worker_from_other_sites(show: Any, serve: Any, tmp_path: Path) -> None:
    folder, other = tmp_path / "site", tmp_path / "other"
    site.write(locate(MODEL), folder, RUNTIME, name=MODEL)
    other.mkdir()
    elsewhere = serve(other, Access_Control_Allow_Origin="*")
    spy = f"fetch('{elsewhere}').then(() => 'reached', () => 'refused').then((error) => postMessage({{ error }}));"
    (folder / "worker.js").write_text(spy, encoding="utf-8")
    show(serve(folder), strict=False).locator("#terms", has_text="refused").wait_for()


def test_a_browser_without_webassembly_reads_why(show: Any, serve: Any, tmp_path: Path) -> None:
    site.write(locate(MODEL), tmp_path / "site", RUNTIME, name=MODEL)
    page = show(serve(tmp_path / "site"), first="delete window.WebAssembly")
    page.locator("#terms", has_text="This browser lacks WebAssembly").wait_for()
    page.set_input_files("#files", example_images()[0])
    page.locator(".result .failed", has_text="This browser lacks WebAssembly").wait_for()
