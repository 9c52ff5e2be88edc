"""`hf://`: repositories of the Hugging Face hub, or of a mirror that `HF_ENDPOINT` names.

`huggingface_hub` lists and spells addresses, over a client of ours that checks every hop. A listing
is of one commit, so a branch that moves meanwhile changes nothing. LFS files come with their
SHA-256, small ones with git's blob id.
"""

import os
import threading
from collections.abc import Generator, Mapping

from huggingface_hub import (
    HfApi,
    close_session,
    constants,
    get_token,
    hf_hub_url,
    set_client_factory,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from gcos.artifacts import FILE_COUNT_MAX
from gcos.errors import GcosError, NotFoundError, TooLargeError, WrongStateError
from site_agent.sources.allowed import AllowList
from site_agent.sources.guarded_http import body_of, guarded_client, told
from site_agent.sources.reference import HubReference
from site_agent.sources.source import Listing, SourceFile, TransientError, status_error

# The library keeps one client for the whole process, so one listing is made at a time.
_SESSION = threading.Lock()


class HubSource:
    """One repository at one revision."""

    def __init__(
        self, reference: HubReference, allowed: AllowList, environ: Mapping[str, str]
    ) -> None:
        if environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES:
            raise WrongStateError(
                "the agent runs with HF_HUB_OFFLINE set", hint="unset it and restart the agent"
            )
        self._reference = reference
        self._allowed = allowed
        self._endpoint = endpoint_of(environ)
        allowed.check_url(self._endpoint)
        # The login of `hf auth login` counts only where the agent runs with its own environment.
        own = get_token() if environ is os.environ else None
        self._token = environ.get("HF_TOKEN") or own
        self._type = "dataset" if reference.is_dataset else "model"
        self._client = guarded_client(allowed)

    def resolve(self) -> Listing:
        """Return the repository's files at the revision's commit; see `Source.resolve`."""
        reference = self._reference
        api = HfApi(self._endpoint, token=self._token or False, library_name="gcos")
        with _SESSION, self._told():
            set_client_factory(lambda: guarded_client(self._allowed))
            try:
                found = api.repo_info(
                    reference.repository, revision=reference.revision, repo_type=self._type
                )
                commit = found.sha or reference.revision
                files = self._files(api, commit)
            finally:
                close_session()
        if not files:
            raise NotFoundError(
                f"{reference.text} has no such file or directory", hint="check what follows it"
            )
        return Listing(tuple(files), commit)

    def read(self, file: SourceFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield a file; see `Source.read`."""
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        return body_of(self._client, file, offset_bytes, headers, hint=self._gate_hint())

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _files(self, api: HfApi, commit: str) -> list[SourceFile]:
        reference = self._reference
        files: list[SourceFile] = []
        tree = api.list_repo_tree(
            reference.repository, recursive=True, revision=commit, repo_type=self._type
        )
        for each in tree:
            if not isinstance(each, RepoFile) or not _is_below(each.path, reference.subset):
                continue
            if len(files) == FILE_COUNT_MAX:
                raise TooLargeError(
                    f"{reference.text} has more than {FILE_COUNT_MAX} files", hint="name a subset"
                )
            files.append(
                SourceFile(
                    each.path,
                    size_bytes=each.size,
                    address=hf_hub_url(
                        reference.repository,
                        each.path,
                        repo_type=self._type,
                        revision=commit,
                        endpoint=self._endpoint,
                    ),
                    sha256=each.lfs.sha256 if each.lfs else None,
                    git_sha1=None if each.lfs else each.blob_id,
                )
            )
        return files

    def _told(self) -> "_Told":
        return _Told(self._reference.text, self._gate_hint())

    def _gate_hint(self) -> str:
        page = f"{self._endpoint}/{'datasets/' if self._reference.is_dataset else ''}"
        page += self._reference.repository
        if self._token is None:
            return (
                f"accept its terms at {page} if it is gated, then set HF_TOKEN for the agent"
                " and restart it"
            )
        return f"accept its terms at {page} with the account that HF_TOKEN belongs to"


class _Told:
    """Translates failures of the hub's library."""

    def __init__(self, what: str, gate_hint: str) -> None:
        self._what = what
        self._gate_hint = gate_hint
        self._http = told(what)

    def __enter__(self) -> None:
        self._http.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool | None:
        if isinstance(error, HfHubHTTPError):
            raise self._meaning(error) from error
        return self._http.__exit__(
            None if error is None else type(error), error, getattr(error, "__traceback__", None)
        )

    def _meaning(self, error: HfHubHTTPError) -> GcosError | TransientError:
        what, status = self._what, error.response.status_code
        if isinstance(error, GatedRepoError):
            return WrongStateError(
                f"{what} is gated: its owner asks for terms to be accepted", hint=self._gate_hint
            )
        if isinstance(error, RevisionNotFoundError):
            return NotFoundError(f"{what} has no such revision", hint="check what follows the @")
        if isinstance(error, RepositoryNotFoundError):
            # The hub answers 401 for what does not exist, so as not to tell what is private.
            return NotFoundError(
                f"{what} does not exist, or is private",
                hint=f"check its spelling; if it is private: {self._gate_hint}",
            )
        if isinstance(error, RemoteEntryNotFoundError):
            return NotFoundError(f"{what} is not there", hint="check its spelling")
        return status_error(status, error.response.headers, what, hint=self._gate_hint)


def endpoint_of(environ: Mapping[str, str]) -> str:
    """Return the hub's address."""
    return (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _is_below(path: str, subset: str) -> bool:
    return not subset or path == subset or path.startswith(f"{subset.rstrip('/')}/")
