import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import testbed
from gcos.seeds import stream
from testbed.workloads import evaluate, generate
from testbed.workloads.datasets import sample_text, write_dataset
from testbed.workloads.grammar import GRAMMARS, Grammar
from testbed.workloads.language_model import Floats, Integers, LanguageModel
from testbed.workloads.models import sample_of_all, write_model
from testbed.workloads.weights import SHAPES, make_weights

REPOSITORY = Path(testbed.__file__).parents[1]
SMALLEST_MODEL, SMALLEST_DATASET = SHAPES[0], GRAMMARS[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Artifacts:
    model: Path
    data: Path


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    root = tmp_path_factory.mktemp("artifacts")
    write_model(SMALLEST_MODEL, root / "model", seed=7)
    write_dataset(SMALLEST_DATASET, root / "data", seed=7)
    return Artifacts(root / "model", data=root / "data")


@pytest.fixture(scope="module")
def model(artifacts: Artifacts) -> LanguageModel:
    return LanguageModel.load(artifacts.model)


@pytest.fixture
def environment(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    monkeypatch.setenv("GCOS_MODEL_DIR", str(artifacts.model))
    monkeypatch.setenv("GCOS_DATA_DIR", str(artifacts.data))
    monkeypatch.setenv("GCOS_OUTPUT_DIR", str(tmp_path / "out"))
    return monkeypatch


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def logits_of(model: LanguageModel, token_ids: Integers) -> Floats:
    batch, sequence = token_ids.shape
    logits, _ = model.step(
        token_ids,
        attention_mask=np.ones((batch, sequence), dtype=np.int64),
        position_ids=np.tile(np.arange(sequence), (batch, 1)),
        cache=model.empty_cache(batch=batch),
    )
    return logits


def random_bytes(*path: str, batch: int, sequence: int) -> Integers:
    return stream(7, "test", *path).integers(32, 127, size=(batch, sequence))


# Making the artifacts


def test_the_same_seed_gives_the_same_files_in_another_process(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from testbed.workloads.datasets import write_dataset\n"
        "from testbed.workloads.grammar import GRAMMARS\n"
        "from testbed.workloads.models import write_model\n"
        "from testbed.workloads.weights import SHAPES\n"
        "write_model(SHAPES[0], Path(sys.argv[1]) / 'model', seed=7)\n"
        "write_dataset(GRAMMARS[0], Path(sys.argv[1]) / 'data', seed=7)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        cwd=REPOSITORY,
        check=True,
    )
    assert digests(tmp_path / "model") == digests(artifacts.model)
    assert digests(tmp_path / "data") == digests(artifacts.data)


def test_another_seed_gives_other_files(artifacts: Artifacts, tmp_path: Path) -> None:
    write_model(SMALLEST_MODEL, tmp_path / "model", seed=8)
    write_dataset(SMALLEST_DATASET, tmp_path / "data", seed=8)
    for name in ("model", "data"):
        ours, theirs = digests(tmp_path / name), digests(getattr(artifacts, name))
        assert all(ours[file] != theirs[file] for file in theirs)


def test_a_complete_artifact_is_kept_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    assert write_dataset(SMALLEST_DATASET, directory, seed=7)
    before = digests(directory)
    assert not write_dataset(SMALLEST_DATASET, directory, seed=7)
    (directory / "documents.txt").write_text("torn")
    assert write_dataset(SMALLEST_DATASET, directory, seed=7)
    assert digests(directory) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "staging was left behind"


def test_a_complete_artifact_of_another_seed_is_replaced(tmp_path: Path) -> None:
    write_dataset(SMALLEST_DATASET, tmp_path / "data", seed=7)
    assert write_dataset(SMALLEST_DATASET, tmp_path / "data", seed=8)
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["seed"] == 8


def test_models_have_the_size_in_their_name_and_fit_in_25_megabytes() -> None:
    text = sample_of_all(seed=7)
    for shape in SHAPES:
        parameters = sum(value.size for value in make_weights(shape, seed=7, text=text).values())
        named = int(shape.name.removeprefix("tiny-lm-").removesuffix("k")) * 1000
        assert parameters == pytest.approx(named, rel=0.03)
        assert parameters * 4 < 25e6


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.name)
def test_every_slot_of_a_grammar_is_filled_in(grammar: Grammar) -> None:
    text = sample_text(grammar, seed=7, size_bytes=20_000)
    assert b"{" not in text
    assert b"%" not in text or b" % " in text


# The model


def test_a_prefill_and_decode_steps_give_the_logits_of_one_pass(model: LanguageModel) -> None:
    token_ids = random_bytes("decode", batch=2, sequence=40)
    whole = logits_of(model, token_ids)
    cache = model.empty_cache(batch=2)
    for start, stop in [(0, 25), *((index, index + 1) for index in range(25, 40))]:
        logits, cache = model.step(
            token_ids[:, start:stop],
            attention_mask=np.ones((2, stop), dtype=np.int64),
            position_ids=np.tile(np.arange(start, stop), (2, 1)),
            cache=cache,
        )
        np.testing.assert_allclose(logits, whole[:, start:stop], atol=1e-3)


def test_a_later_token_never_changes_earlier_logits(model: LanguageModel) -> None:
    token_ids = random_bytes("causal", batch=1, sequence=20)
    changed = token_ids.copy()
    changed[0, 12] = 300 - changed[0, 12]
    before, after = logits_of(model, token_ids), logits_of(model, changed % 256)
    np.testing.assert_allclose(after[:, :12], before[:, :12], atol=1e-4)
    assert np.abs(after[:, 12:] - before[:, 12:]).max() > 0.1


def test_the_token_before_the_current_one_moves_the_logits(model: LanguageModel) -> None:
    """The previous-token heads work: without them the models would know byte pairs only."""
    rows = np.array([list(b"by th"), list(b"by sh")], dtype=np.int64)
    logits = logits_of(model, rows)[:, -1]
    assert np.abs(logits[0] - logits[1]).max() > 0.5


def test_padding_on_the_left_changes_nothing(model: LanguageModel) -> None:
    token_ids = random_bytes("padding", batch=1, sequence=16)
    padded = np.concatenate([np.full((1, 5), model.config.pad_token), token_ids], axis=1)
    mask = (np.arange(21) >= 5).astype(np.int64)[np.newaxis]
    logits, _ = model.step(
        padded,
        attention_mask=mask,
        position_ids=np.maximum(np.arange(21) - 5, 0)[np.newaxis],
        cache=model.empty_cache(batch=1),
    )
    np.testing.assert_allclose(logits[:, 5:], logits_of(model, token_ids), atol=1e-3)


# Batch inference


@settings(max_examples=12, deadline=None)
@given(tokens_count=st.integers(1, 300), batch=st.integers(1, 5), sequence=st.integers(4, 64))
def test_generation_gives_exactly_the_tokens_asked_for(
    tokens_count: int,
    batch: int,
    sequence: int,
    artifacts: Artifacts,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        output = tmp_path_factory.mktemp("out")
        patch.setenv("GCOS_MODEL_DIR", str(artifacts.model))
        patch.setenv("GCOS_DATA_DIR", str(artifacts.data))
        patch.setenv("GCOS_OUTPUT_DIR", str(output))
        options = f"--tokens {tokens_count} --batch {batch} --sequence {sequence}"
        assert generate.main(options.split()) == 0
        lines = (output / "completions.jsonl").read_text().splitlines()
        completions = [json.loads(line)["completion"] for line in lines]
        assert sum(map(len, completions)) == tokens_count


def test_a_completion_does_not_depend_on_its_batch(model: LanguageModel) -> None:
    prompts = [generate.Prompt(str(n), text="The claimant "[: 4 + 3 * n]) for n in range(4)]

    def complete(rows: list[int]) -> list[bytes]:
        return generate.generate(
            model,
            [prompts[row] for row in rows],
            new_counts=[30 for _ in rows],
            sequence=64,
            choices=[stream(7, "row", row) for row in rows],
            temperature=0.8,
        )

    assert complete([0, 1, 2, 3]) == [complete([row])[0] for row in range(4)]


def test_greedy_generation_takes_no_notice_of_the_seed(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = []
    for seed in ("1", "2"):
        options = ["--tokens", "60", "--batch", "2", "--temperature", "0", "--seed", seed]
        assert generate.main(options) == 0
        texts.append((tmp_path / "out" / "completions.jsonl").read_text())
    assert texts[0] == texts[1]


# Evaluation


def test_perplexity_is_far_below_that_of_uniform_guessing(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--tokens", "5000", "--batch", "4", "--sequence", "128"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["tokens"] == 5000
    assert metrics["perplexity"] < 10, "uniform guessing has 259"
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["kind"] == "evaluation"
    assert report["tokens"] == 5000
    assert report["run_s"] > 0
    assert report["tokens_per_s"] > 0


def test_perplexity_does_not_depend_on_the_batch(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    perplexities = []
    for batch in ("1", "3"):
        options = ["--tokens", "1000", "--batch", batch, "--sequence", "64"]
        assert evaluate.main(options) == 0
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        perplexities.append(metrics["perplexity"])
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)


def test_uniform_logits_lose_the_logarithm_of_the_vocabulary() -> None:
    losses = evaluate.negative_log_likelihood_nats(
        np.full((2, 3, 259), 5.0, dtype=np.float32), np.zeros((2, 3), dtype=np.int64)
    )
    np.testing.assert_allclose(losses, np.log(259), rtol=1e-6)


# Jobs as processes


def remove_model_variable(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    environment.delenv("GCOS_MODEL_DIR")


def name_a_directory_that_is_not_there(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    environment.setenv("GCOS_DATA_DIR", str(scratch / "nowhere"))


def empty_the_model_directory(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.mkdir()
    environment.setenv("GCOS_MODEL_DIR", str(scratch))


def garble_the_configuration(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.mkdir()
    (scratch / "config.json").write_bytes(b"\xff[]")
    environment.setenv("GCOS_MODEL_DIR", str(scratch))


def cut_the_model_short(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.mkdir()
    whole = Path(os.environ["GCOS_MODEL_DIR"])
    (scratch / "config.json").write_bytes((whole / "config.json").read_bytes())
    (scratch / "model.onnx").write_bytes((whole / "model.onnx").read_bytes()[:-1])
    environment.setenv("GCOS_MODEL_DIR", str(scratch))


def declare_garbage_a_model(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.mkdir()
    whole = Path(os.environ["GCOS_MODEL_DIR"])
    record = json.loads((whole / "config.json").read_text())
    record["files_sha256"]["model.onnx"] = hashlib.sha256(b"garbage").hexdigest()
    (scratch / "config.json").write_text(json.dumps(record))
    (scratch / "model.onnx").write_bytes(b"garbage")
    environment.setenv("GCOS_MODEL_DIR", str(scratch))


def empty_the_data_directory(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.mkdir()
    environment.setenv("GCOS_DATA_DIR", str(scratch))


def garble_the_data(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.mkdir()
    (scratch / "prompts.jsonl").write_text('{"id": "a", "prompt": "b"}\n{"id": "a"}\n')
    (scratch / "documents.txt").write_text("")
    environment.setenv("GCOS_DATA_DIR", str(scratch))


def put_a_file_where_outputs_go(environment: pytest.MonkeyPatch, scratch: Path) -> None:
    scratch.write_text("")
    environment.setenv("GCOS_OUTPUT_DIR", str(scratch))


@pytest.mark.parametrize("main", [generate.main, evaluate.main], ids=["generate", "evaluate"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_model_variable, "GCOS_MODEL_DIR is not set"),
        (name_a_directory_that_is_not_there, "is not a directory"),
        (empty_the_model_directory, "cannot read"),
        (garble_the_configuration, "is not a model's configuration"),
        (cut_the_model_short, "does not match the digest"),
        (declare_garbage_a_model, "cannot load"),
        (empty_the_data_directory, "cannot read"),
        (garble_the_data, "scratch"),
        (put_a_file_where_outputs_go, "GCOS_OUTPUT_DIR"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_input_ends_with_one_line_and_code_2(
    main: Callable[[list[str]], int],
    damage: Callable[[pytest.MonkeyPatch, Path], None],
    words: str,
    *,
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(environment, tmp_path / "scratch")
    assert main(["--tokens", "8", "--sequence", "16"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_a_sequence_beyond_the_context_is_refused(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--tokens", "8", "--sequence", "513"]) == 2
    assert "takes 4 to 512 tokens" in capsys.readouterr().err


def test_without_an_output_directory_outputs_go_to_the_current_one(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.delenv("GCOS_OUTPUT_DIR")
    environment.chdir(tmp_path)
    assert evaluate.main(["--tokens", "8", "--sequence", "16"]) == 0
    assert (tmp_path / "metrics.json").exists()


def test_sigterm_ends_a_job_with_code_143_and_no_output(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "testbed.workloads.generate", "--tokens", "100000000"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("batch-inference: loaded tiny-lm-800k")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert list((tmp_path / "out").iterdir()) == []


def test_jobs_need_no_onnx_package() -> None:
    script = (
        "import sys; import testbed.workloads.generate, testbed.workloads.evaluate\n"
        "sys.exit('onnx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
