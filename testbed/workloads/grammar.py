"""Eight text grammars, our own words only: the language of the demo's data sets. Pure.

A grammar is a lexicon (slot to words) and sentence templates that name slots in braces. Text is
drawn uniformly, from integers alone, so equal streams give equal bytes on every machine.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

#: Sentences drawn from the generator at once; it amortises numpy's call overhead and, being part
#: of the draw order, of the text as well.
_BLOCK_SENTENCES = 1024

_SLOT = re.compile(r"\{(\w+)\}")

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "digit": tuple("123456789"),
    "two_digits": tuple(str(n) for n in range(10, 100)),
    "three_digits": tuple(str(n) for n in range(100, 1000)),
    "hour": tuple(f"{n:02d}" for n in range(24)),
    "minute": tuple(f"{n:02d}" for n in range(0, 60, 5)),
}


@dataclass(frozen=True, slots=True)
class Grammar:
    """One kind of text and how much of it a data set of that name holds."""

    name: str
    #: Size of `documents.txt` and `prompts.jsonl` together; the writer stops just past it.
    data_bytes: int
    lexicon: Mapping[str, tuple[str, ...]]
    sentences: tuple[str, ...]


def invented_names(rng: np.random.Generator, *, count: int) -> tuple[str, ...]:
    """Return `count` capitalised names of two or three syllables; some may be equal."""
    starts = ("ba", "do", "ka", "le", "mi", "no", "pe", "ra", "si", "tu", "va", "we")
    ends = ("dal", "fen", "gar", "lin", "mor", "nas", "rit", "sund", "tor", "vik")
    draws = rng.integers(0, 2**31, size=(count, 3)).tolist()
    return tuple(
        (starts[a % 12] + (starts[b // 2 % 12] if b % 2 else "") + ends[c % 10]).capitalize()
        for a, b, c in draws
    )


def sentences(grammar: Grammar, rng: np.random.Generator) -> Iterator[str]:
    """Yield sentences for ever; the slot `name` is filled with names drawn from `rng` first."""
    lexicon = {**_NUMBERS, **grammar.lexicon, "name": invented_names(rng, count=240)}
    templates = [_split(sentence, lexicon) for sentence in grammar.sentences]
    slots_max = max(len(slots) for _, slots in templates)
    while True:
        draws = rng.integers(0, 2**31, size=(_BLOCK_SENTENCES, 1 + slots_max)).tolist()
        for first, *rest in draws:
            form, slots = templates[first % len(templates)]
            words = [
                choices[draw % len(choices)] for choices, draw in zip(slots, rest, strict=False)
            ]
            yield form % tuple(words)


def _split(
    sentence: str, lexicon: Mapping[str, tuple[str, ...]]
) -> tuple[str, list[tuple[str, ...]]]:
    """Return a %-format and the words of each of its slots; formatting so is fast."""
    slots = [lexicon[slot] for slot in _SLOT.findall(sentence)]
    return _SLOT.sub("%s", sentence.replace("%", "%%")), slots


GRAMMARS: tuple[Grammar, ...] = (
    Grammar(
        "court-minutes",
        data_bytes=200_000,
        lexicon={
            "party": ("The claimant", "The tenant", "The insurer", "The owner", "The witness"),
            "act": ("denies", "admits", "repeats", "withdraws", "disputes", "explains"),
            "matter": ("the debt", "the lease", "the repair", "the delay", "the signature"),
            "ruling": ("adjourned", "dismissed", "granted", "referred", "settled"),
        },
        sentences=(
            "{party} {act} {matter} of {two_digits} May.",
            "Case {three_digits} between {name} and {name} is {ruling}.",
            "Asked about {matter}, {name} {act} it; the bench takes note.",
            "{party} asks for {digit} weeks. The request is {ruling}.",
        ),
    ),
    Grammar(
        "recipes",
        data_bytes=400_000,
        lexicon={
            "verb": ("Chop", "Rinse", "Roast", "Simmer", "Stir", "Fold in", "Grate", "Drain"),
            "food": (
                "the lentils",
                "two onions",
                "a ripe pear",
                "the barley",
                "some dill",
                "leeks",
            ),
            "dish": ("stew", "pie", "salad", "broth", "dumplings", "flat bread"),
            "until": ("golden", "soft", "thick", "cool", "just tender", "crisp"),
        },
        sentences=(
            "{verb} {food} for {two_digits} minutes, until {until}.",
            "{verb} {food} and set aside {three_digits} grams of {food}.",
            "This {dish} from {name} serves {digit}; keep it {until}.",
            "When the {dish} is {until}, add {food}, then {food}.",
        ),
    ),
    Grammar(
        "harbour-log",
        data_bytes=800_000,
        lexicon={
            "ship": ("The ferry", "The tanker", "The pilot boat", "The trawler", "The barge"),
            "cargo": ("timber", "grain", "wind blades", "salted fish", "containers", "gravel"),
            "event": ("berths", "sails", "drops anchor", "asks for a tug", "clears customs"),
            "wind": ("light", "fresh", "strong", "gusty", "falling"),
        },
        sentences=(
            "{hour}:{minute} {ship} {name} {event} with {cargo}.",
            "{hour}:{minute} Wind {wind}, {digit} knots from {name} point.",
            "{hour}:{minute} Berth {digit}: {cargo}, {three_digits} tonnes, for {name}.",
            "{ship} {event} at {hour}:{minute} and waits for {cargo}.",
        ),
    ),
    Grammar(
        "field-notes",
        data_bytes=1_500_000,
        lexicon={
            "bird": ("heron", "curlew", "reed warbler", "kestrel", "teal", "swift", "godwit"),
            "does": ("feeds", "calls", "circles", "rests", "chases a rival", "carries moss"),
            "place": ("the salt marsh", "the old weir", "the gravel bank", "the alder wood"),
            "sky": ("low cloud", "thin sun", "drizzle", "clear sky", "ground mist"),
        },
        sentences=(
            "A {bird} {does} near {place} at {hour}:{minute}.",
            "Under {sky}, {digit} {bird}s stay by {place}; one {does}.",
            "Transect {two_digits}: no {bird}, though a {bird} {does} beyond {place}.",
            "{name} counted {three_digits} nests at {place} in {sky}.",
            "The {bird} {does}, then the {bird} {does} too.",
        ),
    ),
    Grammar(
        "support-tickets",
        data_bytes=2_500_000,
        lexicon={
            "device": ("printer", "router", "scanner", "badge reader", "heat pump", "kiosk"),
            "fault": ("restarts", "overheats", "shows error E7", "drops its link", "is slow"),
            "remedy": ("replace the cable", "update the firmware", "clear the queue", "wait"),
            "mood": ("Thanks", "Please hurry", "No rush", "This is the third time"),
        },
        sentences=(
            "Ticket {three_digits}{two_digits}: the {device} in {name} {fault}.",
            "Q: why is the {device} silent? A: {remedy}, then {remedy}.",
            "{mood}, the {device} {fault} since {hour}:{minute}. {name}",
            "Closed: we told {name} to {remedy}; the {device} works.",
        ),
    ),
    Grammar(
        "ledger-lines",
        data_bytes=4_000_000,
        lexicon={
            "account": ("rent", "seed stock", "wages", "repairs", "fuel", "insurance", "sales"),
            "side": ("debit", "credit"),
            "remark": ("paid", "open", "part paid", "disputed", "carried over"),
        },
        sentences=(
            "{side} {account} {three_digits}.{two_digits} to {name}: {remark}",
            "{account}; {two_digits} units at {digit}.{two_digits}; {side}; {remark}",
            "balance of {account} on day {three_digits}: {three_digits}.{two_digits} {side}",
        ),
    ),
    Grammar(
        "travel-letters",
        data_bytes=6_000_000,
        lexicon={
            "greeting": ("Dear sister,", "My friend,", "Dear all,", "Good morning!"),
            "way": ("by the night train", "on foot", "along the coast", "over the high pass"),
            "sight": ("the lamp market", "a tiled courtyard", "the glass bridge", "an empty pier"),
            "feel": ("tired but glad", "homesick", "curious", "as light as paper", "at ease"),
            "end": ("More soon.", "Write to me.", "Keep the key.", "Until the rains end."),
        },
        sentences=(
            "{greeting} we came to {name} {way} and saw {sight}.",
            "In {name} everyone is {feel}, and {sight} stays open until {hour}:{minute}.",
            "I am {feel}; tomorrow we travel {way} towards {name}. {end}",
            "There are {three_digits} steps up to {sight}, and we climbed them {way}. {end}",
            "{greeting} {sight} reminded me of {sight}. {end}",
        ),
    ),
    Grammar(
        "machine-code",
        data_bytes=8_000_000,
        lexicon={
            "name_of": ("count", "total", "index", "limit", "buffer", "weight", "offset", "rows"),
            "call": ("load", "merge", "scan", "emit", "split", "hash", "pack"),
            "operator": ("+", "-", "*", "//", "%"),
            "test": ("<", ">", "==", "!=", "<=", ">="),
        },
        sentences=(
            "{name_of} = {call}({name_of}, {two_digits})",
            "if {name_of} {test} {digit}: return {call}({name_of})",
            "for {name_of} in range({two_digits}): {name_of} = {name_of} {operator} {digit}",
            "def {call}_{name_of}({name_of}, {name_of}): return {name_of} {operator} {name_of}",
            "assert {call}({name_of}) {test} {three_digits}, '{name_of} of {name_of}'",
        ),
    ),
)
