"""Chooses the source of a reference, and imports its library with the first reference to it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from site_agent.sources import ENDPOINTS
from site_agent.sources.allowed import AllowList, allow_list
from site_agent.sources.reference import (
    DirectoryReference,
    HubReference,
    ObjectReference,
    OllamaReference,
    SourceReference,
)
from site_agent.sources.source import Source, library


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What a site may read, and with which environment.

    Attributes:
        allowed: Hosts, networks and roots of object stores.
        directories: Directories below which `file://` may read.
        environ: Where tokens, keys and endpoints are looked for; never logged.
    """

    allowed: AllowList
    directories: Sequence[Path] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


def settings_of(
    hosts: Sequence[str],
    networks: Sequence[str],
    roots: Sequence[str],
    directories: Sequence[Path],
    environ: Mapping[str, str],
) -> SourceSettings:
    """Return the settings that a configuration and its environment spell.

    The endpoints that the operator put into the environment are allowed as hosts; their addresses
    are checked like any other.

    Raises:
        InvalidRequestError: A host, network or root cannot be understood.
    """
    parts = [urlsplit(environ.get(name, "")) for name in ENDPOINTS]
    endpoints = [f"{part.scheme}://{part.netloc}" for part in parts if part.netloc]
    allowed = allow_list([*hosts, *endpoints], networks, roots)
    return SourceSettings(allowed, tuple(directories), environ)


def open_reference(reference: SourceReference, settings: SourceSettings) -> Source:
    """Return the source of a reference; close it after use. Blocking: it may import a library.

    Raises:
        InvalidRequestError: The site may not read it.
        WrongStateError: Its library is not installed.
    """
    allowed = settings.allowed
    if isinstance(reference, DirectoryReference):
        from site_agent.sources.local_directory import LocalDirectorySource  # noqa: PLC0415

        return LocalDirectorySource(reference, settings.directories)
    library("httpx2", "sources")
    if isinstance(reference, HubReference):
        library("huggingface_hub", "sources")
        from site_agent.sources.hugging_face import HubSource  # noqa: PLC0415

        return HubSource(reference, allowed, settings.environ)
    if isinstance(reference, OllamaReference):
        from site_agent.sources.ollama import OllamaSource  # noqa: PLC0415

        return OllamaSource(reference, allowed)
    if isinstance(reference, ObjectReference):
        from site_agent.sources.object_store import ObjectSource  # noqa: PLC0415

        return ObjectSource(reference, allowed, settings.environ)
    from site_agent.sources.web import WebSource  # noqa: PLC0415

    return WebSource(reference, allowed)
