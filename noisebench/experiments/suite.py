"""Expands `benchmarks.yaml` into runs, selects runs by conditions, and computes how many images a
suite trains on. All mistakes of a file are reported at once, each with line and column. Does not
import torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..core.files.untrusted import check_nesting, read_text
from ..core.hardware import checked_precision
from ..datasets import DATASETS, split_reader
from ..datasets.images import SIDE
from ..errors import ConfigError, DataError, LanguageError, NoisebenchError, UnknownName
from ..labels.build import VAL_SPLITS, LabelRequest, check_noise, noise_for
from ..labels.subset import check_subset
from ..losses import LOSSES
from ..noise import normal_noise
from ..strategies import normal_strategy
from .backbones import NONE, canonical_backbone, check_init
from .features import check_features
from .methods import find_method
from .published import find_paper
from .recipes import (
    RECIPE_FIELDS,
    RECIPES,
    Recipe,
    find_recipe,
    make_recipe,
    option_name,
    read_schedule,
    recipe_values,
    settled,
)
from .resolve import (
    RunRequest,
    check_schedule,
    checked_budget,
    checked_seed,
    default_recipe,
    loss_and_strategy_of,
    price_of,
)
from .suite_file import (
    AXES,
    MAX_DEPTH,
    NUMERIC_AXES,
    Defaults,
    Override,
    ReportShape,
    Selector,
    Settings,
    StrictModel,
    YamlPath,
    construct,
    suite_files,
)

_MOST_RUNS = 100_000  # of a suite
_SHOWN = 100  # mistakes
_LONGEST_LINE = 300  # characters
_MOST_SELECTED = 10_000_000  # pairs of a run and a selector
_MOST_VALUES = 50_000  # of the YAML


# a single value is a list of one
Choices = Annotated[
    list[str | int],
    BeforeValidator(lambda given: [given] if isinstance(given, str | int | float) else given),
]


class Suite(StrictModel):
    """One suite of a file. takes: its runtime, measured or estimated, such as `40 s on two
    cores`.
    """

    summary: str = ""
    takes: str = ""
    defaults: Defaults = Defaults()
    matrix: dict[str, Choices]
    exclude: list[Selector] = Field(default=[])
    override: list[Override] = Field(default=[])
    report: ReportShape = ReportShape()

    @field_validator("summary", "takes")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if len(line := text.strip()) > _LONGEST_LINE or len(line.splitlines()) > 1:
            raise ValueError(f"must be one line of at most {_LONGEST_LINE} characters")
        return line

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        axes = set(self.matrix)
        if not axes:
            raise ValueError("the matrix is empty: give at least a noise and a method")
        if "method" in axes and axes & {"loss", "strategy"}:
            raise ValueError("the axis method cannot be combined with loss or strategy")
        if problem := self._too_large(len(self.defaults.seeds)):
            raise ValueError(problem)
        return self

    def _too_large(self, seeds: int) -> str:
        """The error message for this number of seeds; empty if it is valid."""
        runs = math.prod(map(len, self.matrix.values())) * seeds
        selectors = len(self.exclude) + len(self.override)
        most = min(_MOST_RUNS, _MOST_SELECTED // max(selectors, 1))
        if runs <= most:
            return ""
        return f"the suite has {runs} runs, more than {most}: split it into several suites"

    def with_defaults(self, seeds: int | None = None, **settings: Any) -> Suite:
        """The suite with this number of seeds, starting at 0, and other defaults; None: unchanged.

        Raises ConfigError if an axis or an override sets the value, or for too many seeds.
        """
        if seeds is not None and (problem := self._too_large(seeds)):
            raise ConfigError(f"--seeds {seeds}: {problem}")
        settings["seeds"] = None if seeds is None else list(range(seeds))
        given = {name: value for name, value in settings.items() if value is not None}
        set_by_run = {*self.matrix, *(name for o in self.override for name in o.set.given())}
        for name, value in given.items():
            if name in set_by_run:
                option = "init-weights" if name == "init" else option_name(name).replace("_", "-")
                raise ConfigError(
                    f"--{option} {value}: the suite sets {name} in its matrix or an override; "
                    "change it in the suite's file"
                )
            if name != "dataset":  # it may be any image folder
                _check_value(name, value)
        return self.model_copy(update={"defaults": self.defaults.model_copy(update=given)})


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite: its settings and its seeds."""

    settings: dict[str, Any]
    seed: int
    noise_seed: int
    budget: str = "epochs"


def find_suite(name: str, root: Path) -> tuple[str, Suite]:
    """A suite's name and the suite, by its name, by `FILE` with one suite, or by `FILE:NAME`.
    Raises ConfigError or UnknownName.
    """
    file, _, suite_name = (
        name.rpartition(":") if ":" in name and not Path(name).exists() else (name, "", "")
    )
    if file.endswith((".yaml", ".yml")):
        suites = read_suites(Path(file))
        if not suites:
            raise ConfigError(f"{file} contains no suite")
        if not suite_name and len(suites) > 1:
            raise ConfigError(
                f"{file} contains {len(suites)} suites: give one, as {file}:{next(iter(suites))}"
            )
        name = suite_name or next(iter(suites))
    else:
        suites = {}
        for path in reversed(suite_files(root)):
            suites.update(read_suites(path))
    if name not in suites:
        raise UnknownName("suite", name, suites, "suites")
    return name, suites[name]


def read_suites(path: Path) -> dict[str, Suite]:
    """All suites of a file. Raises ConfigError with every mistake, one per line, as
    `file:line:column: problem`.
    """
    marks: dict[YamlPath, tuple[int, int]] = {}
    mistakes: list[tuple[int, int, str]] = []
    try:
        text = read_text(path)
        check_nesting(text, MAX_DEPTH, _MOST_VALUES)
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    data = construct(node, (), marks, mistakes) if node is not None else None
    suites: dict[str, Suite] = {}
    for path_there, problem in _validate(data, suites):
        # a missing key has no mark: use its parent's
        known = (path_there[:length] for length in range(len(path_there), -1, -1))
        line, column = next((marks[at] for at in known if at in marks), (1, 1))
        mistakes.append((line, column, problem))
    if mistakes:
        lines = [f"{path}:{line}:{column}: {what}" for line, column, what in sorted(set(mistakes))]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"{path}: {len(lines) - _SHOWN} more mistakes"]
        raise ConfigError(*lines)
    return suites


def _validate(data: Any, suites: dict[str, Suite]) -> Iterator[tuple[YamlPath, str]]:
    """Fills `suites`; yields every mistake with its path."""
    data = data if isinstance(data, dict) else {}
    unknown = set(data) - {"version", "suites"}
    for key in unknown:
        yield (key,), f"unknown key {key!r}: the keys of a suite file are version and suites"
    if unknown:
        return
    if data.get("version") != 1 or not isinstance(data.get("suites"), dict):
        yield (), "a suite file needs `version: 1` and `suites:`"
        return
    for name, content in data["suites"].items():
        try:
            suites[name] = Suite.model_validate(content)
        except ValidationError as error:
            for problem in error.errors():
                key, what = problem["loc"], str(problem["msg"]).removeprefix("Value error, ")
                if problem["type"] == "extra_forbidden":
                    near = get_close_matches(str(key[-1]).replace("-", "_"), _KEYS, n=1)
                    what = f"unknown key{f': did you mean {near[0]!r}?' if near else ''}"
                yield ("suites", name, *key), f"{'.'.join(map(str, key)) or name}: {what}"
            continue
        for at, what in list(_wrong_types(suites[name])) or _wrong_names(suites[name]):
            yield ("suites", name, *at), what


def _wrong_types(suite: Suite) -> Iterator[tuple[YamlPath, str]]:
    """Yields choices of an axis that are numbers instead of texts, or texts instead of numbers."""
    for axis, choices in suite.matrix.items():
        for number, choice in enumerate(choices):
            if isinstance(choice, int) != (axis in NUMERIC_AXES) and axis in AXES:
                kind = "integer" if axis in NUMERIC_AXES else "string"
                at = ("matrix", axis, number)
                yield at, f"matrix.{axis}.{number}: Input should be a valid {kind}"


_KEYS = [
    str(
        field.validation_alias.choices[0]
        if isinstance(field.validation_alias, AliasChoices)
        else name
    )
    for model in (Suite, Defaults, Override, ReportShape)
    for name, field in model.model_fields.items()
]


def _check_suspects(name: str) -> None:
    path = PurePath(name)
    is_outside = path.is_absolute() or path.drive or ".." in path.parts or "\\" in name
    if is_outside or path.suffix != ".csv":
        raise ConfigError(f"suspects must be a .csv inside the workspace, got {name!r}")


_CHECKS: dict[str, Callable[[Any], object]] = {
    "noise": normal_noise,
    "method": find_method,
    "loss": LOSSES.normal,
    "strategy": normal_strategy,
    "model": canonical_backbone,
    "recipe": find_recipe,
    "init": check_init,
    "features": check_features,
    "feature_weights": check_init,
    "schedule": read_schedule,
    "fit": lambda fit: Recipe(1, fit=fit),
    "val_fraction": lambda fraction: LabelRequest("", val_fraction=fraction),
    "val_split": lambda when: LabelRequest("", val_split=when),
    "trusted": lambda share: LabelRequest("", trusted=share),
    "subset": lambda count: LabelRequest("", subset=count),
    "precision": checked_precision,
    "budget": checked_budget,
    "seeds": lambda seeds: [checked_seed(seed) for seed in seeds],
    "noise_seed": checked_seed,
    "published": find_paper,
    "suspects": _check_suspects,
}


def _check_value(axis: str, value: Any) -> None:
    by_path = axis == "dataset" and (
        "/" in value or value.endswith(".npz") or split_reader(value)[0] or Path(value).is_dir()
    )
    if axis == "dataset" and value not in DATASETS and not by_path:
        raise UnknownName("dataset", value, DATASETS, "datasets")
    if axis in _CHECKS:
        _CHECKS[axis](value)


def _wrong_names(suite: Suite) -> Iterator[tuple[YamlPath, str]]:
    """Yields unknown names, unknown axes, and selectors that match no run."""
    for axis, choices in suite.matrix.items():
        if axis not in AXES:
            yield ("matrix", axis), f"unknown axis {axis!r}; the axes are {', '.join(AXES)}"
        elif not choices:
            yield ("matrix", axis), f"axis {axis} is empty"
    report = suite.report.model_dump(include={"published", "suspects"}, exclude_none=True)
    values: list[tuple[YamlPath, str, Any]] = [
        *((("defaults", key), key, value) for key, value in suite.defaults.given().items()),
        *(
            (("matrix", axis, number), axis, value)
            for axis, choices in suite.matrix.items()
            for number, value in enumerate(choices)
        ),
        *(
            (("override", number, "set", key), key, value)
            for number, override in enumerate(suite.override)
            for key, value in override.set.given().items()
        ),
        *((("report", key), key, value) for key, value in report.items()),
    ]
    for at, key, value in values:
        try:
            _check_value(key, value)
        except NoisebenchError as error:
            yield at, str(error)
    cells = list(_cells(suite))
    yield from _wrong_together(suite, cells)
    for where, selectors in (
        ("exclude", suite.exclude),
        ("override", [override.match for override in suite.override]),
    ):
        for number, selector in enumerate(selectors):
            if not any(_matches(cell, selector) for cell in cells):
                yield (where, number), f"{where} matches no run: {selector}"


def _wrong_together(suite: Suite, cells: list[dict[str, Any]]) -> Iterator[tuple[YamlPath, str]]:
    """Yields settings that are valid alone but not in combination, such as a noise that the data
    set does not support.
    """
    messages: dict[str, YamlPath] = {}
    noises: set[tuple[str, str]] = set()  # checked pairs (data set, noise)
    for cell in cells:
        if cell["seed"] != suite.defaults.seeds[0]:
            continue
        try:
            _check_cell(cell, suite.defaults.budget, noises)
        except (UnknownName, LanguageError, DataError) as error:
            # wrong names were reported before, at their position
            at: YamlPath = ("matrix", "noise") if "noise" in suite.matrix else ("defaults", "noise")
            with suppress(NoisebenchError):
                normal_noise(cell["noise"])
                messages.setdefault(str(error), at)
        except ConfigError as error:
            messages.setdefault(str(error), ("defaults",))
    yield from ((at, message) for message, at in messages.items())


def _check_cell(cell: dict[str, Any], budget: str, noises: set[tuple[str, str]]) -> None:
    if not cell.get("noise"):
        raise ConfigError("the runs have no noise: add it to defaults or the matrix")
    if "method" in cell and ("loss" in cell or "strategy" in cell):
        raise ConfigError(
            "a method includes a loss and a strategy: give a method, or a loss and a strategy"
        )
    dataset = DATASETS.get(cell.get("dataset", ""))
    if dataset is None:
        return  # a data set by path or by `run --dataset`, or a wrong name, reported before
    if cell.get("val_split") and not cell.get("val_fraction"):
        raise ConfigError("val_split has no effect without val_fraction")
    check_subset(cell.get("subset") or 0, dataset.name, dataset.n_train)
    features = _on_features(cell)
    if cell.get("feature_weights") and not features:
        raise ConfigError("feature_weights has no effect without features")
    changes = recipe_values(cell)
    if features and not changes.get("size"):
        changes["size"] = SIDE  # until the network is known
    name, augment = default_recipe(dataset, features=features)
    if (name := cell.get("recipe") or name) in RECIPES:
        recipe = make_recipe(name, dataset.name, augment=augment, changes=changes)
        settled(recipe, dataset, features=features)
        if budget == "compute":
            check_schedule(recipe)
    if (pair := (dataset.name, cell["noise"])) not in noises:
        noises.add(pair)
        check_noise(dataset, cell["noise"])


def _on_features(settings: dict[str, Any]) -> bool:
    return (settings.get("features") or NONE) != NONE


def _cells(suite: Suite) -> Iterator[dict[str, Any]]:
    """The settings of every cell of the matrix with each seed, before `exclude` and `override`."""
    defaults = suite.defaults
    shared = {key: value for key, value in defaults.given().items() if key in Settings.model_fields}
    for choice in itertools.product(*suite.matrix.values()):
        cell = {**shared, **dict(zip(suite.matrix, choice, strict=True))}
        for seed in defaults.seeds:
            noise_seed = seed if defaults.noise_seed is None else defaults.noise_seed
            yield {**cell, "seed": seed, "noise_seed": noise_seed}


# a recipe setting's name in suites -> its field
_FIELD_OF = {option_name(name): name for name in RECIPE_FIELDS}


def _matches(run: dict[str, Any], selector: Selector) -> bool:
    """Whether a run has one of the selector's values for each key, compared by meaning, as in
    --filter.
    """
    for key, value in selector.items():
        name, dataset = _FIELD_OF.get(key, key), run.get("dataset")
        choices = value if isinstance(value, list) else [value, *str(value).split(_OR)]
        meanings = {_meaning(name, str(choice).strip(), dataset) for choice in choices}
        setting = run.get(name)
        if setting not in choices and _meaning(name, str(setting), dataset) not in meanings:
            return False
    return True


@cache
def _meaning(key: str, text: str, dataset: str | None) -> str:
    """The canonical text of a setting's value; for a noise on a known data set, with its default
    map.
    """
    if key == "noise" and dataset in DATASETS:
        with suppress(NoisebenchError):
            return str(noise_for(DATASETS[dataset], text))
    return normal_value(key, text)


def expand(suite: Suite) -> list[SuiteRun]:
    """Every run of a suite, cell by cell, seed by seed."""
    runs = []
    for cell in _cells(suite):
        if any(_matches(cell, selector) for selector in suite.exclude):
            continue
        settings = cell
        for override in suite.override:
            if _matches(settings, override.match):
                settings = {**settings, **override.set.given()}
        seed, noise_seed = settings.pop("seed"), settings.pop("noise_seed")
        runs.append(SuiteRun(settings, seed, noise_seed, suite.defaults.budget))
    return runs


def request_of(run: SuiteRun, device: str = "auto") -> RunRequest:
    """The request for a suite's run."""
    names = ("method", "loss", "strategy", "model", "recipe")
    return RunRequest(
        **{name: run.settings.get(name) for name in names},
        changes=recipe_values(run.settings),
        seed=run.seed,
        precision=run.settings.get("precision") or "auto",
        device=device,
        budget=run.budget,
    )


def label_request_of(run: SuiteRun) -> LabelRequest:
    """The request for the labels of a suite's run."""
    settings = run.settings
    return LabelRequest(
        settings["noise"],
        run.noise_seed,
        float(settings.get("val_fraction") or 0.0),
        settings.get("val_split") or VAL_SPLITS[0],
        None,
        settings.get("trusted") or 0.0,
        settings.get("subset"),
    )


def images_of(suite: Suite) -> int | None:
    """The number of training images of all runs of a suite, weighted by their cost relative to CE.

    Includes validation splits. None if a data set is only known once it is read, or a strategy has
    no registered cost.
    """
    price = cache(price_of)  # equal for runs of the same method
    counts = []
    for run in expand(suite.with_defaults(seeds=1)):  # equal for every seed
        settings = run.settings
        dataset = DATASETS.get(settings.get("dataset", ""))
        if dataset is None:
            return None
        noise = str(normal_noise(settings["noise"]))
        try:
            cost = price(*loss_and_strategy_of(request_of(run), dataset, noise))
        except ConfigError:  # of a plugin's strategy
            return None
        name, augment = default_recipe(dataset, features=_on_features(settings))
        recipe = make_recipe(
            settings.get("recipe") or name,
            dataset.name,
            augment=augment,
            changes=recipe_values(run.settings),
        )
        epochs = cost.epochs(recipe.epochs) if run.budget == "compute" else recipe.epochs
        counts.append((settings.get("subset") or dataset.n_train) * cost.work(epochs))
    return round(len(suite.defaults.seeds) * math.fsum(counts))


_OR = "|"  # separates the values of a condition; no value contains it

T = TypeVar("T")
Names = tuple[str, ...]

_NORMAL: dict[str, Callable[[str], object]] = {
    "model": canonical_backbone,
    "noise": normal_noise,
    "loss": LOSSES.canonical,
    "strategy": normal_strategy,
    **dict.fromkeys(("subset", "epochs", "seed", "noise_seed"), int),
}


def select_matching(
    things: Iterable[T],
    conditions: Iterable[str],
    axes: Sequence[str],
    names_of: Callable[[T, str], Names],
) -> list[T]:
    """The things that match every condition, in their order. Values are compared by meaning, not by
    spelling; `seed=0|1` gives two values.

    names_of: the names of a thing's value on an axis, the listed one first. Raises ConfigError for
    a malformed condition, or a value that no thing has.
    """
    left = list(things)
    for condition in conditions:
        axis, equals, value = condition.partition("=")
        if not equals or axis not in axes:
            raise ConfigError(
                f"--filter must be axis=value with axis one of {', '.join(axes)}; got {condition!r}"
            )
        names = [names_of(thing, axis) for thing in left]
        values = [value]
        if not any(value in known for known in names):
            values = [part.strip() for part in value.split(_OR)]
        if "" in values and len(values) > 1:
            raise ConfigError(f"--filter {condition}: a value next to {_OR} is empty")
        selected: set[Names] = set()
        for text in values:
            meanings = {text, normal_value(axis, text)}
            matching = {known for known in names if meanings & set(known)}
            if names and not matching:
                of = f" {text}" if len(values) > 1 else ""
                # quotes distinguish a name with a comma from two names
                listed = ", ".join(
                    f'"{name}"' if "," in name else name for name in sorted({n[0] for n in names})
                )
                raise ConfigError(
                    f"--filter {condition}: no run matches{of}; {axis} is one of {listed}"
                )
            selected |= matching
        left = [thing for thing, known in zip(left, names, strict=True) if known in selected]
    return left


def normal_value(axis: str, value: str) -> str:
    """The canonical text of a value of an axis; the value itself if it has none or is invalid."""
    try:
        return str(_NORMAL[axis](value)) if axis in _NORMAL else value
    except (NoisebenchError, ValueError):
        return value
