"""Run times of tasks: the task trie for what is new, DiPTree for what is known. Pure.

The trie (`task_trie`) starts from the physics prior and is right after a few runs of a model. Once
a fit exists, a model with `KNOWN_COUNT` runs on a pool type is predicted by DiPTree, whose times
are residuals (ln run time minus ln reference time), so that sizes teach each other.

State is a function of the remembered observations, sorted by (end, run), and of the fit. One that
comes out of order within the last hour is put in its place: DiPTree goes back to a checkpoint and
learns again from there. An older one enters at the next replay, which a restart and a refit bring.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gcos.durations import (
    SECONDS_MIN,
    Observation,
    Outcome,
    PoolSpeed,
    Prediction,
    WorkFeatures,
)
from gcos.ids import RunId
from gcos.run_time_prior import has_known_size
from gcos.run_time_snapshot import ContextRunTime, RunTimeSnapshot
from gcos.tasks import WorkKind
from predictor.answers import Answer, AnswerColumns, Answers
from predictor.codes import seen_number
from predictor.diptree import DiPTree
from predictor.features import (
    TOKENS_AT,
    WORK_AT,
    Question,
    Template,
    ln_work,
    names_of,
    question_of,
    reference_at,
    row_of,
)
from predictor.places import Place, Singles
from predictor.records import Finished, Row
from predictor.residuals import Key
from predictor.task_trie import OBSERVATION_COUNT_MAX, Knowledge, TaskTrie
from predictor.templates import TemplateColumns

#: Runs of a model on a pool type from which DiPTree is preferred to the trie.
KNOWN_COUNT = 8
#: Answers up to which columns take longer than rows one by one.
FEW_COUNT = 8
#: Templates on pool types remembered until the next change.
PLACE_COUNT_MAX = 4096
#: Lists of pool types whose templates are remembered.
COLUMNS_COUNT_MAX = 8
#: How far back observations are put in their place, in world time.
WATERMARK_S = 3600.0
#: Observations between checkpoints, and checkpoints kept: what may have to be learned again.
CHECKPOINT_EVERY_COUNT = 64
CHECKPOINT_COUNT_MAX = 4
#: Contexts of a snapshot, the newest: about 500 bytes and 0.2 ms each.
SNAPSHOT_CONTEXT_COUNT_MAX = 256


@dataclass(frozen=True, slots=True)
class Structure:
    """A fit in use.

    Attributes:
        blank: Returns a tree of the structure that knows no runs.
        until_s: End of the newest run it was fitted on; those runs do not judge experts.
        version: Names it.
    """

    blank: Callable[[], DiPTree]
    until_s: float
    version: str


@dataclass(frozen=True, slots=True)
class _Known:
    """What trees know of a template on a pool type.

    Attributes:
        place: Of its names.
        seen: What trees see, (1, n_features); its numbers are those of the template.
    """

    place: Place
    seen: Singles


class TaskPredictor:
    """Learns from ended runs and predicts run times; not thread-safe."""

    def __init__(self, *, observation_count_max: int = OBSERVATION_COUNT_MAX) -> None:
        self._trie = TaskTrie(observation_count_max=observation_count_max)
        #: Finished runs in order; the same as the trie remembers.
        self._keys: list[Key] = []
        self._finished: dict[RunId, Observation] = {}
        self._structure: Structure | None = None
        self._tree: DiPTree | None = None
        #: Last key learned by each copy, oldest first; the first is of the start.
        self._checkpoints: list[tuple[Key, DiPTree]] = []
        self._learned: Key = _FIRST
        self._since_checkpoint_count = 0
        self._change_count = 0
        #: Until the next change: the name of the state, what trees know of names, and the same by
        #: pool types.
        self._version: str | None = None
        self._known: dict[tuple[Template, str], _Known] = {}
        self._columns: dict[tuple[str, ...], TemplateColumns] = {}
        #: Observations too late to be put in their place; they wait for the next replay.
        self.late_count = 0

    def knows(self, run_id: RunId) -> bool:
        """Tell whether the end of this run is remembered."""
        return self._trie.knows(run_id)

    @property
    def structure(self) -> Structure | None:
        """The fit in use."""
        return self._structure

    @property
    def finished_count(self) -> int:
        """Remembered runs that succeeded."""
        return len(self._keys)

    def finished(self) -> Iterator[Observation]:
        """Yield the remembered runs that succeeded, in order."""
        for _, run_id in self._keys:
            yield self._finished[run_id]

    def observe(self, observation: Observation) -> tuple[bool, RunId | None]:
        """Learn from an ended run, unless it is known; see `TaskTrie.observe`."""
        is_new, forgotten = self._trie.observe(observation)
        self._forget_answers()
        if is_new and observation.outcome is Outcome.SUCCEEDED:
            self._insert(observation)
        if forgotten is not None and forgotten in self._finished:
            gone = self._finished.pop(forgotten)
            del self._keys[bisect_left(self._keys, (gone.ended_s, forgotten))]
        return is_new, forgotten

    def make_ready(self, questions: Sequence[Question], pools: Sequence[PoolSpeed]) -> None:
        """Work out what names say of `questions`, which whoever asks them first need not wait for.

        For a shell, after a change. Nothing that is told changes by it.
        """
        self._version_now()
        if self._tree is not None:
            for template, _ in questions:
                for pool in pools:
                    self._place_of(template, pool.type)

    def predict(self, features: WorkFeatures, pools: Sequence[PoolSpeed]) -> tuple[Prediction, ...]:
        """Return one prediction for each pool type, in order."""
        return self.predict_many([question_of(features)], pools).predictions() if pools else ()

    def predict_many(
        self, questions: Sequence[Question], pools: Sequence[PoolSpeed]
    ) -> Answers | AnswerColumns:
        """Return one answer for each question and pool type, at least one of each, in order."""
        version, tree = self._version_now(), self._tree
        if tree is None:
            rows = [row for question in questions for row in self._ask_trie(question, pools)]
        elif len(questions) * len(pools) > FEW_COUNT:
            return self._ask_together(tree, questions, pools, version)
        else:
            rows = [row for question in questions for row in self._ask_tree(tree, question, pools)]
        return Answers(tuple(pool.type for pool in pools), rows, version)

    def _is_known(self, template: Template, pool_type: str) -> bool:
        """Tell whether trees are asked, or the trie."""
        _, _, of_pool = names_of(template.features, pool_type)
        return self._trie.run_count(of_pool) >= KNOWN_COUNT

    def _known_on(self, template: Template, pool_type: str) -> "_Known":
        """Return what trees know since the last change."""
        key = (template, pool_type)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= PLACE_COUNT_MAX:
                self._known = {}
            assert self._tree is not None
            categories, contexts, _ = names_of(template.features, pool_type)
            place = self._tree.place(Row(template.numbers, categories, contexts))
            numbers = np.array([*map(seen_number, template.numbers)], dtype=np.float32)
            known = _Known(place, np.concatenate((numbers, place.names))[None])
            self._known[key] = known
        return known

    def _place_of(self, template: Template, pool_type: str) -> Place | None:
        if not self._is_known(template, pool_type):
            return None
        return self._known_on(template, pool_type).place

    def _ask_trie(self, question: Question, pools: Sequence[PoolSpeed]) -> list[Answer]:
        template, token_count = question
        features = replace(template.features, token_count=token_count)
        return [Answer.of(told) for told in self._trie.predict(features, pools)]

    def _ask_tree(
        self, tree: DiPTree, question: Question, pools: Sequence[PoolSpeed]
    ) -> list[Answer]:
        """Ask trees where runs are known, and the trie where not."""
        answers: list[Answer | None] = []
        new = []
        template, token_count = question
        reference_s = reference_at(question)
        ln_reference, ln_tokens = math.log(reference_s), math.log1p(token_count)
        for pool in pools:
            key = (template, pool.type)
            known = self._known.get(key)
            if known is None and not self._is_known(*key):
                new.append(pool)
                answers.append(None)
            else:
                known = known or self._known_on(*key)
                seen = known.seen.copy()
                seen[0, WORK_AT], seen[0, TOKENS_AT] = ln_reference, ln_tokens
                told = tree.tell(seen, known.place)
                answers.append(Answer.relative(told, known.place, reference_s))
        of_trie = iter(self._ask_trie(question, new) if new else ())
        return [next(of_trie) if answer is None else answer for answer in answers]

    def _ask_together(
        self,
        tree: DiPTree,
        questions: Sequence[Question],
        pools: Sequence[PoolSpeed],
        version: str,
    ) -> AnswerColumns:
        """Ask the same of many questions, in columns."""
        pool_types = tuple(pool.type for pool in pools)
        columns = self._columns_of(tree, pool_types)
        gathered = columns.gather(questions)
        ids = gathered.place_ids.ravel()
        numbers, references_s = gathered.numbers, gathered.references_s
        if len(pools) > 1:
            numbers = numbers.repeat(len(pools), axis=0)
            references_s = references_s.repeat(len(pools))
        if ids.min() >= 0:
            told = tree.predict_at(columns.places, ids, numbers)
            return AnswerColumns.relative(told, references_s, pool_types, version)
        answers = AnswerColumns.blank(len(ids), pool_types, version)
        (known,) = (ids >= 0).nonzero()
        if len(known):
            told = tree.predict_at(columns.places, ids[known], numbers[known])
            of_trees = AnswerColumns.relative(told, references_s[known], pool_types, version)
            answers.put_many(known, of_trees)
        for index, of_question in enumerate(gathered.place_ids.tolist()):
            new = [at for at, place_id in enumerate(of_question) if place_id < 0]
            if new:
                rows = self._ask_trie(questions[index], [pools[at] for at in new])
                for at, row in zip(new, rows, strict=True):
                    answers.put(index * len(pools) + at, row)
        return answers

    def _columns_of(self, tree: DiPTree, pool_types: tuple[str, ...]) -> TemplateColumns:
        """Return the templates asked for on `pool_types` since the last change."""
        columns = self._columns.get(pool_types)
        if columns is None:
            if len(self._columns) == COLUMNS_COUNT_MAX:
                self._columns = {}
            columns = TemplateColumns(pool_types, tree.partition.edges, self._place_of)
            self._columns[pool_types] = columns
        return columns

    @property
    def generation(self) -> tuple[int, int]:
        """Another value whenever the same question may get another answer."""
        return self._change_count, self._trie.speed_generation

    def snapshot(self) -> RunTimeSnapshot:
        """Return what agents need to go on alone: the pool types that models last ran on."""
        newest: dict[tuple[WorkKind, str, str, bool], Observation] = {}
        for _, run_id in reversed(self._keys):
            run = self._finished[run_id]
            features = run.features
            is_sized = has_known_size(features)
            newest.setdefault((features.kind, features.model, run.pool_type, is_sized), run)
            if len(newest) == SNAPSHOT_CONTEXT_COUNT_MAX:
                break
        contexts = []
        for (kind, model, pool_type, is_sized), run in newest.items():
            # At the declared ratio: another would be a declaration of its own.
            pool = PoolSpeed(pool_type, self._trie.speed_ratio(pool_type))
            (told,) = self.predict(run.features, [pool])
            reference_s = math.exp(ln_work(run.features))
            contexts.append(
                ContextRunTime(
                    kind=kind,
                    model=model,
                    pool_type=pool_type,
                    has_known_size=is_sized,
                    quantiles_ratio=tuple(q / reference_s for q in told.run_time.quantiles_s),
                    typical_ratio=None if told.typical_s is None else told.typical_s / reference_s,
                    effective_count=told.effective_count,
                    context=told.context,
                )
            )
        return RunTimeSnapshot(self.describe().version, tuple(contexts))

    def describe(self) -> Knowledge:
        """Return what is known."""
        known = self._trie.describe()
        return replace(known, version=self._named(known.version))

    def replay(self, structure: Structure, *, step_count: int) -> Iterator[None]:
        """Rebuild from the log under `structure` and use it, pausing every `step_count` runs.

        What is observed in a pause is learned at the end.
        """
        tree = structure.blank()
        checkpoints = [(_FIRST, tree.copy())]
        keys = list(self._keys)
        for index, key in enumerate(keys, 1):
            observation = self._finished.get(key[1])
            if observation is not None:  # else it was forgotten in a pause
                learn(tree, observation, structure.until_s)
            # Only the newest checkpoints would be kept.
            to_come_count = len(keys) - index
            if to_come_count % CHECKPOINT_EVERY_COUNT == 0:
                if to_come_count < CHECKPOINT_EVERY_COUNT * CHECKPOINT_COUNT_MAX:
                    checkpoints.append((key, tree.copy()))
                del checkpoints[:-CHECKPOINT_COUNT_MAX]
            if index % step_count == 0:
                yield
        self._structure, self._tree, self._checkpoints = structure, tree, checkpoints
        self._learned = keys[-1] if keys else _FIRST
        self._forget_answers()
        self._since_checkpoint_count = 0
        self.late_count = 0
        since = set(self._keys).difference(keys)
        for key in sorted(since):
            self._place(key)

    def check_invariants(self) -> None:
        """Assert what must hold between any two calls."""
        self._trie.check_invariants()
        assert self._keys == sorted(self._keys)
        assert len(self._keys) == len(self._finished) == self._trie.describe().finished_count
        assert len(self._checkpoints) <= CHECKPOINT_COUNT_MAX
        assert (self._structure is None) == (self._tree is None)

    def _insert(self, observation: Observation) -> None:
        key = (observation.ended_s, observation.run_id)
        insort(self._keys, key)
        self._finished[observation.run_id] = observation
        if self._tree is not None:
            self._place(key)

    def _place(self, key: Key) -> None:
        """Learn a remembered run where it belongs, and again what came after it."""
        if key > self._learned:
            self._learn_on()
        elif key[0] < self._learned[0] - WATERMARK_S or key < self._checkpoints[0][0]:
            self.late_count += 1
        else:
            while self._checkpoints[-1][0] > key:
                self._checkpoints.pop()
            self._learned, kept = self._checkpoints[-1]
            self._tree = kept.copy()
            self._since_checkpoint_count = 0
            self._learn_on()

    def _learn_on(self) -> None:
        """Learn all runs after the last that was learned."""
        assert self._tree is not None
        assert self._structure is not None
        for key in self._keys[bisect_right(self._keys, self._learned) :]:
            learn(self._tree, self._finished[key[1]], self._structure.until_s)
            self._learned = key
            self._since_checkpoint_count += 1
            if self._since_checkpoint_count == CHECKPOINT_EVERY_COUNT:
                self._since_checkpoint_count = 0
                self._checkpoints.append((key, self._tree.copy()))
                del self._checkpoints[:-CHECKPOINT_COUNT_MAX]

    def _forget_answers(self) -> None:
        """Forget what is remembered between two changes."""
        self._change_count += 1
        self._version, self._known, self._columns = None, {}, {}

    def _version_now(self) -> str:
        """Return the name of the state."""
        if self._version is None:
            self._version = self._named(self._trie.version())
        return self._version

    def _named(self, of_trie: str) -> str:
        return of_trie if self._structure is None else f"{of_trie}-{self._structure.version}"


def learn(tree: DiPTree, observation: Observation, until_s: float) -> None:
    """Let `tree` learn a finished run; only one that its fit has not seen judges experts."""
    run = finished(observation)
    if observation.ended_s > until_s:
        tree.observe(run.row, run.seconds)
    else:
        told = tree.told_by_trees(tree.features(run.row)[None])[0]
        ticket = tree.bare_ticket(run.row, told)
        tree.absorb(run.row, math.log(run.seconds), ticket, teaches_head=False)


def finished(observation: Observation) -> Finished:
    """Return a finished run as a row whose time is relative to its reference time."""
    elapsed_s = max(observation.elapsed_s, SECONDS_MIN)
    return Finished(
        row=row_of(observation.features, observation.pool_type),
        seconds=math.exp(math.log(elapsed_s) - ln_work(observation.features)),
        started_s=observation.ended_s - observation.elapsed_s,
        ended_s=observation.ended_s,
    )


_FIRST: Key = (-math.inf, RunId(""))
