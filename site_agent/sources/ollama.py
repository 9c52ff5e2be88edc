"""`ollama://`: models of a registry, by its manifests and blobs (Docker registry API, v2).

The artifact has the layout of `$OLLAMA_MODELS`, so that a run may point that variable at it:
`blobs/sha256-<hex>` and `manifests/<host>/<namespace>/<model>/<tag>`. Every blob's digest is known
before its first byte comes.
"""

import hashlib
import re
from collections.abc import Generator

import msgspec

from gcos.errors import WrongStateError
from site_agent.sources.allowed import AllowList
from site_agent.sources.guarded_http import body_of, document, guarded_client
from site_agent.sources.reference import OllamaReference
from site_agent.sources.source import Listing, SourceFile

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"

_DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")


class _Blob(msgspec.Struct):
    """A part of a model."""

    digest: str
    size: int


class _Manifest(msgspec.Struct):
    """What a model consists of."""

    config: _Blob
    layers: list[_Blob]


class OllamaSource:
    """One model at one tag."""

    def __init__(self, reference: OllamaReference, allowed: AllowList) -> None:
        # Without TLS only where the operator wrote http:// in front of the host.
        host, _, port = reference.host.partition(":")
        is_plain = any(rule.covers("http", host, int(port or 80)) for rule in allowed.hosts)
        base = f"{'http' if is_plain else 'https'}://{reference.host}/v2"
        self._address = f"{base}/{reference.namespace}/{reference.model}"
        allowed.check_url(self._address)
        self._reference = reference
        self._client = guarded_client(allowed)

    def resolve(self) -> Listing:
        """Return manifest and blobs; see `Source.resolve`."""
        reference = self._reference
        text = document(
            self._client,
            f"{self._address}/manifests/{reference.tag}",
            {"Accept": MANIFEST_TYPE},
            what=reference.text,
        )
        try:
            manifest = msgspec.json.decode(text, type=_Manifest)
        except msgspec.MsgspecError as exc:
            raise WrongStateError(
                f"{reference.text} has a manifest that cannot be read: {exc}",
                hint="only models in Ollama's format can be pulled",
            ) from exc
        digest = hashlib.sha256(text).hexdigest()
        place = f"{reference.host}/{reference.namespace}/{reference.model}/{reference.tag}"
        files = {each.digest: self._blob(each) for each in (manifest.config, *manifest.layers)}
        own = SourceFile(
            f"manifests/{place.replace(':', '_')}",
            size_bytes=len(text),
            address="",
            sha256=digest,
            content=text,
        )
        return Listing((own, *files.values()), f"sha256:{digest}")

    def read(self, file: SourceFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield a file; see `Source.read`."""
        return body_of(self._client, file, offset_bytes, {})

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _blob(self, blob: _Blob) -> SourceFile:
        match = _DIGEST.fullmatch(blob.digest)
        if match is None:  # it becomes a file's name
            raise WrongStateError(f"{self._reference.text} names a blob by {blob.digest[:80]!r}")
        return SourceFile(
            f"blobs/sha256-{match['hex']}",
            size_bytes=blob.size,
            address=f"{self._address}/blobs/{blob.digest}",
            sha256=match["hex"],
        )
