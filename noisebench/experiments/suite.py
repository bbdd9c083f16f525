"""Selects runs by `axis=value`, finished ones and those of a suite.

`benchmarks.yaml` -> runs. All mistakes of a file are reported at once, each with line and
column.


How much a suite trains, before any of it is planned. Loads no torch.

"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml
from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator

from ..core.files.untrusted import read_text
from ..core.hardware import checked_precision
from ..datasets import DATASETS, split_reader
from ..errors import ConfigError, DataError, LanguageError, NoisebenchError, UnknownName
from ..labels.build import VAL_SPLITS, LabelRequest, check_noise, noise_for
from ..labels.subset import check_subset
from ..losses import LOSSES
from ..noise import normal_noise
from ..strategies import normal_strategy
from .backbones import canonical_backbone, check_init
from .methods import find_method
from .published import find_paper
from .recipes import (
    RECIPE_FIELDS,
    RECIPES,
    check_fit,
    find_recipe,
    make_recipe,
    option_name,
    read_schedule,
    recipe_values,
    settled,
)
from .resolve import (
    RelativeCost,
    RunRequest,
    check_schedule,
    checked_budget,
    checked_seed,
    loss_and_strategy_of,
    price_of,
)
from .suite_file import (
    Defaults,
    Override,
    ReportShape,
    Scalar,
    Selector,
    Settings,
    StrictModel,
    YamlPath,
    compose,
    construct,
    mark_of,
)

_OR = "|"  # between several values of one condition; none holds it

T = TypeVar("T")
Names = tuple[str, ...]


def _number(text: str) -> str:
    return str(int(text))


_NORMAL: dict[str, Callable[[str], object]] = {
    "model": canonical_backbone,
    "noise": normal_noise,
    "loss": LOSSES.canonical,
    "strategy": normal_strategy,
    **dict.fromkeys(("subset", "epochs", "seed", "noise_seed"), _number),
}


def select_matching(
    things: Iterable[T],
    conditions: Iterable[str],
    axes: Sequence[str],
    called: Callable[[T, str], Names],
) -> list[T]:
    """The things that meet every condition, in their order. Values are compared by meaning, not by
    spelling; `seed=0|1` are two.

    called: the names of a thing's value on an axis, first the one that is listed. Raises
    ConfigError for another form, or a value that no thing has.
    """
    left = list(things)
    for condition in conditions:
        axis, equals, value = condition.partition("=")
        if not equals or axis not in axes:
            raise ConfigError(
                f"--filter is axis=value with axis one of {', '.join(axes)}; got {condition!r}"
            )
        names = [called(thing, axis) for thing in left]
        selected = _selected(condition, axis, value, set(names))
        left = [thing for thing, own in zip(left, names, strict=True) if own in selected]
    return left


def _selected(condition: str, axis: str, value: str, known: set[Names]) -> set[Names]:
    """The names that one of the values means. Raises ConfigError where a value means none."""
    values = [value]
    if not any(value in names for names in known):
        values = [part.strip() for part in value.split(_OR)]
    if "" in values and len(values) > 1:
        raise ConfigError(f"--filter {condition}: a value beside {_OR} is empty")
    selected: set[Names] = set()
    for text in values:
        found = {names for names in known if {text, normal_value(axis, text)} & set(names)}
        if known and not found:
            of = f" of {text}" if len(values) > 1 else ""
            first = sorted({names[0] for names in known})
            # what holds a comma is told from two names
            listed = ", ".join(f'"{name}"' if "," in name else name for name in first)
            raise ConfigError(
                f"--filter {condition}: no run is left{of}; {axis} is one of {listed}"
            )
        selected |= found
    return selected


def normal_value(axis: str, value: str) -> str:
    """The canonical text of a value of an axis; itself where it has no other, or means nothing."""
    try:
        return str(_NORMAL[axis](value)) if axis in _NORMAL else value
    except (NoisebenchError, ValueError):
        return value


AXES = ("dataset", "subset", "model", "init", "recipe", "noise", "method", "loss", "strategy")
_NUMBERS = ("subset",)  # axes whose choices are whole numbers; the others' are texts
_FILE = "benchmarks.yaml"
_MOST_RUNS = 100_000  # of a suite
_SHOWN = 100  # mistakes
_LONGEST_LINE = 300  # characters
_MOST_SELECTED = 10_000_000  # runs, each held against each selector


class Suite(StrictModel):
    """One suite of a file. takes: its runtime, measured or estimated, and on what: `40 s on
    two cores`.
    """

    summary: str = ""
    takes: str = ""
    defaults: Defaults = Defaults()
    matrix: dict[str, list[str | int]]
    exclude: list[Selector] = Field(default=[])
    override: list[Override] = Field(default=[])
    report: ReportShape = ReportShape()

    @field_validator("matrix", mode="before")
    @classmethod
    def _listed(cls, matrix: Any) -> Any:
        """A single choice is a list of one."""
        single = (str, int, float)
        return (
            {axis: [each] if isinstance(each, single) else each for axis, each in matrix.items()}
            if isinstance(matrix, dict)
            else matrix
        )

    @field_validator("summary", "takes")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if len(line := text.strip()) > _LONGEST_LINE or len(line.splitlines()) > 1:
            raise ValueError(f"is one line of at most {_LONGEST_LINE} characters")
        return line

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        axes = set(self.matrix)
        if not axes:
            raise ValueError("the matrix is empty: name at least a noise and a method")
        if "method" in axes and axes & {"loss", "strategy"}:
            raise ValueError("axes are method, or loss and strategy, not both")
        if problem := self._too_large(len(self.defaults.seeds)):
            raise ValueError(problem)
        return self

    def _too_large(self, seeds: int) -> str:
        """Why so many seeds are too many; empty where they are not."""
        runs = math.prod(map(len, self.matrix.values())) * seeds
        if runs <= _MOST_RUNS and runs * (len(self.exclude) + len(self.override)) <= _MOST_SELECTED:
            return ""
        return f"the suite is too large: {runs} runs, and may have {_MOST_RUNS}; make several of it"

    def with_defaults(self, seeds: int | None = None, **settings: Any) -> Suite:
        """The suite with so many seeds, from 0 on, and other defaults; of None nothing changes.

        Raises ConfigError where an axis or an override decides instead, or for too many seeds.
        """
        if seeds is not None and (problem := self._too_large(seeds)):
            raise ConfigError(f"--seeds {seeds}: {problem}")
        numbers = None if seeds is None else list(range(seeds))
        given = {
            name: value
            for name, value in {**settings, "seeds": numbers}.items()
            if value is not None
        }
        for name, value in given.items():
            if name in self.matrix or any(
                name in override.set.given() for override in self.override
            ):
                option = "init-weights" if name == "init" else option_name(name).replace("_", "-")
                raise ConfigError(
                    f"--{option} {value}: the suite sets its {name} run by run: "
                    "change it in the suite's file"
                )
            if name != "dataset":  # which may be any folder
                _check_value(name, value)
        return self.model_copy(update={"defaults": self.defaults.model_copy(update=given)})


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite: its settings and its seeds."""

    settings: dict[str, Any]
    seed: int
    noise_seed: int
    budget: str = "epochs"

    @property
    def changes(self) -> dict[str, Any]:
        return recipe_values(self.settings)


def packaged_suites() -> Path:
    """benchmarks.yaml inside the wheel, or beside the package in a checkout."""
    inside = Path(str(files("noisebench") / _FILE))
    return inside if inside.exists() else inside.parents[1] / _FILE


def suite_files(root: Path) -> list[Path]:
    """Where suites are looked for: the workspace first, then what came with the package."""
    return [path for path in (root / _FILE, packaged_suites()) if path.exists()]


def find_suite(name: str, root: Path) -> tuple[str, Suite]:
    """A suite by name, `FILE` with one suite, or `FILE:NAME`. Raises ConfigError or UnknownName."""
    file, _, suite_name = (
        name.rpartition(":") if ":" in name and not Path(name).exists() else (name, "", "")
    )
    if file.endswith((".yaml", ".yml")):
        suites = read_suites(Path(file))
        if not suites:
            raise ConfigError(f"{file} holds no suite")
        if not suite_name and len(suites) > 1:
            raise ConfigError(
                f"{file} holds {len(suites)} suites: write {file}:{next(iter(suites))}"
            )
        return _pick(suites, suite_name or next(iter(suites)))
    known: dict[str, Suite] = {}
    for path in reversed(suite_files(root)):
        known.update(read_suites(path))
    return _pick(known, name)


def _pick(suites: dict[str, Suite], name: str) -> tuple[str, Suite]:
    if name not in suites:
        raise UnknownName("suite", name, suites, "suites")
    return name, suites[name]


def read_suites(path: Path) -> dict[str, Suite]:
    """All suites of a file. Raises ConfigError with every mistake, one a line, as
    `file:line:column: what`.
    """
    places: dict[tuple[str | int, ...], tuple[int, int]] = {}
    mistakes: list[tuple[int, int, str]] = []
    try:
        node = compose(read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}{mark_of(error)}: not YAML: "
            f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    data = construct(node, (), places, mistakes) if node is not None else None
    suites = _validate(data, places, mistakes)
    if mistakes:
        lines = [f"{path}:{line}:{column}: {what}" for line, column, what in sorted(set(mistakes))]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"{path}: {len(lines) - _SHOWN} mistakes more"]
        raise ConfigError(*lines)
    return suites


def _validate(
    data: Any, places: dict[YamlPath, tuple[int, int]], mistakes: list[tuple[int, int, str]]
) -> dict[str, Suite]:
    def blame(at: YamlPath, what: str) -> None:
        while at and at not in places:
            at = at[:-1]
        mistakes.append((*places.get(at, (1, 1)), what))

    if (
        not isinstance(data, dict)
        or set(data) - {"version", "suites"}
        or data.get("version") != 1
        or not isinstance(data.get("suites"), dict)
    ):
        for key in set(data) - {"version", "suites"} if isinstance(data, dict) else ():
            blame((key,), f"unknown key {key!r}: a file has version and suites")
        if not mistakes:
            blame((), "a suite file starts with `version: 1` and has `suites:`")
        return {}
    suites = {}
    for name, content in data["suites"].items():
        try:
            suites[name] = Suite.model_validate(content)
        except ValidationError as error:
            for problem in error.errors():
                at = ("suites", name, *problem["loc"])
                blame(at, f"{'.'.join(map(str, problem['loc'])) or name}: {_plainly(problem)}")
            continue
        for at, what in list(_wrong_types(suites[name])) or _wrong_names(suites[name]):
            blame(("suites", name, *at), what)
    return suites


def _wrong_types(suite: Suite) -> Iterator[tuple[YamlPath, str]]:
    """Choices of an axis that are numbers where texts are required, or texts for numbers."""
    for axis, choices in suite.matrix.items():
        for number, choice in enumerate(choices):
            if isinstance(choice, int) != (axis in _NUMBERS) and axis in AXES:
                kind = "integer" if axis in _NUMBERS else "string"
                yield (
                    ("matrix", axis, number),
                    (f"matrix.{axis}.{number}: Input should be a valid {kind}"),
                )


_KEYS = [
    str(
        field.validation_alias.choices[0]
        if isinstance(field.validation_alias, AliasChoices)
        else name
    )
    for model in (Suite, Defaults, Override, ReportShape)
    for name, field in model.model_fields.items()
]


def _plainly(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(str(problem["loc"][-1]).replace("-", "_"), _KEYS, n=1)
        return f"unknown key{f': did you mean {near[0]!r}?' if near else ''}"
    return str(problem["msg"]).removeprefix("Value error, ")


_CHECKS: dict[str, Callable[[Any], object]] = {
    "noise": normal_noise,
    "method": find_method,
    "loss": LOSSES.normal,
    "strategy": normal_strategy,
    "model": canonical_backbone,
    "recipe": find_recipe,
    "init": check_init,
    "schedule": read_schedule,
    "fit": check_fit,
    "val_fraction": lambda fraction: LabelRequest("", val_fraction=fraction),
    "val_split": lambda when: LabelRequest("", val_split=when),
    "trusted": lambda share: LabelRequest("", trusted=share),
    "subset": lambda count: LabelRequest("", subset=count),
    "precision": checked_precision,
    "budget": checked_budget,
    "seeds": lambda seeds: [checked_seed(seed) for seed in seeds],
    "noise_seed": checked_seed,
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
    """Names that no registry knows, axes that are none, selectors that select nothing."""
    values = [(("defaults", key), key, value) for key, value in suite.defaults.given().items()]
    for axis, choices in suite.matrix.items():
        if axis not in AXES:
            yield ("matrix", axis), f"unknown axis {axis!r}: axes are {', '.join(AXES)}"
            continue
        if not choices:
            yield ("matrix", axis), f"the axis {axis} is empty"
        values += [(("matrix", axis, n), axis, choice) for n, choice in enumerate(choices)]  # type: ignore[misc]
    for number, override in enumerate(suite.override):
        values += [
            (("override", number, "set", key), key, value)  # type: ignore[misc]
            for key, value in override.set.given().items()
        ]
    for at, axis, value in values:
        try:
            _check_value(axis, value)
        except NoisebenchError as error:
            yield at, str(error)
    if suite.report.suspects is not None and not _stays_within(suite.report.suspects):
        yield (
            ("report", "suspects"),
            (f"suspects are written to a .csv within the workspace, got {suite.report.suspects!r}"),
        )
    if suite.report.published is not None:
        try:
            find_paper(suite.report.published)
        except UnknownName as error:
            yield ("report", "published"), str(error)
    cells = list(_cells(suite))
    yield from _wrong_together(suite, cells)
    for where, selectors in (
        ("exclude", suite.exclude),
        ("override", [o.match for o in suite.override]),
    ):
        for number, selector in enumerate(selectors):
            if not any(_matches(run, selector) for cell in cells for run in _seeded(suite, cell)):
                yield (where, number), f"{where} matches no run: {selector}"


def _stays_within(name: str) -> bool:
    """Whether a path, wherever it is taken from, names a .csv below there."""
    path = PurePath(name)
    return (
        path.suffix == ".csv"
        and not path.is_absolute()
        and not path.drive
        and ".." not in path.parts
        and "\\" not in name
    )


def _wrong_together(suite: Suite, cells: list[dict[str, Any]]) -> Iterator[tuple[YamlPath, str]]:
    """What is right by itself but not together: a noise on these data, a recipe with these
    settings, two kinds of method.
    """
    messages: dict[str, YamlPath] = {}
    noises: set[tuple[str, str]] = set()  # (data set, noise) that were checked
    for cell in cells:
        try:
            _check_cell(cell, suite.defaults.budget, noises)
        except (UnknownName, LanguageError, DataError) as error:
            # names are checked before, each at its own place
            at: YamlPath = ("matrix", "noise") if "noise" in suite.matrix else ("defaults", "noise")
            with suppress(NoisebenchError):
                normal_noise(cell["noise"])
                messages.setdefault(str(error), at)
        except ConfigError as error:
            messages.setdefault(str(error), ("defaults",))
    for message, at in messages.items():
        yield at, message


def _check_cell(cell: dict[str, Any], budget: str, noises: set[tuple[str, str]]) -> None:
    if not cell.get("noise"):
        raise ConfigError("the runs name no noise: put it into defaults or the matrix")
    if "method" in cell and ("loss" in cell or "strategy" in cell):
        raise ConfigError(
            "a method is a loss and a strategy already: name a method, or a loss and a strategy"
        )
    dataset = DATASETS.get(cell.get("dataset", ""))
    if dataset is None:
        return  # a set by path, a wrong name that was reported, or one that `run --dataset` names
    if cell.get("val_split") and not cell.get("val_fraction"):
        raise ConfigError("val_split has no effect without val_fraction")
    check_subset(cell.get("subset") or 0, dataset.name, dataset.n_train)
    changes = recipe_values(cell)
    if cell.get("recipe", dataset.recipe) in RECIPES:
        recipe = make_recipe(
            cell.get("recipe", dataset.recipe),
            dataset.name,
            augment=dataset.augmentation,
            changes=changes,
        )
        settled(recipe, dataset)
        if budget == "compute":
            check_schedule(recipe)
    if (pair := (dataset.name, cell["noise"])) not in noises:
        noises.add(pair)
        check_noise(dataset, cell["noise"])


def _cells(suite: Suite) -> Iterator[dict[str, Any]]:
    """The settings of every cell of the matrix, before `exclude` and `override`."""
    shared = {
        key: value for key, value in suite.defaults.given().items() if key in Settings.model_fields
    }
    for choice in itertools.product(*suite.matrix.values()):
        yield {**shared, **dict(zip(suite.matrix, choice, strict=True))}


def _seeded(suite: Suite, cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A cell's settings with each of the suite's seeds."""
    fixed = suite.defaults.noise_seed
    return (
        {**cell, "seed": seed, "noise_seed": seed if fixed is None else fixed}
        for seed in suite.defaults.seeds
    )


def _matches(run: dict[str, Any], selector: Selector) -> bool:
    """Whether a run has one of the values that the selector gives for each key, however they are
    spelled, as under --filter.
    """
    return all(_is_one_of(run, _FIELD_OF.get(key, key), value) for key, value in selector.items())


# a recipe value's name as an option -> its field
_FIELD_OF = {option_name(name): name for name in RECIPE_FIELDS}


def _is_one_of(run: dict[str, Any], key: str, value: Scalar | list[Scalar]) -> bool:
    setting = run.get(key)
    if setting is None or setting == value:
        return setting == value
    choices: list[Any] = []
    if isinstance(value, list):
        choices = value
    elif isinstance(value, str):
        choices = [part.strip() for part in value.split("|")]
    meaning = _meaning(key, str(setting), run.get("dataset"))
    return any(_meaning(key, str(choice), run.get("dataset")) == meaning for choice in choices)


@cache
def _meaning(key: str, text: str, dataset: str | None) -> str:
    """The one text of a setting's value; of a noise on a known data set with the map that goes
    without saying.
    """
    if key == "noise" and dataset in DATASETS:
        with suppress(NoisebenchError):
            return str(noise_for(DATASETS[dataset], text))
    return normal_value(key, text)


def expand(suite: Suite) -> list[SuiteRun]:
    """Every run of a suite, cell by cell, seed by seed."""
    runs = []
    for cell in _cells(suite):
        for settings in _seeded(suite, cell):
            run = settings
            if any(_matches(run, selector) for selector in suite.exclude):
                continue
            for override in suite.override:
                if _matches(run, override.match):
                    run = {**run, **override.set.given()}
            seed, noise_seed = run.pop("seed"), run.pop("noise_seed")
            runs.append(SuiteRun(run, seed, noise_seed, suite.defaults.budget))
    return runs


def request_of(run: SuiteRun, device: str = "auto") -> RunRequest:
    """The request for a suite's run."""
    names = ("method", "loss", "strategy", "model", "recipe")
    return RunRequest(
        **{name: run.settings.get(name) for name in names},
        changes=run.changes,
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
        checked_seed(run.noise_seed),
        float(settings.get("val_fraction") or 0.0),
        settings.get("val_split") or VAL_SPLITS[0],
        None,
        settings.get("trusted") or 0.0,
        settings.get("subset"),
    )


def images_of(suite: Suite) -> int | None:
    """The training images that all runs of a suite see, in epochs of CE: where an epoch costs twice
    CE's, twice as many.

    Those that a run holds out are counted too. None where a data set is not known before it is
    read, or a strategy says no cost.
    """
    price = cache(price_of)  # which runs share, but for their methods
    # as many for every seed
    seen = [_images(run, price) for run in expand(suite.with_defaults(seeds=1))]
    known = [count for count in seen if count is not None]
    return round(len(suite.defaults.seeds) * math.fsum(known)) if len(known) == len(seen) else None


def _images(run: SuiteRun, price: Callable[[str, str], RelativeCost]) -> float | None:
    settings = run.settings
    dataset = DATASETS.get(settings.get("dataset", ""))
    if dataset is None:
        return None
    try:
        cost = price(
            *loss_and_strategy_of(request_of(run), dataset, str(normal_noise(settings["noise"])))
        )
    except ConfigError:  # of a plugin's strategy
        return None
    recipe = make_recipe(
        settings.get("recipe") or dataset.recipe,
        dataset.name,
        augment=dataset.augmentation,
        changes=run.changes,
    )
    epochs = cost.epochs(recipe.epochs) if run.budget == "compute" else recipe.epochs
    return (settings.get("subset") or dataset.n_train) * cost.work(epochs)
