"""The types of a run's `result.json` and `error.json`, which are checked when they are read."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from ..core.files.schema import (
    Count,
    Name,
    Number,
    NumClasses,
    Scalar,
    Share,
    Whole,
    check_form,
    is_number,
    without_controls,
)
from ..experiments.run_facts import Environment, Features, Init, RunFacts


def _numbers(value: Any) -> Any:
    """A number or null, or a list or an object of them."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _numbers(item)
    elif not (value is None or is_number(value)):
        raise ValueError("must be numbers")
    return value


def _setting(value: Any) -> Any:
    return without_controls(value) if isinstance(value, str) else value


Metrics: TypeAlias = dict[str, Annotated[Any, AfterValidator(_numbers)]]
Settings: TypeAlias = dict[str, Annotated[Scalar, AfterValidator(_setting)]]
Interval: TypeAlias = Annotated[list[Number], Field(min_length=2, max_length=2)]
Normalisation = TypedDict("Normalisation", {"mean": list[Number], "std": list[Number]})
Data = TypedDict(
    "Data",
    {
        "name": Name,
        "num_classes": NotRequired[NumClasses],
        "classes": NotRequired[list[str]],
        "sha256": NotRequired[Name | None],
        "path": NotRequired[str],
        "test_path": NotRequired[str],
        "labels_path": NotRequired[str],
        "shape": NotRequired[list[Count]],
        "normalisation": NotRequired[Normalisation],
    },
)
Noise = TypedDict(
    "Noise",
    {
        "text": Name,
        "version": NotRequired[Name],
        "seed": Whole | None,
        "nominal_rate": NotRequired[Share | None],
        "expected_share": NotRequired[Share | None],
        "realised_rate": Share | None,
        "labels_sha256": NotRequired[Name],
        "manifest_sha256": NotRequired[Name],
        "held_out": NotRequired[Name],
        "known": NotRequired[Share],
        "source_sha256": NotRequired[Name],
        "convention": NotRequired[Name],
        "source": NotRequired[Name],
        "subset": NotRequired[Count],
    },
)
RateEstimate = TypedDict(
    "RateEstimate", {"estimate": Number, "interval": NotRequired[Interval], "truth": Number | None}
)
TransitionEstimate = TypedDict(
    "TransitionEstimate",
    {"estimate": list[list[Number]], "truth": list[list[Number]] | None},
    total=False,
)
Estimates = TypedDict(
    "Estimates",
    {"rate": RateEstimate, "transition": TransitionEstimate, "accuracy": Share},
    total=False,
)
Model = TypedDict("Model", {"name": Name, "parameters": NotRequired[Whole]})
Recipe = TypedDict("Recipe", {"name": Name, "epochs": Count})
LastAccuracy = TypedDict("LastAccuracy", {"last": Number | None})
TestSize = TypedDict("TestSize", {"n": Count}, total=False)
RequiredMetrics = TypedDict(
    "RequiredMetrics", {"test_acc": LastAccuracy, "test": NotRequired[TestSize]}
)
Expected = TypedDict("Expected", {"train": Whole, "test": Whole})
Record = TypedDict(
    "Record",
    {
        "key": Name,
        "title": Name,
        "data": Data,
        "noise": Noise,
        "method": Name,
        "loss": Name,
        "strategy": Name,
        "model": Model,
        "init": NotRequired[Init],
        "features": NotRequired[Features],
        "recipe": Recipe,
        "seed": Whole,
        "precision": Name,
        "oracle": bool,
        "versions": NotRequired[dict[str, Name]],
        "metrics": RequiredMetrics,
        "expected": NotRequired[Expected],
        "seconds": Number,
        "images_per_second": NotRequired[Number],
        "environment": NotRequired[Environment],
        "estimates": NotRequired[Estimates],
        "files": NotRequired[dict[str, str]],
    },
)
Versioned = TypedDict("Versioned", {"schema": Count})
Failure = TypedDict(
    "Failure",
    {
        "about": dict[str, Any],
        "message": str,
        "type": NotRequired[str],
        "traceback": NotRequired[str],
    },
)


def check_record(content: dict[str, Any]) -> None:
    """Check a finished run's record. Raises ValueError."""
    check_form(content, Record)
    check_form(content["recipe"], Settings, "recipe")
    check_form(content["metrics"], Metrics, "metrics")
    data = content["data"]
    if "num_classes" in data and len(data.get("classes", ())) != data["num_classes"]:
        raise ValueError(
            f"it has {len(data.get('classes', ()))} class names for {data['num_classes']} classes"
        )


def check_known(about: dict[str, Any]) -> None:
    """Check the RunFacts of a failed run. Raises ValueError."""
    check_form(about, RunFacts)
    check_form(about["recipe"], Settings, "recipe")
