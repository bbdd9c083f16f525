"""The registry of noise models; noise texts are parsed and turned into transition matrices here.

A model is a function. If its first parameter is `num_classes` (optionally followed by `classes`,
their names), it is class-conditional and returns T (K, K). If its first parameter is `examples`, it
depends on each example and returns `NoisyLabels`. These parameters are supplied by the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np

from ..core.expressions import Call, Expression, Value, parse
from ..core.parameters import OneOf
from ..core.progress import ProgressCallback
from ..core.registry import Entry, F, Registry
from ..errors import LanguageError, UnknownName
from ..metrics.predictions import Teaching
from .sampling import Seed, sample

FILES = ("file", "predictions", "suspects")  # parameters whose value is a file
NOISES = Registry("noise", "noises", injected=("num_classes", "classes", "examples"))


@overload
def register_noise(build: F) -> F: ...
@overload
def register_noise(*, name: str = "", **facts: Any) -> Callable[[F], F]: ...
def register_noise(build: Any = None, *, name: str = "", **facts: Any) -> Any:
    """Decorator that registers a function as a noise, usable by its name in `--noise`, in suites
    and in `noisebench.corrupt`.

    A function of `num_classes` (and optionally `classes`, their names) is class-conditional noise:
    it returns the transition matrix T (K, K), row = true class, column = noisy label. A function of
    `examples`, an `Examples` with the true labels (N,), is noise that depends on each example: it
    returns `NoisyLabels`. All other parameters are set in the noise text.

        @register_noise(overall="rate", paper="Author Year")
        def to_first(num_classes: int, rate: float) -> np.ndarray:
            '''Each label becomes class 0 with probability rate.'''
            T = (1 - rate) * np.eye(num_classes)
            T[:, 0] += rate
            return T

    Keywords:

    * `name`: default the function's; `aliases`; `paper`.
    * `version`: to be raised when results change.
    * `overall`: the overall share of incorrect labels, in words; `short`: the name in tables.
    * `option`: a `NoiseOption`, its short option on the command line.
    * `fill_defaults`: a function from the given parameters to all of them.

    Returns the function unchanged. Raises LanguageError for a name that exists or is not letters,
    digits and _.
    """
    return NOISES.register(build, name=name, **facts)


@dataclass(frozen=True)
class NoiseOption:
    """The short option of a noise on the command line: `--sym 0.4` is `symmetric(rate=0.4)`.

    parameter: the parameter that the option's value sets; default `rate`.
    """

    flag: str
    metavar: str
    help: str
    parameter: str = "rate"


def noise_options() -> dict[str, Entry]:
    """Noises that have a short option, by its name: `{"sym": <symmetric>, ...}`."""
    return {entry.facts["option"].flag[2:]: entry for entry in NOISES if "option" in entry.facts}


def noise_of_option(name: str, value: Value, **parameters: Value) -> str:
    """The noise text of a short option: `("sym", 0.4, inclusive=True)` ->
    `symmetric(rate=0.4, inclusive=True)`. Parameters that are None are omitted.
    """
    entry = noise_options()[name]
    given = ((key, value) for key, value in parameters.items() if value is not None)
    return str(Call(entry.name, kwargs=((entry.facts["option"].parameter, value), *given)))


class NoiseInputs(Protocol):
    """Inputs of a noise other than the true labels: the images, a teacher's predictions, label
    files. `tell` receives the progress.
    """

    @property
    def tell(self) -> ProgressCallback: ...

    def images(self) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function from examples (n,) to their images (n, H, W, C), uint8."""

    def images_sha256(self) -> str:
        """The fingerprint of all images."""

    def teacher(self, path: str, sha256: str | None) -> Teaching: ...

    def human(self, column: str) -> np.ndarray:
        """A published column of given labels (N,)."""

    def imported(self, path: str, sha256: str | None) -> NoisyLabels:
        """The labels of a file, with true labels (N,), -1 where unknown; examples without a label
        are excluded.
        """

    def other(self, dataset: str) -> tuple[dict[str, Any], int]:
        """Another data set: its facts for a manifest, with its name as "source", and its number of
        training images.
        """

    def review(self, path: str, sha256: str | None, given: np.ndarray) -> Review:
        """A reviewed list of label issues for the given labels (N,)."""


@dataclass(frozen=True)
class Examples:
    """The input of a noise: the true labels (N,), a seed, and further inputs (`sources`). With
    `parts` (N,), exact counts are exact within each part.
    """

    labels: np.ndarray
    num_classes: int
    seed: int
    sources: NoiseInputs
    classes: tuple[str, ...] = ()
    parts: np.ndarray | None = None


@dataclass(frozen=True)
class NoisyLabels:
    """Noisy labels (N,) with what is known about them.

    nominal_rate: the rate as typed. transition: T (K, K), if the noise is class-conditional. clean
    (N,): true labels that come with the noisy ones, -1 where unknown. source (N,): index of the
    image of another data set, -1 where the example keeps its own. facts: further keys of the
    manifest's header. dropped (N,): excluded from training. left_out (N,): dropped examples without
    a label, which are excluded from the validation split too.
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
    """A reviewed list of label issues: its examples (m,), the predicted label of each (None if the
    list has none), notes on how the list was read, and the decision about each (m,), `keep`,
    `drop`, `relabel` or `undecided` (None if the list has none).
    """

    examples: np.ndarray
    suggested: np.ndarray | None
    notes: tuple[str, ...] = ()
    decisions: np.ndarray | None = None


@dataclass(frozen=True)
class ClassNoise:
    """Class-conditional noise: the transition matrix T (K, K), rows = true class, and how counts
    are sampled.
    """

    transition: np.ndarray
    # as typed; the overall share of incorrect labels can differ
    rate: float | None
    exact: bool
    exact_over: str

    def sample(self, labels: np.ndarray, seed: Seed, parts: np.ndarray | None = None) -> np.ndarray:
        """Noisy labels (N,) for true labels (N,)."""
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
    """The canonical form of a noise text, given in the language or in the short notation of tables.
    Raises LanguageError for a sum.
    """
    call = NOISES.normal(parse_noise(text) if isinstance(text, str) else text)
    if not isinstance(call, Call):
        raise LanguageError(f"a noise must be a single model, not a sum: {call}")
    return call


def parse_noise(text: str) -> Expression:
    """Parses a noise text in the language or in the short notation, without checking its values.
    Raises LanguageError, and UnknownName for an unknown word of the short notation.
    """
    words = [] if set(text) & set("()=,*+'\"") else text.split()
    return _parse_words(words) if words else parse(text)


def _parse_words(words: list[str]) -> Call:
    """Parses the short notation of tables, `sym 0.4`, `asym 0.3 cifar10-two-way`,
    `open 0.2 cifar100 sym 0.1`: the noise's short name, then a word for each value. Raises
    UnknownName, and LanguageError for a word that is not a value.
    """
    known = {
        name: entry
        for entry in NOISES
        for name in (entry.name, entry.facts.get("short", entry.name))
    }
    if "pdn" in known:
        known["idn"] = known["pdn"]  # like the option --idn
    if words[0] not in known:
        raise UnknownName("noise", words[0], known, "noises")
    entry = known[words[0]]
    values: dict[str, Value] = {}
    for number, word in enumerate(words[1:], 1):
        if word in known and any(p.is_expression for p in entry.parameters):
            return Call(entry.name, (_parse_words(words[number:]),), tuple(values.items()))
        name, value = _parse_word(entry, word, values)
        values[name] = value
    return Call(entry.name, kwargs=tuple(values.items()))


def _parse_word(entry: Entry, word: str, values: dict[str, Value]) -> tuple[str, Value]:
    """The parameter that a word of the short notation sets, and its value. Raises LanguageError if
    it matches no parameter that is still unset.
    """
    left = [p for p in entry.parameters if p.name not in values and not p.is_expression]
    for p in left:
        switch = "bernoulli" if p.name == "exact" else p.name.replace("_", "")
        if p.type is bool and word == switch:
            return p.name, not p.default
        prefix = "" if p.name == "rate" else p.name
        if p.type in (int, float) and word.startswith(prefix):
            with suppress(ValueError):
                return p.name, float(word.removeprefix(prefix))
        if isinstance(p.allowed, OneOf) and word in p.allowed:
            return p.name, word
    for p in left:
        if p.type is str and p.allowed is None and p.name != "sha256":
            return p.name, word
    raise LanguageError(
        f"{entry.name}: {word!r} is not a value of a parameter of {entry.signature}"
    )


def takes(entry: Entry, given: str) -> bool:
    """Whether a model has an injected parameter of this name."""
    return given in inspect.signature(entry.build).parameters


def is_random(noise: str | Expression) -> bool:
    """Whether the seed has an effect on the noise or an inner noise; it has none on labels that are
    used unchanged. True for an unknown noise.
    """
    try:
        call = normal_noise(noise)
    except (LanguageError, UnknownName):
        return True
    return bool(NOISES[call.name].facts.get("drawn", True)) or any(
        is_random(inner) for inner in call.args if isinstance(inner, Call)
    )


def is_class_conditional(call: Call) -> bool:
    """Whether a noise depends on the true class only."""
    return not takes(NOISES[call.name], "examples")


def build_noise(
    text: str | Expression, num_classes: int, classes: tuple[str, ...] = ()
) -> ClassNoise:
    """The class-conditional noise of a text for K classes. Raises LanguageError if the noise is not
    class-conditional, or does not fit K.
    """
    call = normal_noise(text)
    entry, values = NOISES[call.name], dict[str, Any](call.kwargs)
    if not is_class_conditional(call):
        raise LanguageError(
            f"{call.name} is not class-conditional, so it needs a data set: use noisebench "
            "corrupt DATASET --noise ..."
        )
    # parameters of the sampling, not of the model
    exact, over = values.pop("exact", None), values.pop("exact_over", None)
    if takes(entry, "classes"):
        values["classes"] = classes or tuple(map(str, range(num_classes)))
    transition = entry.build(num_classes, **values)
    rate = values.get("rate")
    return ClassNoise(
        transition, None if rate is None else float(rate), exact is not False, over or "class"
    )


def apply(noise: Call, examples: Examples) -> NoisyLabels:
    """Applies a noise to the examples; exact counts are exact within each of their parts."""
    if not is_class_conditional(noise):
        return NOISES[noise.name].build(examples, *noise.args, **dict(noise.kwargs))
    model = build_noise(noise, examples.num_classes, examples.classes)
    labels = model.sample(examples.labels, examples.seed, examples.parts)
    rate = model.rate
    if rate is None:  # the expected share of incorrect labels
        counts = np.bincount(examples.labels, minlength=len(model.transition))
        correct = float(counts @ np.diag(model.transition)) / len(labels)
        rate = float(round(1 - correct, 12))
    return NoisyLabels(labels, rate, model.transition)


def transition(text: str | Expression, num_classes: int) -> np.ndarray:
    """Returns the transition matrix T (K, K) of a class-conditional noise: T[i, j] is the
    probability that an example of class i gets label j; rows sum to 1.

        nb.transition("asymmetric(rate=0.4, map='cifar10')", 10)

    text: a noise text or its short notation (`sym 0.4`). Raises LanguageError for a noise that is
    not class-conditional or does not fit `num_classes`, and UnknownName for an unknown noise.
    """
    return build_noise(text, num_classes).transition
