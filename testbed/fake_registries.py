"""Servers on loopback that answer as hubs, registries and object stores document it.

One `FakeUpstream` holds objects by path and serves them with ETags and ranges, as a web server and
a CDN do. `add_hub_repository`, `add_ollama_model` and `add_bucket` lay out what the Hugging Face
hub (API and `resolve` addresses, redirects to a CDN), a registry with Ollama's manifests, and S3
(ListObjectsV2) would answer. `Fault`s make answers fail in ways that are seen in practice.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

_RANGE: Final = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")
OLLAMA_MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class Fault:
    """How one answer fails.

    Attributes:
        status: Answered instead of the object; 0: the object is sent.
        headers: Sent with the status.
        cut_after_bytes: The connection ends after so many bytes of the body.
        is_corrupt: A bit of the body's first byte is flipped.
        ends_early: The body is shorter than the object, and says so truthfully.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    is_corrupt: bool = False
    ends_early: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What lies at a path.

    Attributes:
        body: The bytes.
        status: Status of the answer.
        headers: Sent with it.
        has_ranges: Parts of it may be asked for.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    has_ranges: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class FakeUpstream:
    """A server while its block lasts; made by `serving_upstream`.

    Attributes:
        url: Where it listens.
        answers: What it has, by path; a later page ends with `?cursor=N`.
        faults: By path, how its next answers to GET fail, the first one first.
        asked: What it was asked, in order.
        buckets: Objects of each bucket, by key.
    """

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    buckets: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def put(self, path: str, body: bytes, *, has_ranges: bool = True) -> str:
        """Let an object lie at a path; return its address."""
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        self.answers[path] = Answer(body, headers={"ETag": etag}, has_ranges=has_ranges)
        return self.url + quote(path)

    def redirect(self, path: str, to: str, *, status: int = 302) -> str:
        """Let a path lead elsewhere; return its address."""
        self.answers[path] = Answer(status=status, headers={"Location": to})
        return self.url + quote(path)

    def fail(self, path: str, *faults: Fault) -> None:
        """Let the next answers to GET of a path fail."""
        self.faults.setdefault(path, []).extend(faults)

    def gets(self, path: str) -> list[Asked]:
        """Return what was asked of a path with GET."""
        return [each for each in self.asked if each.method == "GET" and each.path == path]

    def answer_to(self, target: str) -> Answer:
        """Return what lies at a request's target."""
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query)
        page = f"?cursor={query['cursor'][0]}" if "cursor" in query else ""
        found = self.answers.get(f"{path}{page}")
        return found or self._bucket_answer(path, query) or Answer(status=404)

    def _bucket_answer(self, path: str, query: Mapping[str, list[str]]) -> Answer | None:
        bucket, _, key = path.lstrip("/").partition("/")
        objects = self.buckets.get(bucket)
        if objects is None:
            return None
        if not key:
            return Answer(_list_objects(bucket, objects, query), has_ranges=False)
        body = objects.get(key)
        if body is None:
            return Answer(status=404, has_ranges=False)
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        last = {"Last-Modified": "Mon, 23 Nov 2026 14:05:00 GMT"}
        return Answer(body, headers={"ETag": etag, **last})


@contextmanager
def serving_upstream() -> Iterator[FakeUpstream]:
    """Serve on a free port of loopback until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    upstream = FakeUpstream(f"http://127.0.0.1:{server.server_port}")
    server.upstream = upstream  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def add_hub_repository(
    hub: FakeUpstream,
    cdn: FakeUpstream,
    repository: str,
    files: Mapping[str, bytes],
    *,
    commit: str = "c0ffee" * 6 + "c0ff",
    revision: str = "main",
    kind: str = "models",
    lfs: tuple[str, ...] = (),
    page_count: int = 1000,
) -> None:
    """Lay a repository out as the hub does: its API, `resolve` addresses, a CDN for LFS files.

    Args:
        hub: Answers API and `resolve` requests.
        cdn: Has the bytes of LFS files, at signed addresses.
        repository: `org/name`.
        files: Contents by path.
        commit: What `revision` stands for.
        revision: Branch or tag.
        kind: `models` or `datasets`.
        lfs: Which files are in large-file storage.
        page_count: Files on one page of the tree.
    """
    api = f"/api/{kind}/{repository}"
    about = {"id": repository, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
    for name in (revision, commit):
        hub.answers[f"{api}/revision/{name}"] = _json(about)
    tree = [_hub_file(path, body, is_lfs=path in lfs) for path, body in sorted(files.items())]
    pages = [tree[i : i + page_count] for i in range(0, len(tree), page_count)] or [[]]
    for number, page in enumerate(pages):
        more = f"{hub.url}{api}/tree/{commit}?recursive=true&cursor={number + 1}"
        link = {"Link": f'<{more}>; rel="next"'} if number + 1 < len(pages) else {}
        cursor = f"?cursor={number}" if number else ""
        hub.answers[f"{api}/tree/{commit}{cursor}"] = _json(page, link)
    prefix = "" if kind == "models" else f"/{kind}"
    for path, body in files.items():
        at = f"{prefix}/{repository}/resolve/{commit}/{path}"
        if path in lfs:
            digest = hashlib.sha256(body).hexdigest()
            signed = cdn.put(f"/repos/{digest}", body)
            hub.redirect(at, f"{signed}?X-Amz-Signature=abc")
        else:
            # Small files are answered by the hub itself, from a cache.
            hub.put(f"/api/resolve-cache/{kind}/{repository}/{commit}/{path}", body)
            hub.redirect(
                at, quote(f"/api/resolve-cache/{kind}/{repository}/{commit}/{path}"), status=307
            )


def add_gated_repository(hub: FakeUpstream, repository: str) -> None:
    """Let a repository be one whose terms nobody has accepted yet."""
    hub.answers[f"/api/models/{repository}/revision/main"] = Answer(
        status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"}
    )


def add_ollama_model(
    registry: FakeUpstream,
    cdn: FakeUpstream,
    model: str,
    tag: str,
    layers: Mapping[str, bytes],
    *,
    namespace: str = "library",
) -> None:
    """Lay a model out as Ollama's registry does; blobs are redirected to a CDN.

    Args:
        registry: Answers for manifests.
        cdn: Has the blobs.
        model: Its name.
        tag: Its tag.
        layers: Contents by media type.
        namespace: Its owner.
    """
    base = f"/v2/{namespace}/{model}"

    def blob(kind: str, body: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        registry.redirect(f"{base}/blobs/{digest}", cdn.put(f"/blobs/{digest}", body), status=307)
        return {"mediaType": kind, "digest": digest, "size": len(body)}

    config = blob("application/vnd.docker.container.image.v1+json", b'{"model_format":"gguf"}')
    manifest = {
        "schemaVersion": 2,
        "mediaType": OLLAMA_MANIFEST_TYPE,
        "config": config,
        "layers": [blob(kind, body) for kind, body in layers.items()],
    }
    registry.answers[f"{base}/manifests/{tag}"] = _json(manifest)


def git_blob_id(body: bytes) -> str:
    """Return git's id of a file's content."""
    header = f"blob {len(body)}\0".encode()
    return hashlib.sha1(header + body, usedforsecurity=False).hexdigest()


def _hub_file(path: str, body: bytes, *, is_lfs: bool) -> dict[str, Any]:
    listed: dict[str, Any] = {"type": "file", "path": path, "size": len(body)}
    if not is_lfs:
        return listed | {"oid": git_blob_id(body)}
    digest = hashlib.sha256(body).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\n".encode()
    lfs = {"oid": digest, "size": len(body), "pointerSize": len(pointer)}
    return listed | {"oid": git_blob_id(pointer), "lfs": lfs}


def _json(document: object, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(document).encode()
    kind = {"Content-Type": "application/json"}
    return Answer(body, headers=kind | dict(headers or {}), has_ranges=False)


def _list_objects(
    bucket: str, objects: Mapping[str, bytes], query: Mapping[str, list[str]]
) -> bytes:
    """Return the XML of ListObjectsV2, on one page."""
    prefix = query.get("prefix", [""])[0]
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key>"
        "<LastModified>2026-11-23T14:05:00.000Z</LastModified>"
        f"<ETag>&quot;{hashlib.md5(body, usedforsecurity=False).hexdigest()}&quot;</ETag>"
        f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, body in sorted(objects.items())
        if key.startswith(prefix)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    ).encode()


class _Server(ThreadingHTTPServer):
    """A client that leaves in the middle of an answer is no error: pulls do so on purpose."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong, unless the client has hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers from the `FakeUpstream` of its server."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer()

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        upstream: FakeUpstream = self.server.upstream  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        upstream.asked.append(Asked(self.command, path, headers))
        waiting = upstream.faults.get(path, []) if self.command == "GET" else []
        fault = waiting.pop(0) if waiting else Fault()
        if fault.status:
            self._send(Answer(status=fault.status, headers=fault.headers), Fault())
            return
        self._send(_part(upstream.answer_to(self.path), headers), fault)

    def _send(self, answer: Answer, fault: Fault) -> None:
        body = answer.body
        if fault.is_corrupt:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.ends_early:
            body = body[:-1]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.cut_after_bytes is not None:
            self.wfile.write(body[: fault.cut_after_bytes])
            self.close_connection = True
            return
        self.wfile.write(body)


def _part(answer: Answer, asked: Mapping[str, str]) -> Answer:
    """Return the part that a `Range` header asks for (RFC 9110, section 14)."""
    match = _RANGE.fullmatch(asked.get("range", ""))
    is_other = asked.get("if-range", answer.headers.get("ETag")) != answer.headers.get("ETag")
    if match is None or is_other or not answer.has_ranges or answer.status != 200:
        return answer
    total = len(answer.body)
    first = int(match["first"])
    last = min(int(match["last"]) if match["last"] else total - 1, total - 1)
    if first > last:
        return Answer(status=416, headers={"Content-Range": f"bytes */{total}"})
    place = {"Content-Range": f"bytes {first}-{last}/{total}"}
    return Answer(answer.body[first : last + 1], status=206, headers={**answer.headers, **place})
