"""Documents become specs, or are refused with line, field and a way out."""

import contextlib
import json
import string
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.document import DEPTH_MAX, DOCUMENT_BYTES_MAX, NODE_COUNT_MAX
from gcos.errors import GcosError, InvalidRequestError, InvalidTaskError, TooLargeError
from gcos.spec import TASK, checked_request_id, document_digest, line_of, parse_document
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

NOW_S = 1_795_442_700.0  # 2026-11-23T14:05:00Z
HEAD = "apiVersion: gcos/v1\nkind: Task\n"
MINIMAL = HEAD + "run: echo hello\n"
FULL = """\
apiVersion: gcos/v1
kind: Task
name: tune the tiny one
model: org/tiny-lm@sha256:{digest}
data: [corpus-a, corpus-b]
work:
  kind: fine-tune
  tokens: 2e9
  epochs: 3
  batch: 32
  sequence: 4096
resources:
  gpu:
    type: H100
    count: 4
run: [python, train.py, --lr, 1e-4]
env:
  SEED: 007
  MODE: "yes"
deadline: 6h
earliest_start: 2026-11-23T16:00:00+01:00
max_cost_usd: 12.5
max_carbon_g: 900
objective:
  carbon_price_usd_per_kg: 0.2
placement:
  allow: [DE, ca1]
  deny: us1
  prefer: [ca1]
project: research
retry:
  limit: 1
  on: [site-lost, exit-code]
idempotent: false
request_id: night:42
workdir: ./code
image: docker.io/library/python:3.12
outputs:
  - {{path: tuned/, as: model, name: org/tuned}}
  - {{path: metrics.json}}
secrets: [HF_TOKEN]
priority: -3
disconnect: {{lost_after: 5m, replace: false, reconcile: keep-new}}
""".format(digest="a" * 64)


def parse(text: str | bytes) -> TaskSpec:
    data = text if isinstance(text, bytes) else text.encode()
    return parse_document(data, submitted_s=NOW_S)


def refused(text: str | bytes) -> InvalidTaskError:
    with pytest.raises(InvalidTaskError) as caught:
        parse(text)
    assert caught.value.hint, "every refusal tells the next step"
    return caught.value


def test_a_full_document_sets_every_field() -> None:
    assert parse(FULL) == TaskSpec(
        name="tune the tiny one",
        command=("python", "train.py", "--lr", "1e-4"),
        model="org/tiny-lm@sha256:" + "a" * 64,
        data=("corpus-a", "corpus-b"),
        work=Work(
            kind=WorkKind.FINE_TUNE,
            token_count=2_000_000_000,
            epoch_count=3.0,
            batch_size_count=32,
            sequence_token_count=4096,
        ),
        gpu=GpuRequest(type="H100", gpu_count=4),
        env={"SEED": "007", "MODE": "yes"},
        deadline_s=NOW_S + 6 * 3600,
        earliest_start_s=NOW_S + 55 * 60,
        max_cost_usd=12.5,
        max_carbon_gco2=900.0,
        carbon_price_usd_per_kg=0.2,
        placement=Placement(allow=("DE", "ca1"), deny=("us1",), prefer=("ca1",)),
        project="research",
        retry=Retry(limit_count=1, on=(RetryCause.SITE_LOST, RetryCause.EXIT_CODE)),
        is_idempotent=False,
        request_id="night:42",
        workdir="./code",
        image="docker.io/library/python:3.12",
        outputs=(Output("tuned", OutputKind.MODEL, "org/tuned"), Output("metrics.json")),
        secrets=("HF_TOKEN",),
        priority=-3,
        disconnect=Disconnect(300.0, is_replaced=False, reconcile=Reconcile.KEEP_NEW),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("outputs: [{path: ../up}]", "does not stay inside"),
        ("outputs: [{path: a, as: model}]", "needs a name"),
        ("outputs: [{path: a, name: b}]", "files have no name"),
        ("outputs: [{as: model, name: a}]", "missing"),
        ("outputs: [{path: a, as: uri}]", "go together"),
        ("outputs: [{path: a, uri: 'file:///x'}]", "go together"),
        ("outputs: [{path: a, as: uri, uri: 'file:///x/../y'}]", "'..' in it"),
        ("outputs: [{path: a, as: uri, uri: 's3://x'}]", "file:///path"),
        ("disconnect: {lost_after: 1s}", "not between 3 s"),
        ("env: {GCOS_SITE: mars}", "set by the agent"),
        ("secrets: [GCOS_MODEL_DIR]", "set by the agent"),
        ("env: {A: b}\nsecrets: [A]", "stands under env too"),
        ("disconnect: {reconcile: keep-both}", "keep-original"),
        ("secrets: [1abc]", "environment variable"),
        ("priority: high", "wanted"),
        ("image: 'a b'", "container image"),
        ("workdir: a b", "no artifact name"),
    ],
)
def test_a_field_that_cannot_be_is_refused_in_words(line: str, words: str) -> None:
    assert words in str(refused(MINIMAL + line + "\n"))


def test_a_minimal_document_takes_the_defaults_of_the_records() -> None:
    assert parse(MINIMAL) == TaskSpec(name="custom", command=("/bin/sh", "-c", "echo hello"))


def test_the_name_comes_from_the_kind_of_work() -> None:
    assert parse(MINIMAL + "model: m\nwork: {kind: batch-inference}\n").name == "batch-inference"


def test_one_string_stands_for_a_list_of_one() -> None:
    assert parse(MINIMAL + "data: corpus\n").data == ("corpus",)


def test_a_site_called_on_or_no_stays_text() -> None:
    spec = parse(MINIMAL + "placement: {allow: [on, no, off]}\nretry: {on: staging}\n")
    assert spec.placement.allow == ("on", "no", "off")
    assert spec.retry.on == (RetryCause.STAGING,)


def test_json_with_tabs_and_escaped_pairs_is_read_as_json() -> None:
    document = {"apiVersion": "gcos/v1", "kind": "Task", "name": "job 😀 \\ud83d", "run": ["a/b"]}
    text = json.dumps(document, indent="\t").replace("a/b", "a\\/b")
    assert "\\ud83d\\ude00" in text
    spec = parse(text)
    assert (spec.name, spec.command) == ("job 😀 \\ud83d", ("a/b",))


def test_an_error_in_json_names_its_line_too() -> None:
    error = refused('{\n\t"apiVersion": "gcos/v1",\n\t"kind": "Task",\n\t"run": 1\n}')
    assert (error.line, error.field) == (4, "run")


@pytest.mark.parametrize(
    ("text", "after_s"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172_800)]
)
def test_durations_count_from_the_submission(text: str, after_s: float) -> None:
    assert parse(MINIMAL + f"deadline: {text}\n").deadline_s == NOW_S + after_s


@pytest.mark.parametrize(
    "text", ["2026-11-23T15:05:00Z", "2026-11-23t15:05:00.0z", "2026-11-23 17:05+02:00"]
)
def test_time_stamps_with_an_offset_are_instants(text: str) -> None:
    assert parse(MINIMAL + f"deadline: {text}\n").deadline_s == NOW_S + 3600


@pytest.mark.parametrize(
    ("lines", "line", "field", "words"),
    [
        ("resource: {}", 4, "resource", "did you mean resources?"),
        ("RUN: x", 4, "RUN", "did you mean run?"),
        ("epochs: 3", 4, "epochs", "did you mean work.epochs?"),
        ("zzz: 3", 4, "zzz", "known keys: apiVersion, kind, name"),
        ("resources:\n  gpu:\n    cuont: 1", 6, "resources.gpu.cuont", "did you mean count?"),
        ("resources: {gpu: {count: two}}", 4, "resources.gpu.count", "from 1 to 1024, found the"),
        ("resources: {gpu: {count: 0}}", 4, "resources.gpu.count", "found 0"),
        ("resources: {gpu: {count: 1025}}", 4, "resources.gpu.count", "1024"),
        ("resources: {gpu: {count: true}}", 4, "resources.gpu.count", "found true"),
        ("resources: {gpu: {count: 1.5}}", 4, "resources.gpu.count", "found 1.5"),
        ("resources: {gpu: 4}", 4, "resources.gpu", "wanted keys and values, found 4"),
        ("work: {tokens: 1e16}", 4, "work.tokens", "whole number"),
        ("work: {tokens: -1}", 4, "work.tokens", "whole number"),
        ("work: {epochs: .nan}", 4, "work.epochs", "a number from"),
        ("work: {epochs: .inf}", 4, "work.epochs", "a number from"),
        ("work: {epochs: 1e999}", 4, "work.epochs", "a number from"),
        ("work: {kind: finetune}", 4, "work.kind", "did you mean fine-tune?"),
        ("work: {kind: evaluation}", 4, "model", "needs a model"),
        ("max_cost_usd: -1", 4, "max_cost_usd", "from 0"),
        ("max_cost_usd: '1'", 4, "max_cost_usd", "found the text '1'"),
        ("max_cost_usd:", 4, "max_cost_usd", "found nothing"),
        ("name: [a]", 4, "name", "found a list"),
        ("name: 12", 4, "name", "put it in quotes"),
        (f"name: {'n' * 201}", 4, "name", "201 characters"),
        ('name: " "', 4, "name", "blank"),
        ('name: "a\\nb"', 4, "name", "control"),
        ('name: "a\\e[31m"', 4, "name", "control"),
        ("env: {1A: x}", 4, "env", "'1A' is no name of a variable"),
        ("env: {A: true}", 4, "env.A", "put it in quotes"),
        ("env: {A: [1]}", 4, "env.A", "found a list"),
        ("env: [A=1]", 4, "env", "found a list"),
        ('env: {A: "a\\0b"}', 4, "env.A", "NUL is refused"),
        ("model: ../../etc/passwd", 4, "model", "'../../etc/passwd' is no artifact name"),
        ("data: [good, org/..]", 4, "data[1]", "is no artifact name"),
        ("data:\n- a\n- b\n- a", 7, "data[2]", "repeated"),
        ("model: tiny@sha256:12", 4, "model", "no content id"),
        ("deadline: 6", 4, "deadline", "a duration such as 6h"),
        ("deadline: 6w", 4, "deadline", "a duration such as 6h"),
        ("deadline: 9999d", 4, "deadline", "3650 days"),
        ("deadline: 0s", 4, "deadline", "in the past"),
        ("deadline: 2026-11-23T14:04:59Z", 4, "deadline", "1 s in the past"),
        ("deadline: 2026-11-24T14:05:00", 4, "deadline", "append Z for UTC"),
        ("deadline: 2026-02-30T14:05:00Z", 4, "deadline", "no such time"),
        ("earliest_start: 2h\ndeadline: 1h", 5, "deadline", "60 min before earliest_start"),
        ("retry: {on: [site-lots]}", 4, "retry.on[0]", "did you mean site-lost?"),
        ("idempotent: 1", 4, "idempotent", "true or false"),
        ("request_id: a b", 4, "request_id", "letters"),
        ("placement: {allow: ['a b']}", 4, "placement.allow[0]", "electricity zone"),
        ("name: a\nname: b", 5, "name", "stands in line 4 already"),
        ("name: &x a", 4, "name", "anchors"),
        ("outputs:\n- path: a\n- path: *x", 6, "outputs[1].path", "aliases"),
        ("work: {kind: custom, kind: custom}", 4, "work.kind", "repeated"),
        ("name: *x", 4, "name", "aliases"),
        ("name: !!str a", 4, "name", "tags"),
        ("[a]: b", 4, "", "a key must be text"),
        ("---\nkind: Task", 4, "", "second document"),
        ("name: @a", 4, "name", "cannot start any token"),
        ('name: "a', 4, "name", "never closed"),
        ("deadline: 2019-12-31T00:00:00Z", 4, "deadline", "6.9 years in the past"),
        ("deadline: 3600", 4, "deadline", "such as 3600s (60 min)"),
        ("deadline: 5400", 4, "deadline", "such as 5400s (90 min)"),
        ("deadline: 6", 4, "deadline", "such as 6h"),
        (
            "placement:\n  allow: [de, cal]\n  deny: [fr, de]",
            6,
            "placement.deny[1]",
            "placement.allow and placement.deny both name 'de'",
        ),
        (
            "outputs:\n- {path: a, as: model, name: x}\n- {path: b, as: data, name: x}",
            6,
            "outputs[1].name",
            "outputs[0] has the name 'x' already",
        ),
        (
            "outputs:\n- {path: a, as: uri, uri: file:///x}\n- {path: b, as: uri, uri: file:///x}",
            6,
            "outputs[1].uri",
            "has the uri 'file:///x' already",
        ),
        ("name: a\x01", 4, "name", "U+0001"),
        ('name: "\\ud83d"', 4, "name", "half a character"),
        ('name: "\\UFFFFFFFF"', 4, "name", "not valid YAML"),
        (f"max_cost_usd: {'9' * 5000}", 4, "max_cost_usd", "a number of 5000 characters"),
    ],
)
def test_a_wrong_line_is_refused_with_line_field_and_reason(
    lines: str, line: int, field: str, words: str
) -> None:
    error = refused(MINIMAL + lines + "\n")
    assert words in str(error)
    assert (error.line, error.field) == (line, field)


@pytest.mark.parametrize(
    ("lines", "hint"),
    [
        ("deadline: 6 hours", "did you mean 6h?"),
        ("deadline: 1h30m", "did you mean 90m?"),
        ("deadline: 6", "add its unit (s, m, h or d), such as 6h"),
        ("deadline: 2026-11-24", "deadline: 2026-11-24T18:00:00Z"),
        ("deadline: soon", "for example: deadline: 6h"),
        ("disconnect: {lost_after: 5 minutes}", "did you mean 5m?"),
        ("disconnect: {lost_after: 300}", "such as 300s"),
        ("disconnect: {lost_after: 1s}", "the nearest that is taken: 3s"),
        ("outputs: a", "write outputs: [{path: a}]"),
        ("outputs: {path: a}", "put '- ' before its first key"),
        ("outputs: ''", "write a list"),
        ("outputs: [a]", "did you mean {path: a}?"),
        ("resources: {gpu: 4}", "did you mean gpu: {count: 4}?"),
        ("resources: {gpu: H100}", "did you mean gpu: {type: H100}?"),
        ("resources: H100", "its keys: gpu"),
        ("work: evaluation", "did you mean work: {kind: evaluation}?"),
        ("work: {tokens: 2B}", "did you mean 2000000000, without quotes?"),
        ("work: {tokens: 1.5}", "round it: tokens: 2"),
        ("work: {tokens: 1e16}", "write 1e+15 or less"),
        ("work: {epochs: .nan}", "write a plain number"),
        ("max_cost_usd: $5", "did you mean 5, without quotes?"),
        ("max_cost_usd: -1", "write 0 or more"),
        ("idempotent: no", "write idempotent: false"),
        ("idempotent: maybe", "write idempotent: true, or false"),
        ("env: A=1", "write env: {NAME: value}, not NAME=value"),
        ("env: {A: true}", 'put it in quotes: A: "true"'),
        ("image: a b", "for example: image: docker.io/library/python:3.12"),
        ("model: [a]", "for example: model: org/name"),
        ("workdir: my code", "a directory of your machine begins with ./ or /"),
        ("name: a: b", "put text that has ': ' in it in quotes"),
        ("env:\n\tA: b", "indent with spaces, not with tabs"),
        ("name:", "give it a value or remove the key"),
    ],
)
def test_the_next_step_is_told_in_the_words_of_the_document(lines: str, hint: str) -> None:
    assert hint in refused(MINIMAL + lines + "\n").hint


def test_what_is_missing_is_told_with_an_example() -> None:
    assert refused("kind: Task\nrun: x\n").hint == "add apiVersion: gcos/v1"
    assert refused(HEAD).hint == "add run: python train.py"


def test_faults_of_items_and_variables_name_their_own_lines() -> None:
    assert refused(MINIMAL + "outputs:\n- path: a\n- path: b\n  as: model\n").line == 6
    assert refused(MINIMAL + "env:\n  A: b\n  GCOS_SITE: c\n").line == 6


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("run", 3),
        ("placement.deny", 5),
        ("placement.deny[1]", 7),
        ("placement.deny[7]", 5),
        ("placement.allow[0]", 8),
        ("placement.prefer", 4),
        ("request_id", 0),
    ],
)
def test_a_field_is_found_again_in_the_document(path: str, line: int) -> None:
    text = MINIMAL + "placement:\n  deny:\n  - a\n  - b\n  allow: c\n"
    assert line_of(text.encode(), path) == line


def test_a_digest_tells_documents_apart_by_what_they_say() -> None:
    digest = document_digest(MINIMAL.encode())
    same = b'# a comment\nrun: "echo hello"\nkind: Task\napiVersion: gcos/v1\nrequest_id: r\n'
    assert document_digest(same) == digest
    for other in ("name: a\n", "env: {A: '1'}\n", "env: {A: 1}\n", "data: [a]\n"):
        assert document_digest((MINIMAL + other).encode()) != digest
    quoted, bare = (MINIMAL + f"name: {text}\n" for text in ("'1'", "1"))
    assert document_digest(quoted.encode()) != document_digest(bare.encode())
    in_dir = MINIMAL.encode() + b"workdir: ./code\n"
    ids = [document_digest(in_dir, workdir=f"{n}@sha256:{i}") for n, i in ("aa", "ba", "ab")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("# nothing\n", "empty"),
        ("---\n", "wanted keys and values, found nothing"),
        ("just text", "found the text 'just text'"),
        ("[]", "found a list"),
        ("kind: Task\nrun: x\n", "apiVersion: missing"),
        ("apiVersion: gcos/v2\nkind: Task\nrun: x\n", "wanted gcos/v1, found 'gcos/v2'"),
        (HEAD, "run: missing"),
        (HEAD + "run: ' '\n", "the command is empty"),
        (HEAD + "run: []\n", "the command is empty"),
        (HEAD + "run: ['', x]\n", "the command is empty"),
        (HEAD + "run: {a: b}\n", "found keys and values"),
        (HEAD + "run: [a, [b]]\n", "run[1]: wanted text, found a list"),
        (HEAD + f"run: {'x' * 65_536}\n", "the limit is 65536"),
        (b"\xff\xfe", "byte 0 is 0xff"),
        (MINIMAL.encode() + b"name: caf\xe9\n", "line 4: the file is not UTF-8: byte 56 is 0xe9"),
    ],
)
def test_a_document_that_is_no_task_is_refused(text: str | bytes, words: str) -> None:
    assert words in str(refused(text))


def test_a_byte_order_mark_is_ignored() -> None:
    assert parse(b"\xef\xbb\xbf" + MINIMAL.encode()) == parse(MINIMAL)


def test_a_document_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    padding = "#" * (DOCUMENT_BYTES_MAX - len(MINIMAL))
    assert parse(MINIMAL + padding).name == "custom"
    with pytest.raises(TooLargeError, match="262145 bytes"):
        parse(MINIMAL + padding + "#")


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{a: "])
def test_deep_nesting_is_refused_before_it_costs_anything(opening: str) -> None:
    assert f"{DEPTH_MAX} levels" in str(refused(opening * 20_000))


def test_too_many_values_are_refused() -> None:
    assert f"{NODE_COUNT_MAX} values" in str(refused(f"[{'1,' * NODE_COUNT_MAX}1]"))


@pytest.mark.parametrize("text", ["", "a b", "-a", "a" * 129, "é", "a\n"])
def test_a_strange_request_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        checked_request_id(text)


def test_a_plain_request_id_passes() -> None:
    assert checked_request_id("2026-11-23T14:05.7") == "2026-11-23T14:05.7"


@contextlib.contextmanager
def parsed_or_told() -> Iterator[None]:
    """Let a refusal pass that has a code, a sentence and a next step."""
    try:
        yield
    except GcosError as exc:
        if not (
            exc.message and exc.hint and exc.code in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        ):
            raise AssertionError(f"{exc.code}: {exc.message} ({exc.hint})") from exc


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    with parsed_or_told():
        parse(data)


_PIECES = st.sampled_from(
    ["{", "}", "[", "]", "'", '"', "|", ">", "%", "@", "\\", "#", "?", ",", "~", "-", "+", "T", "!"]
) | st.sampled_from(
    [
        ": ",
        "- ",
        "&a ",
        "*a",
        "<<: ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "!<",
        "0x",
        "1e",
        ".inf",
        "\n",
        "\t",
        "\x00",
        "\r",
        "\u2028",
        "\ufeff",
        "😀",
        "\\u",
        "\\ud83d",
        "\\x0",
    ]
)


@st.composite
def mutated_documents(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from([FULL, MINIMAL, json.dumps({"kind": "Task", "run": ["x"]})]))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(_PIECES | st.text(max_size=4)) + text[end:]
    return text


@settings(max_examples=200)
@given(mutated_documents())
def test_mutated_documents_never_raise_anything_else(text: str) -> None:
    with parsed_or_told():
        parse(text.encode(errors="surrogatepass"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(string.printable, max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.sampled_from([row.key for row in TASK.rows if row.attribute is not None]),
    _JSON,
)
def test_any_value_in_any_field_is_taken_or_refused_by_name(field: str, value: object) -> None:
    document = {"apiVersion": "gcos/v1", "kind": "Task", "run": "x", field: value}
    with parsed_or_told():
        parse(json.dumps(document))


_DOCUMENT_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]))


@given(st.lists(_DOCUMENT_TEXT, max_size=4))
def test_arguments_arrive_as_json_wrote_them(arguments: list[str]) -> None:
    document = {"apiVersion": "gcos/v1", "kind": "Task", "run": ["program", *arguments]}
    assert parse(json.dumps(document)).command == ("program", *arguments)


@pytest.mark.parametrize(
    ("kind", "entry", "wanted"),
    [
        ("fine-tune", "as: artifact", OutputKind.MODEL),
        ("batch-inference", "as: artifact", OutputKind.DATA),
        ("evaluation", "as: artifact", OutputKind.DATA),
        ("fine-tune", "as: artifact, kind: data", OutputKind.DATA),
        ("custom", "as: artifact, kind: model", OutputKind.MODEL),
    ],
)
def test_an_artifact_is_a_model_or_data_by_its_kind_or_by_the_work(
    kind: str, entry: str, wanted: OutputKind
) -> None:
    spec = parse(
        f"{MINIMAL}model: a\nwork: {{kind: {kind}}}\noutputs: [{{path: p, name: n, {entry}}}]\n"
    )
    assert spec.outputs == (Output("p", wanted, "n"),)


def test_an_artifact_of_custom_work_asks_for_its_kind_and_nothing_else_has_one() -> None:
    error = refused(MINIMAL + "outputs:\n- path: p\n  name: n\n  as: artifact\n")
    assert (error.line, error.field) == (7, "outputs[0].as")
    assert "kind: model or kind: data" in error.hint
    error = refused(MINIMAL + "outputs: [{path: p, kind: data}]\n")
    assert (error.field, error.hint) == (
        "outputs[0].kind",
        "write as: artifact, or remove kind",
    )
