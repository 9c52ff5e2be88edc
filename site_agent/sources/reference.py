"""What a reference to an upstream spells. Pure.

    hf://[datasets/]ORG/NAME[@REVISION][/SUBSET]
    https://HOST/PATH[#sha256=HEX]
    file:///DIRECTORY-OR-FILE
    ollama://[HOST/NAMESPACE/]NAME[:TAG]
    s3://BUCKET/PREFIX, and every other scheme that fsspec knows

A reference is untrusted, and it is logged and listed. So it holds no user or password, which belong
into the environment of the agent; and a query, which may be a signature, is never shown.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gcos.artifacts import ARTIFACT_NAME, checked_path
from gcos.errors import InvalidRequestError

REFERENCE_BYTES_MAX = 2048

_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,15})://(?P<rest>[^\s\x00-\x1f\x7f]+)")
_REPOSITORY_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_SHA256 = re.compile(r"sha256=(?P<digest>[0-9a-f]{64})")
_SCHEMES = "hf://, https://, file://, ollama://, s3:// or another scheme of fsspec"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of the Hugging Face hub.

    Attributes:
        text: As it was written.
        repository: `org/name`, or the bare name of an old one.
        is_dataset: A data set; a model otherwise.
        revision: Branch, tag or commit.
        subset: Directory or file inside; empty for all.
    """

    text: str
    repository: str
    is_dataset: bool
    revision: str
    subset: str

    @property
    def name(self) -> str:
        """What the artifact is called where the caller says nothing."""
        return self.repository


@dataclass(frozen=True, slots=True)
class WebReference:
    """One file of a web server.

    Attributes:
        text: As it was written.
        url: Without the fragment.
        path: Name of the file.
        sha256: Its digest where the reference states it; else None.
    """

    text: str
    url: str
    path: str
    sha256: str | None

    @property
    def name(self) -> str:
        """What the artifact is called where the caller says nothing."""
        return _name_of(self.path)

    @property
    def has_query(self) -> bool:
        """Tell whether more than the path says what is meant."""
        return "?" in self.url

    @property
    def shown(self) -> str:
        """The address without its query."""
        return self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class DirectoryReference:
    """A directory or file of the agent's machine."""

    text: str
    path: str

    @property
    def name(self) -> str:
        """What the artifact is called where the caller says nothing."""
        return _name_of(self.path.rstrip("/").rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class OllamaReference:
    """A model of a registry with Ollama's layout; `namespace` is `library` for official ones."""

    text: str
    host: str
    namespace: str
    model: str
    tag: str

    @property
    def name(self) -> str:
        """What the artifact is called where the caller says nothing."""
        owner = "ollama" if self.namespace == "library" else self.namespace
        return f"{owner}/{_name_of(f'{self.model}-{self.tag}')}"


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """A prefix or object of a store that fsspec reaches; `text` is its URL."""

    text: str
    scheme: str

    @property
    def name(self) -> str:
        """What the artifact is called where the caller says nothing."""
        return _name_of(self.text.rstrip("/").rpartition("/")[2])


SourceReference = (
    HubReference | WebReference | DirectoryReference | OllamaReference | ObjectReference
)

OLLAMA_HOST = "registry.ollama.ai"


def parse_source(text: str) -> SourceReference:
    """Return the reference that `text` spells.

    Raises:
        InvalidRequestError: It spells none; `field` is `reference`.
    """
    match = _SCHEME.fullmatch(text)
    if match is None or len(text.encode()) > REFERENCE_BYTES_MAX:
        raise wrong_reference(f"{text[:80]!r} is no reference", hint=f"begin with {_SCHEMES}")
    scheme, rest = match["scheme"], match["rest"]
    if scheme == "hf":
        return _hub(text, rest)
    if scheme in {"https", "http"}:
        return _web(text)
    if scheme == "file":
        return _directory(text, rest)
    if scheme == "ollama":
        return _ollama(text, rest)
    return _object(text, scheme, rest)


def shown(reference: SourceReference) -> str:
    """Return how a reference is logged and listed."""
    return reference.shown if isinstance(reference, WebReference) else reference.text


def wrong_reference(message: str, *, hint: str) -> InvalidRequestError:
    """Return the error that tells of a reference which cannot or may not be followed."""
    return InvalidRequestError(message, field="reference", hint=hint)


def _hub(text: str, rest: str) -> HubReference:
    is_dataset = rest.startswith("datasets/")
    rest = rest.removeprefix("datasets/").removeprefix("models/").rstrip("/")
    head, separator, tail = rest.partition("@")
    # A revision with a slash in it is written with %2F, as in the hub's own addresses.
    revision, _, behind = tail.partition("/") if separator else ("main", "", "")
    parts = head.split("/")
    repository = "/".join(parts[:2])
    subset = behind if separator else "/".join(parts[2:])
    revision = unquote(revision)
    is_good = (
        all(_REPOSITORY_PART.fullmatch(part) for part in parts[:2])
        and (not separator or len(parts) <= 2)
        and _REVISION.fullmatch(revision) is not None
        and ".." not in revision
    )
    if not is_good:
        raise wrong_reference(
            f"{text[:80]!r} names no repository",
            hint="write hf://ORG/NAME, hf://datasets/ORG/NAME, @REVISION behind it",
        )
    if subset:
        checked_path(subset, field="reference")
    return HubReference(
        text, repository=repository, is_dataset=is_dataset, revision=revision, subset=subset
    )


def _web(text: str) -> WebReference:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise wrong_reference(f"{text[:80]!r} is no address", hint=str(exc)) from exc
    path = unquote(parts.path).rpartition("/")[2]
    if not host or parts.username is not None or parts.password is not None:
        raise wrong_reference(
            "an address needs a host and holds no user or password",
            hint="credentials do not belong into references, which are logged",
        )
    if not path:
        raise wrong_reference(f"{text[:80]!r} names no file", hint="end with the file's name")
    checked_path(path, field="reference")
    digest = _SHA256.fullmatch(parts.fragment)
    if parts.fragment and digest is None:
        raise wrong_reference(
            f"{parts.fragment[:80]!r} is no digest", hint="write #sha256= and 64 hex digits"
        )
    sha256 = None if digest is None else digest["digest"]
    return WebReference(text, url=parts._replace(fragment="").geturl(), path=path, sha256=sha256)


def _directory(text: str, rest: str) -> DirectoryReference:
    path = unquote(rest)
    if not path.startswith("/") or path == "/" or "\0" in path:
        raise wrong_reference(
            f"{text[:80]!r} names no absolute path", hint="write file:///absolute/path"
        )
    return DirectoryReference(text, path)


def _ollama(text: str, rest: str) -> OllamaReference:
    front, _, last = rest.rpartition("/")
    model, _, tag = last.partition(":")
    before = front.split("/") if front else []
    host = before[0] if len(before) == 2 else OLLAMA_HOST
    namespace = before[-1] if before else "library"
    tag = tag or "latest"
    is_good = len(before) <= 2 and all(
        _REPOSITORY_PART.fullmatch(part) for part in (namespace, model, tag)
    )
    if not is_good or not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", host):
        raise wrong_reference(
            f"{text[:80]!r} names no model", hint="write ollama://NAME:TAG, such as ollama://phi4"
        )
    return OllamaReference(text, host=host, namespace=namespace, model=model, tag=tag)


def _object(text: str, scheme: str, rest: str) -> ObjectReference:
    parts = rest.rstrip("/").split("/")
    # `::` chains file systems in fsspec, `?` and `#` mean something to some of them.
    if any(part in {"", ".", ".."} for part in parts) or any(
        sign in rest for sign in ("::", "@", "?", "#", "\\", "*", "[")
    ):
        raise wrong_reference(
            f"{text[:80]!r} is no plain address of objects",
            hint="write SCHEME://BUCKET/PREFIX without '..', wildcards or credentials",
        )
    return ObjectReference(text.rstrip("/"), scheme)


def _name_of(text: str) -> str:
    """Return the nearest name that an artifact may have."""
    name = _NO_NAME.sub("-", text).strip("-._")[:96]
    return name if ARTIFACT_NAME.fullmatch(name) else "artifact"
