"""A Hugging Face hub on this machine: what its client calls to make a repository, upload, describe and download it.

It follows the hub's HTTP interface, so the installed client runs unchanged: repositories in commits,
large files by the basic transfer of Git LFS and from another host than the hub's, the errors in the hub's headers. Xet
must be switched off in the client (``HF_HUB_DISABLE_XET``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_ada"  # of the user "ada"
# From the list in huggingface.js, packages/tasks/src/pipelines.ts.
TASKS = {"image-to-text", "translation", "object-detection", "image-text-to-text", "text-generation"}
LARGE = (".safetensors", ".onnx", ".bin")


@dataclass
class Repository:
    """A repository of a model, or of a data set, whose name here begins with ``datasets/``.

    Attributes:
        commits: the files of each, oldest first, by its hash.
        refs: branches and tags.
    """

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit to the main branch."""
        text = json.dumps([len(self.commits), {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.refs["main"] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the main branch."""
        return self.commits[self.refs["main"]]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message} | headers
        if code:
            self.headers["X-Error-Code"] = code


@dataclass
class Hub:
    """The state of the hub, which tests read and change.

    Attributes:
        url: its address.
        requests: method and path of each request so far.
        users: by token.
        fails: path patterns that are answered with a status.
        breaks_off: bytes after which the transfer of a large file ends, and all later ones at once.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    users: dict[str, str] = field(default_factory=lambda: {TOKEN: "ada"})
    fails: dict[str, int] = field(default_factory=dict)
    breaks_off: int | None = None

    def add(self, name: str, files: dict[str, bytes], **settings: Any) -> Repository:
        """Make a repository with files."""
        repository = self.repositories[name] = Repository(**settings)
        repository.commit(files)
        return repository

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables by which a program finds this hub, and the folder of what it downloads."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }

    def fetched(self) -> list[str]:
        """Return the names of the files that were downloaded, and forget all requests."""
        found = [path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path]
        self.requests.clear()
        return found


@contextmanager
def running() -> Iterator[Hub]:
    """Run a hub in a thread."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a handler of requests; groups of the pattern become arguments."""

    def register(answer: Callable[..., None]) -> Callable[..., None]:
        _ROUTES.append((method, re.compile(pattern), answer))
        return answer

    return register


NAME = r"(?P<name>[^/]+/[^/]+?)"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        try:
            for pattern, status in self.hub.fails.items():
                if re.search(pattern, path):
                    raise Refusal(status, "no")
            for method, regex, answer in _ROUTES:
                if method == self.command and (match := regex.fullmatch(path)):
                    answer(self, **match.groupdict())
                    return
            raise Refusal(404, f"{self.command} {path} is not part of this hub")
        except Refusal as refusal:
            self.reply(refusal.status, {"error": str(refusal)}, **refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def reply(self, status: int, value: Any = None, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in headers.items():
            self.send_header(key.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def user(self) -> str | None:
        """The user of the request."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if not scheme:
            return None
        if token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def writer(self, name: str) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if self.user != name.partition("/")[0]:
            raise Refusal(403, "You don't have the required permissions")

    def repository(self, name: str) -> Repository:
        """Return a repository that may be seen."""
        user, found = self.user, self.hub.repositories.get(name)
        if found is None or (found.private and user != name.partition("/")[0]):
            # The hub does not tell others which it is; its client distinguishes them by the code, or by https.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return found

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(name)
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha]

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        self.reply(200, {"type": "user", "name": self.user, "orgs": []})

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        asked = json.loads(self.body)
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        self.writer(name)
        if name in self.hub.repositories:
            raise Refusal(409, "You already created this model repo")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=bool(private))
        self.reply(200, {"url": f"{self.hub.url}/{name}", "name": name})

    @route("GET", f"/api/(?P<kind>models|datasets)/{NAME}(?:/revision/(?P<revision>.+))?")
    def info(self, kind: str, name: str, revision: str | None) -> None:
        name = name if kind == "models" else f"datasets/{name}"
        sha, files = self.files(name, revision or "main")
        self.reply(
            200,
            {
                "id": name,
                "modelId": name,
                "sha": sha,
                "private": self.hub.repositories[name].private,
                "gated": "auto" if self.hub.repositories[name].gated else False,
                "tags": [],
                "siblings": [{"rfilename": file} for file in sorted(files)],
            },
        )

    @route("GET", f"/api/datasets/{NAME}/tree/(?P<revision>[^/]+)")
    def tree(self, name: str, revision: str) -> None:
        _, files = self.files(f"datasets/{name}", revision)
        self.reply(
            200,
            [
                {"type": "file", "path": file, "size": len(data), "oid": etag(file, data)}
                for file, data in sorted(files.items())
            ],
        )

    @route("POST", "/api/validate-yaml")
    def validate(self) -> None:
        """Refuse a card whose metadata the hub could not use."""
        text = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
        errors = []
        if data and data.get("pipeline_tag") not in {*TASKS, None}:
            errors.append({"message": '"pipeline_tag" must be one of the tasks'})
        for entry in data.get("model-index", []):
            for result in entry["results"]:
                if not {"type"} <= result["task"].keys() or not {"type", "name"} <= result["dataset"].keys():
                    errors.append({"message": '"model-index" is incomplete'})
                if not all({"type", "value"} <= metric.keys() for metric in result["metrics"]):
                    errors.append({"message": '"model-index" has metrics without values'})
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    @route("POST", f"/api/models/{NAME}/preupload/(?P<revision>.+)")
    def preupload(self, name: str, revision: str) -> None:
        self.writer(name)
        _, files = self.files(name, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(LARGE) or file["size"] > 10 << 20
            old = files.get(file["path"])
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if old is None else etag(file["path"], old),
                }
            )
        self.reply(200, {"files": answers})

    @route("POST", rf"/{NAME}\.git/info/lfs/objects/batch")
    def batch(self, name: str) -> None:
        self.writer(name)
        objects = []
        for thing in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.elsewhere}/upload/{thing['oid']}", "header": {}},
                "verify": {"href": f"{self.hub.url}/{name}.git/info/lfs/objects/verify", "header": {}},
            }
            objects.append(thing | ({} if thing["oid"] in self.hub.objects else {"actions": actions}))
        self.reply(200, {"transfer": "basic", "objects": objects})

    @property
    def elsewhere(self) -> str:
        """The host that keeps large files, which must never see a token."""
        return self.hub.url.replace("127.0.0.1", "localhost")

    @route("PUT", "/upload/(?P<oid>[0-9a-f]{64})")
    def upload(self, oid: str) -> None:
        if "Authorization" in self.headers or hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "signature does not match")
        self.hub.objects[oid] = self.body
        self.reply(200, b"")

    @route("POST", rf"/{NAME}\.git/info/lfs/objects/verify")
    def verify(self, name: str) -> None:
        self.writer(name)
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "no such object")
        self.reply(200, {})

    @route("POST", f"/api/models/{NAME}/commit/(?P<revision>.+)")
    def commit(self, name: str, revision: str) -> None:
        self.writer(name)
        _, files = self.files(name, revision)
        files = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, "the object was never uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            elif entry["key"] != "header":
                raise Refusal(400, f"{entry['key']} is unknown")
        sha = self.hub.repositories[name].commit(files)
        self.reply(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    @route("HEAD", f"/(?P<kind>datasets/)?{NAME}/resolve/(?P<place>.+)")
    @route("GET", f"/(?P<kind>datasets/)?{NAME}/resolve/(?P<place>.+)")
    def resolve(self, kind: str | None, name: str, place: str) -> None:
        name = f"{kind or ''}{name}"
        revision, _, file = place.partition("/") if kind else place.rpartition("/")
        sha, files = self.files(name, revision)
        if self.hub.repositories[name].gated:
            raise Refusal(403 if self.user else 401, "Access to model is restricted", "GatedRepo")
        if file not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=sha)
        data = files[file]
        headers = {"X_Repo_Commit": sha, "ETag": f'"{etag(file, data)}"'}
        if file.endswith(LARGE):
            oid = hashlib.sha256(data).hexdigest()
            self.hub.objects[oid] = data
            headers |= {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(data))}
            self.reply(302, b"", Location=f"{self.elsewhere}/large/{oid}", **headers)
        else:
            self.reply(200, data, **headers)

    @route("HEAD", "/large/(?P<oid>[0-9a-f]{64})")
    @route("GET", "/large/(?P<oid>[0-9a-f]{64})")
    def large(self, oid: str) -> None:
        if "Authorization" in self.headers:
            raise Refusal(400, "this host takes no tokens")
        data, status = self.hub.objects[oid], 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            data, status = data[int(asked[1]) :], 206
        if self.hub.breaks_off is None or self.command == "HEAD":
            self.reply(status, data)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: self.hub.breaks_off])
        self.hub.breaks_off = 0
        self.close_connection = True


def etag(file: str, data: bytes) -> str:
    """Return the hash by which the hub identifies a file's content: Git's for small files, SHA-256 for large ones."""
    if file.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
