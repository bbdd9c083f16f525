"""The registry of noise models, and from a text to a transition matrix.

A model is a function whose first parameters are given by the code: `num_classes` (and `classes`,
their names) makes it class-conditional, it returns T (K, K); `examples` lets it look at each
example, it returns `Rows` or a `Labelling`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..core.expressions import Call, Expression, Value, parse
from ..core.parameters import OneOf
from ..core.registry import Entry, Registry
from ..errors import LanguageError, UnknownName
from .sampling import Seed, sample

FILES = ("file", "predictions", "suspects")  # parameters that name a file
NOISES = Registry("noise", "noises", injected=("num_classes", "classes", "examples"))
register_noise = NOISES.register

_COUNTING = ("exact", "exact_over")  # parameters of the sampling, not of the model


@dataclass(frozen=True)
class NoiseOption:
    """The short option of a noise on the command line: `--sym 0.4` is `symmetric(rate=0.4)`.

    parameter: the one that the option's value sets, a rate where none is named.
    """

    flag: str
    metavar: str
    help: str
    parameter: str = "rate"

    @property
    def name(self) -> str:
        """The flag without its dashes, as conventions name a kind of noise."""
        return self.flag.removeprefix("--")

    @property
    def is_file(self) -> bool:
        return self.parameter in FILES


def noise_options() -> dict[str, Entry]:
    """The noises that have a short option, by its name: `{"sym": <symmetric>, ...}`."""
    return {entry.facts["option"].name: entry for entry in NOISES if "option" in entry.facts}


def noise_of_option(name: str, value: Value, **parameters: Value) -> str:
    """The noise text of a short option: `("sym", 0.4, inclusive=True)` ->
    `symmetric(rate=0.4, inclusive=True)`. None among the parameters is left out.
    """
    entry = noise_options()[name]
    given = ((key, value) for key, value in parameters.items() if value is not None)
    return str(Call(entry.name, kwargs=((entry.facts["option"].parameter, value), *given)))


class Teacher(Protocol):
    """What a trained network says of the examples: classes (N, >= 2), likeliest first, and their
    probabilities.
    """

    @property
    def classes(self) -> np.ndarray: ...

    @property
    def p(self) -> np.ndarray: ...


class NoiseInputs(Protocol):
    """What lies outside and may be asked for: the images, a teacher, and labels that somebody
    recorded.
    """

    def images(self) -> Callable[[np.ndarray], np.ndarray]:
        """Which examples (n,) -> their images (n, H, W, C), uint8."""

    def images_sha256(self) -> str:
        """The fingerprint of all of them."""

    def teacher(self, path: str, sha256: str | None) -> Teacher: ...

    def human(self, column: str) -> np.ndarray:
        """A published column of recorded labels (N,)."""

    def imported(self, path: str, sha256: str | None) -> NoisyLabels:
        """The labels of a file, with clean ones (N,), -1 where unknown; what the file does not
        label is left out.
        """

    def other(self, dataset: str) -> tuple[dict[str, Any], int]:
        """Another data set: what a manifest says of it, its name as "source", and how many training
        images it has.
        """

    def review(self, path: str, sha256: str | None, recorded: np.ndarray) -> Review:
        """A reviewed list of doubts about recorded labels (N,)."""


@dataclass(frozen=True)
class Examples:
    """What noise may look at: the clean labels (N,), and what lies outside. seed: of everything
    random; exact counts are so in each of the `parts` (N,), if there are any.
    """

    labels: np.ndarray
    num_classes: int
    seed: int
    sources: NoiseInputs
    classes: tuple[str, ...] = ()
    parts: np.ndarray | None = None


@dataclass(frozen=True)
class NoisyLabels:
    """Recorded labels (N,) and what is known of them; `clean` where they come with their own, -1
    unknown.

    source (N,): the image of another data set, -1 where the example keeps its own. nominal_rate: as
    its author writes it. dropped (N,): what is not to be trained on. left_out (N,): what of this is
    not even held out for validation, since nobody labelled it.
    """

    labels: np.ndarray
    nominal_rate: float | None = None
    transition: np.ndarray | None = None
    clean: np.ndarray | None = None
    source: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    dropped: np.ndarray | None = None
    left_out: np.ndarray | None = None


@dataclass(frozen=True)
class Review:
    """What somebody made of a list of label issues: which examples (m,) are on it still, the label
    that each is to have, None where it suggests none, and sentences on how the list was read.
    """

    examples: np.ndarray
    suggested: np.ndarray | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassNoise:
    """Noise that knows the clean class alone: the transition T (K, K), rows = clean class, and how
    counts are drawn.
    """

    text: str
    transition: np.ndarray
    # as its author writes it; the overall share of wrong labels is another number
    rate: float | None
    exact: bool
    exact_over: str
    version: str

    def draw(self, labels: np.ndarray, seed: Seed, parts: np.ndarray | None = None) -> np.ndarray:
        """Recorded labels (N,) for clean ones (N,)."""
        return sample(
            labels,
            self.transition,
            seed,
            exact=self.exact,
            exact_over=self.exact_over,
            rate=self.rate or 0.0,
            parts=parts,
        )


def normal_noise(text: str | Expression) -> Call:
    """The one form of a noise text, in the language or in the short notation of tables; raises
    LanguageError for a sum.
    """
    call = NOISES.normal(parse_noise(text) if isinstance(text, str) else text)
    if not isinstance(call, Call):
        raise LanguageError(f"noise is one model, not a sum: {call}")
    return call


def parse_noise(text: str) -> Expression:
    """A noise text as it is written, in the language or in the short notation; its values are not
    checked. Raises LanguageError, and UnknownName for an unknown word of the short notation.
    """
    words = [] if set(text) & set("()=,*+'\"") else text.split()
    return _call_of_words(words) if words else parse(text)


def _call_of_words(words: list[str]) -> Call:
    """`sym 0.4`, `asym 0.3 cifar10-two-way`, `open 0.2 cifar100 sym 0.1`: the noise's short name,
    then a word for each value, as tables name a noise. Raises UnknownName, and LanguageError for a
    word that means nothing there.
    """
    known = {
        name: entry
        for entry in NOISES
        for name in (entry.name, entry.facts.get("short", entry.name))
    }
    if "pdn" in known:
        known["idn"] = known["pdn"]  # as the option --idn
    if words[0] not in known:
        raise UnknownName("noise", words[0], known, "noises")
    entry = known[words[0]]
    values: dict[str, Value] = {}
    for number, word in enumerate(words[1:], 1):
        if word in known and any(p.is_expression for p in entry.parameters):
            return Call(entry.name, (_call_of_words(words[number:]),), tuple(values.items()))
        values.update([_value_of_word(entry, word, values)])
    return Call(entry.name, kwargs=tuple(values.items()))


def _value_of_word(entry: Entry, word: str, values: dict[str, Value]) -> tuple[str, Value]:
    """Which parameter a word of the short notation sets, and to what. Raises LanguageError where it
    sets none that is not set yet.
    """
    left = [p for p in entry.parameters if p.name not in values and not p.is_expression]
    for p in left:
        if p.type is bool and word == (
            "bernoulli" if p.name == "exact" else p.name.replace("_", "")
        ):
            return p.name, not p.default
        prefix = "" if p.name == "rate" else p.name
        if (
            p.type in (int, float)
            and word.startswith(prefix)
            and (number := _number(word.removeprefix(prefix))) is not None
        ):
            return p.name, number
        if isinstance(p.allowed, OneOf) and word in p.allowed:
            return p.name, word
    if plain := next(
        (p for p in left if p.type is str and p.allowed is None and p.name != "sha256"), None
    ):
        return plain.name, word
    raise LanguageError(f"{entry.name}: {word!r} is no value of {entry.signature}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def takes(entry: Entry, given: str) -> bool:
    """Whether a model is given this by the code."""
    return given in inspect.signature(entry.build).parameters


def is_random(noise: str | Expression) -> bool:
    """Whether a seed has an effect, also on noise within; people's labels are what they are. Of a
    stranger's noise one assumes so.
    """
    try:
        call = normal_noise(noise)
    except (LanguageError, UnknownName):
        return True
    return bool(NOISES[call.name].facts.get("drawn", True)) or any(
        is_random(inner) for inner in call.args if isinstance(inner, Call)
    )


def is_class_conditional(call: Call) -> bool:
    """Whether a noise knows the clean class alone."""
    return not takes(NOISES[call.name], "examples")


def build_noise(
    text: str | Expression, num_classes: int, classes: tuple[str, ...] = ()
) -> ClassNoise:
    """The class-conditional noise of a text for K classes. Raises LanguageError where it is none,
    or does not fit K.
    """
    call = normal_noise(text)
    entry, values = NOISES[call.name], dict[str, Any](call.kwargs)
    if not is_class_conditional(call):
        raise LanguageError(
            f"{call.name} is no noise by class: it needs a data set (noisebench "
            "corrupt DATASET --noise ...)"
        )
    exact, over = (values.pop(name, None) for name in _COUNTING)
    names = (
        {"classes": classes or tuple(map(str, range(num_classes)))}
        if takes(entry, "classes")
        else {}
    )
    transition = entry.build(num_classes, **names, **values)
    rate = values.get("rate")
    return ClassNoise(
        str(call),
        transition,
        None if rate is None else float(rate),
        exact is not False,
        over or "class",
        entry.fingerprint,
    )


def apply(noise: Call, examples: Examples) -> NoisyLabels:
    """What a noise makes of the examples' labels; exact counts are so in each of their parts."""
    if not is_class_conditional(noise):
        return NOISES[noise.name].build(examples, *noise.args, **dict(noise.kwargs))
    model = build_noise(noise, examples.num_classes, examples.classes)
    recorded = model.draw(examples.labels, examples.seed, examples.parts)
    return NoisyLabels(
        recorded,
        _expected_rate(examples.labels, model) if model.rate is None else model.rate,
        model.transition,
    )


def _expected_rate(labels: np.ndarray, model: ClassNoise) -> float:
    """The overall share of wrong labels that a transition makes of these."""
    counts = np.bincount(labels, minlength=len(model.transition))
    return float(round(1 - float(counts @ np.diag(model.transition)) / len(labels), 12))


def transition(text: str | Expression, num_classes: int) -> np.ndarray:
    """T (K, K) of a noise text, rows = clean class."""
    return build_noise(text, num_classes).transition
