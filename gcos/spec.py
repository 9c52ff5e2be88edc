"""Task documents: the table of their fields, and how a `TaskSpec` is made of one.

`TASK` is the whole format as data: each row names a key, the attribute that it sets, and the shape
of its value with its limits (`gcos.shapes`). Nothing is guessed: an unknown key, a wrong type or a
number out of range is refused, with the nearest thing that would have been right.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import TypeVar

from gcos.document import Mapping, Node, Scalar, Sequence, clipped, parse_tree
from gcos.errors import InvalidRequestError, InvalidTaskError
from gcos.shapes import (
    VARIABLE,
    ArtifactReference,
    Choice,
    Command,
    Flag,
    Instant,
    Many,
    Number,
    Place,
    RelativePath,
    Row,
    Seconds,
    Section,
    Text,
    Variables,
    Whole,
    WorkingDirectory,
    found_in,
    paths_of,
)
from gcos.spellings import in_words
from gcos.tasks import (
    Disconnect,
    GpuRequest,
    Output,
    OutputKind,
    Placement,
    Reconcile,
    Retry,
    RetryCause,
    TaskSpec,
    Work,
    WorkKind,
)

API_VERSION = "gcos/v1"
DOCUMENT_KIND = "Task"

LOST_AFTER_MIN_S = 3.0
LOST_AFTER_MAX_S = 7 * 86400.0

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE_URI = re.compile(r"file:///[^?#%]{1,1000}")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")

EnumT = TypeVar("EnumT", bound=Enum)


def parse_document(data: bytes, *, submitted_s: float) -> TaskSpec:
    """Return the task that a document asks for.

    Args:
        data: YAML 1.2 or JSON in UTF-8, at most 256 KiB.
        submitted_s: World instant of the submission; durations count from it.

    Raises:
        InvalidTaskError: The document is wrong; the message names line and field.
        TooLargeError: It has more than 256 KiB.
    """
    root = parse_tree(data)
    if not isinstance(root, Mapping):
        raise InvalidTaskError(
            f"wanted keys and values, found {found_in(root)}",
            line=root.line,
            hint=f"start with: apiVersion: {API_VERSION} and kind: {DOCUMENT_KIND}",
        )
    spec = TASK.parse(root, Place("", submitted_s, tuple(paths_of(TASK.rows))))
    if spec.work.kind is not WorkKind.CUSTOM and spec.model is None:
        raise InvalidTaskError(
            f"work of kind {spec.work.kind.value.lower().replace('_', '-')} needs a model",
            field="model",
            line=root.key_lines["work"],
            hint="add model: NAME, or use kind: custom",
        )
    spec = _with_artifact_kinds(spec, root)
    _check_deadline(spec, root, submitted_s)
    _check_placement(spec, root)
    _check_outputs(spec, root)
    _check_names(spec, root)
    return spec


def line_of(data: bytes, path: str) -> int:
    """Return the line of a document in which a field stands, or that of what encloses it.

    It is 0 where the document names neither.

    Args:
        data: A document that `parse_document` takes.
        path: Dotted field, such as `placement.allow[0]`.
    """
    return _line_at(parse_tree(data), path)


def _line_at(root: Node, path: str) -> int:
    node = root
    line = 0
    for key, index in _STEP.findall(path):
        if isinstance(node, Mapping) and key in node.values:
            line, node = node.key_lines[key], node.values[key]
        elif isinstance(node, Sequence) and index and int(index) < len(node.items):
            node = node.items[int(index)]
            line = node.line
        else:
            break  # a single item stands for a list of one
    return line


def document_digest(data: bytes, *, workdir: str = "") -> str:
    """Return what tells two documents apart: the same for other spacing, order and comments.

    Args:
        data: A document that `parse_document` takes.
        workdir: Reference that its local directory was sent as: its content counts, too.
    """
    tree = _plain_tree(parse_tree(data))
    if isinstance(tree, dict):
        tree.pop("request_id", None)
    _, _, content = workdir.partition("@")
    text = json.dumps([tree, content or workdir], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain_tree(node: Node) -> object:
    if isinstance(node, Mapping):
        return {key: _plain_tree(value) for key, value in node.values.items()}
    if isinstance(node, Sequence):
        return [_plain_tree(item) for item in node.items]
    return node.value if isinstance(node.value, str) else [node.text]


def _check_names(spec: TaskSpec, root: Mapping) -> None:
    """Refuse variables that the agent sets itself, and two values for one."""
    for key, names in (("env", tuple(spec.env)), ("secrets", spec.secrets)):
        for name in names:
            if name.startswith("GCOS_"):
                raise InvalidTaskError(
                    f"{name} is set by the agent",
                    field=key,
                    line=_line_at(root, f"{key}.{name}"),
                    hint="choose a name that does not begin with GCOS_",
                )
    both = sorted(set(spec.env) & set(spec.secrets))
    if both:
        raise InvalidTaskError(
            f"{both[0]} stands under env too",
            field="secrets",
            line=root.key_lines["secrets"],
            hint="name it once",
        )


def _check_placement(spec: TaskSpec, root: Mapping) -> None:
    """Refuse a name that is both allowed and denied."""
    for index, name in enumerate(spec.placement.deny):
        if name in spec.placement.allow:
            raise InvalidTaskError(
                f"placement.allow and placement.deny both name {name!r}",
                field=f"placement.deny[{index}]",
                line=_line_at(root, f"placement.deny[{index}]"),
                hint="take it off one of the two",
            )


def _with_artifact_kinds(spec: TaskSpec, root: Mapping) -> TaskSpec:
    """Return the spec with the kind of each output that is declared `as: artifact`.

    What a fine-tuning leaves is a model, what an inference or evaluation leaves is data, unless
    `kind` says otherwise.

    Raises:
        InvalidTaskError: The kind of work does not tell, or `kind` stands elsewhere.
    """
    listed = root.values.get("outputs")
    if not isinstance(listed, Sequence):
        return spec
    outputs = list(spec.outputs)
    for index, node in enumerate(listed.items):
        assert isinstance(node, Mapping), "it was read as an output"
        way = node.values.get("as")
        is_artifact = isinstance(way, Scalar) and way.value == _ARTIFACT
        kind = _KIND_OF_WORK.get(spec.work.kind)
        if "kind" in node.values and not is_artifact:
            raise InvalidTaskError(
                f"kind goes with as: {_ARTIFACT}",
                field=f"outputs[{index}].kind",
                line=node.key_lines["kind"],
                hint=f"write as: {_ARTIFACT}, or remove kind",
            )
        if is_artifact and "kind" not in node.values:
            if kind is None:
                raise InvalidTaskError(
                    "a model or a data set? Work of kind custom does not tell",
                    field=f"outputs[{index}].as",
                    line=node.key_lines["as"],
                    hint="add kind: model or kind: data",
                )
            outputs[index] = replace(outputs[index], kind=kind)
    return replace(spec, outputs=tuple(outputs))


def _check_outputs(spec: TaskSpec, root: Mapping) -> None:
    for index, output in enumerate(spec.outputs):
        if (output.kind is OutputKind.URI) is not bool(output.uri):
            raise InvalidTaskError(
                "as: uri and uri: file:///path go together",
                field=f"outputs[{index}].uri",
                line=_line_at(root, f"outputs[{index}]"),
                hint="give both or neither",
            )
        if ".." in output.uri.split("/"):
            raise InvalidTaskError(
                "the path has '..' in it",
                field=f"outputs[{index}].uri",
                line=_line_at(root, f"outputs[{index}]"),
                hint="write it without '..'",
            )
        is_artifact = output.kind in (OutputKind.MODEL, OutputKind.DATA)
        if is_artifact is not bool(output.name):
            raise InvalidTaskError(
                "a model or data set needs a name" if is_artifact else "files have no name",
                field=f"outputs[{index}].name",
                line=_line_at(root, f"outputs[{index}]"),
                hint="add name: NAME" if is_artifact else "remove it, or add as: model or as: data",
            )
    _check_distinct_outputs(spec, root)


def _check_distinct_outputs(spec: TaskSpec, root: Mapping) -> None:
    """Refuse two outputs that would go by one name, or to one place."""
    for key in ("name", "uri"):
        seen: dict[str, int] = {}
        for index, output in enumerate(spec.outputs):
            value = getattr(output, key)
            if value and value in seen:
                raise InvalidTaskError(
                    f"outputs[{seen[value]}] has the {key} {clipped(value)} already",
                    field=f"outputs[{index}].{key}",
                    line=_line_at(root, f"outputs[{index}].{key}"),
                    hint=f"give each output a {key} of its own",
                )
            seen[value] = index


def checked_request_id(text: str) -> str:
    """Return `text` if it may be a request id.

    Raises:
        InvalidRequestError: It has other characters than letters, digits, `.`, `_`, `:` and `-`.
    """
    if REQUEST_ID.fullmatch(text) is None:
        raise InvalidRequestError(
            f"{clipped(text)} is no request id",
            field="request_id",
            hint=f"use {_REQUEST_ID_WORDS}, such as nightly-7",
        )
    return text


def _check_deadline(spec: TaskSpec, root: Mapping, submitted_s: float) -> None:
    if spec.deadline_s is None:
        return
    line = root.key_lines["deadline"]
    if spec.deadline_s <= submitted_s:
        raise InvalidTaskError(
            f"lies {in_words(submitted_s - spec.deadline_s)} in the past",
            field="deadline",
            line=line,
            hint="give a later time, or a duration such as 6h",
        )
    if spec.earliest_start_s is not None and spec.deadline_s <= spec.earliest_start_s:
        raise InvalidTaskError(
            f"lies {in_words(spec.earliest_start_s - spec.deadline_s)} before earliest_start",
            field="deadline",
            line=line,
            hint="leave time between earliest_start and deadline",
        )


def _words_of(members: type[EnumT]) -> dict[str, EnumT]:
    return {member.value.lower().replace("_", "-"): member for member in members}


def _gpu(gpu: GpuRequest | None = None) -> GpuRequest:
    return gpu or GpuRequest()


def _carbon_price(carbon_price_usd_per_kg: float | None = None) -> float | None:
    return carbon_price_usd_per_kg


def _output(
    path: str,
    kind: OutputKind = OutputKind.FILES,
    artifact_kind: OutputKind | None = None,
    name: str = "",
    uri: str = "",
) -> Output:
    return Output(path, kind=artifact_kind or kind, name=name, uri=uri)


def _task(name: str | None = None, work: Work | None = None, **values: object) -> TaskSpec:
    work = work or Work()
    name = name or work.kind.value.lower().replace("_", "-")
    build: Callable[..., TaskSpec] = TaskSpec
    return build(name=name, work=work, **values)


_STEP = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_REQUEST_ID_WORDS = "1 to 128 letters, digits, '.', '_', ':' or '-'"
_KINDS = Choice(_words_of(WorkKind))
_CAUSES = Many(Choice(_words_of(RetryCause)))
_ARTIFACT = "artifact"
#: `artifact` is a model until `_with_artifact_kinds` knows better.
_OUTPUT_KINDS = Choice(_words_of(OutputKind) | {_ARTIFACT: OutputKind.MODEL})
_ARTIFACT_KINDS = Choice({"model": OutputKind.MODEL, "data": OutputKind.DATA})
_KIND_OF_WORK = {
    WorkKind.FINE_TUNE: OutputKind.MODEL,
    WorkKind.BATCH_INFERENCE: OutputKind.DATA,
    WorkKind.EVALUATION: OutputKind.DATA,
}
_RECONCILE = Choice(_words_of(Reconcile))
_SITES = Many(Text(pattern=_WORD, wanted="a site or an electricity zone", example="DE"))

TASK: Section[TaskSpec] = Section(
    (
        Row("apiVersion", None, Choice({API_VERSION: API_VERSION}), is_required=True),
        Row("kind", None, Choice({DOCUMENT_KIND: DOCUMENT_KIND}), is_required=True),
        Row("name", "name", Text()),
        Row("model", "model", ArtifactReference()),
        Row("data", "data", Many(ArtifactReference())),
        Row(
            "work",
            "work",
            Section(
                (
                    Row("kind", "kind", _KINDS),
                    Row("tokens", "token_count", Whole(0, 10**15)),
                    Row("epochs", "epoch_count", Number(0.001, 1e6)),
                    Row("batch", "batch_size_count", Whole(0, 10**6)),
                    Row("sequence", "sequence_token_count", Whole(0, 10**8)),
                ),
                Work,
            ),
        ),
        Row(
            "resources",
            "gpu",
            Section(
                (
                    Row(
                        "gpu",
                        "gpu",
                        Section(
                            (
                                Row(
                                    "type",
                                    "type",
                                    Text(pattern=_WORD, wanted="a type or any", example="H100"),
                                ),
                                Row("count", "gpu_count", Whole(1, 1024)),
                            ),
                            GpuRequest,
                        ),
                    ),
                ),
                _gpu,
            ),
        ),
        Row("run", "command", Command(), is_required=True),
        Row("env", "env", Variables()),
        Row("deadline", "deadline_s", Instant()),
        Row("earliest_start", "earliest_start_s", Instant()),
        Row("max_cost_usd", "max_cost_usd", Number(0, 1e9)),
        Row("max_carbon_g", "max_carbon_gco2", Number(0, 1e12)),
        Row(
            "objective",
            "carbon_price_usd_per_kg",
            Section(
                (Row("carbon_price_usd_per_kg", "carbon_price_usd_per_kg", Number(0, 1e4)),),
                _carbon_price,
            ),
        ),
        Row(
            "placement",
            "placement",
            Section(
                (
                    Row("allow", "allow", _SITES),
                    Row("deny", "deny", _SITES),
                    Row("prefer", "prefer", _SITES),
                ),
                Placement,
            ),
        ),
        Row(
            "project",
            "project",
            Text(pattern=_WORD, wanted="letters, digits, '.', '_' or '-'", example="research"),
        ),
        Row(
            "retry",
            "retry",
            Section(
                (
                    Row("limit", "limit_count", Whole(0, 100)),
                    Row("on", "on", _CAUSES),
                ),
                Retry,
            ),
        ),
        Row("workdir", "workdir", WorkingDirectory()),
        Row(
            "image",
            "image",
            Text(
                pattern=_IMAGE, wanted="a container image", example="docker.io/library/python:3.12"
            ),
        ),
        Row(
            "outputs",
            "outputs",
            Many(
                Section(
                    (
                        Row("path", "path", RelativePath(), is_required=True),
                        Row("as", "kind", _OUTPUT_KINDS),
                        Row("kind", "artifact_kind", _ARTIFACT_KINDS),
                        Row("name", "name", ArtifactReference()),
                        Row(
                            "uri",
                            "uri",
                            Text(
                                pattern=_FILE_URI,
                                wanted="file:///path",
                                example="file:///srv/results/metrics.json",
                            ),
                        ),
                    ),
                    _output,
                )
            ),
        ),
        Row(
            "secrets",
            "secrets",
            Many(
                Text(
                    pattern=VARIABLE,
                    wanted="the name of an environment variable",
                    example="HF_TOKEN",
                )
            ),
        ),
        Row("priority", "priority", Whole(-100, 100)),
        Row(
            "disconnect",
            "disconnect",
            Section(
                (
                    Row("lost_after", "lost_after_s", Seconds(LOST_AFTER_MIN_S, LOST_AFTER_MAX_S)),
                    Row("replace", "is_replaced", Flag()),
                    Row("reconcile", "reconcile", _RECONCILE),
                ),
                Disconnect,
            ),
        ),
        Row("idempotent", "is_idempotent", Flag()),
        Row(
            "request_id",
            "request_id",
            Text(pattern=REQUEST_ID, wanted=_REQUEST_ID_WORDS, example="nightly-7"),
        ),
    ),
    _task,
)
"""The format `gcos/v1`, kind `Task` (DESIGN section 3)."""
