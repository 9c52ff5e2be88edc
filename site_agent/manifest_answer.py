"""What a holder says an artifact consists of, and when it is believed."""

from dataclasses import dataclass

from gcos.artifacts import Artifact, Manifest
from gcos.contract_net import ArtifactNeed
from gcos.errors import DigestMismatchError, InvalidRequestError
from gcos.ids import is_site_id
from gcos.rpc.wire import from_proto
from gcos.v1.artifacts_pb2 import GetManifestResponse
from site_agent.artifact_store import checked_storable


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """Answer of `GetManifest`.

    Attributes:
        artifact: As its holder speaks of it.
        manifest: Its files.
    """

    artifact: Artifact
    manifest: Manifest


def checked_answer(need: ArtifactNeed, response: GetManifestResponse) -> ManifestAnswer:
    """Return a source's answer once its manifest is safe and is what was asked for.

    Raises:
        InvalidRequestError: It is malformed.
        DigestMismatchError: It is another artifact's.
    """
    answer = from_proto(response, ManifestAnswer)
    checked_storable(answer.manifest)
    if answer.manifest.artifact_id != need.artifact_id:
        raise DigestMismatchError(f"the manifest of {need.name} does not hash to its id")
    custodian = answer.artifact.custodian
    if custodian is not None and not is_site_id(custodian):
        raise InvalidRequestError(f"{custodian[:80]!r} is no site", field="artifact.custodian")
    return answer
