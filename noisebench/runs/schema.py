"""What a run's `result.json` and `error.json` must be like, and a baseline of results: checked
before anything is read of them.
"""

from __future__ import annotations

from typing import Any

from ..core.files.schema import (
    CLASSES,
    COUNT,
    FLAG,
    NAME,
    NUMBER,
    SCALAR,
    SHARE,
    TEXT,
    WHOLE,
    Each,
    Form,
    Kind,
    Maybe,
    check_form,
    check_plain,
)


def _numbers(value: Any) -> bool:
    """A number or a list of them, by name or not, each of which may be unknown."""
    if isinstance(value, dict | list):
        return all(map(_numbers, value.values() if isinstance(value, dict) else value))
    return value is None or NUMBER.fits(value)


_METRIC = Kind("numbers", _numbers)
_INTERVAL = Kind(
    "two finite numbers",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(NUMBER.fits, value)),
)
_INIT: Form = {"text": NAME, "sha256": NAME, "tag?": NAME}
_RECIPE: Form = Each(
    Kind(
        f"a number, a flag or {NAME.said}",
        lambda value: NAME.fits(value) if isinstance(value, str) else SCALAR.fits(value),
    )
)
_ENVIRONMENT: dict[str, Form] = {
    "device?": NAME,
    "auto_precision?": NAME,
    "threads?": COUNT,
    "packed?": COUNT,
    "processes?": COUNT,
    "accumulate?": COUNT,
}
RECORD: Form = {
    "key": NAME,
    "title": NAME,
    "data": {
        "name": NAME,
        "num_classes?": CLASSES,
        "classes?": [TEXT],
        "sha256?": Maybe(NAME),
        "path?": TEXT,
        "test_path?": TEXT,
        "labels_path?": TEXT,
        "shape?": [COUNT],
        "normalisation?": {"mean": [NUMBER], "std": [NUMBER]},
    },
    "noise": {
        "text": NAME,
        "version?": NAME,
        "seed": Maybe(WHOLE),
        "nominal_rate?": Maybe(SHARE),
        "expected_share?": Maybe(SHARE),
        "realised_rate": Maybe(SHARE),
        "labels_sha256?": NAME,
        "manifest_sha256?": NAME,
        "held_out?": NAME,
        "known?": SHARE,
        "source_sha256?": NAME,
        "convention?": NAME,
        "source?": NAME,
        "subset?": COUNT,
    },
    "method": NAME,
    "loss": NAME,
    "strategy": NAME,
    "model": {"name": NAME, "parameters?": WHOLE},
    "init?": _INIT,
    "recipe": {"name": NAME, "epochs": COUNT},
    "seed": WHOLE,
    "precision": NAME,
    "oracle": FLAG,
    "versions?": Each(NAME),
    "metrics": {"test_acc": {"last": Maybe(NUMBER)}, "test?": {"n?": COUNT}},
    "expected?": {"train": WHOLE, "test": WHOLE},
    "seconds": NUMBER,
    "images_per_second?": NUMBER,
    "environment?": _ENVIRONMENT,
    "estimates?": {
        "rate?": {"estimate": NUMBER, "interval?": _INTERVAL, "truth": Maybe(NUMBER)},
        "transition?": {"estimate?": [[NUMBER]], "truth?": Maybe([[NUMBER]])},
        "accuracy?": SHARE,
    },
    "files?": Each(TEXT),
}
ABOUT: dict[str, Form] = {
    "key?": NAME,
    "method": NAME,
    "loss": NAME,
    "strategy": NAME,
    "precision": NAME,
    "seed": WHOLE,
    "oracle": FLAG,
    "recipe_name": NAME,
    "recipe": {"epochs": COUNT},
    "dataset": NAME,
    "path?": TEXT,
    "test_path?": TEXT,
    "labels_path?": TEXT,
    "data_sha256": Maybe(NAME),
    "model": NAME,
    "init?": _INIT,
    "noise": NAME,
    "noise_seed": Maybe(WHOLE),
    "realised_rate": Maybe(SHARE),
    "held_out?": NAME,
    "subset?": COUNT,
    "source_sha256?": NAME,
    "known?": SHARE,
    "labels?": NAME,
    "versions?": Each(NAME),
    "test_images?": COUNT,
    "seconds?": Maybe(NUMBER),
    "environment?": _ENVIRONMENT,
}


def check_record(content: dict[str, Any]) -> None:
    """A finished run's record. Raises ValueError."""
    check_plain(content)
    check_form(content, RECORD)
    check_form(content["recipe"], _RECIPE, "recipe")
    check_form(content["metrics"], Each(_METRIC), "metrics")
    data = content["data"]
    if "num_classes" in data and len(data.get("classes", ())) != data["num_classes"]:
        raise ValueError(
            f"it names {len(data.get('classes', ()))} classes of {data['num_classes']}"
        )


def check_failure(content: dict[str, Any]) -> None:
    """What is written of a failed run. Raises ValueError."""
    check_plain(content)
    check_form(content, {"about": {}, "message": TEXT, "type?": TEXT, "traceback?": TEXT})


def check_known(about: dict[str, Any]) -> None:
    """What a table is told of a run. Raises ValueError."""
    check_form(about, ABOUT)
    check_form(about["recipe"], _RECIPE, "recipe")


def check_about(about: dict[str, Any]) -> None:
    """What a table is told of a failed run. Raises ValueError."""
    check_known(about)
    if about.get("metrics") is not None:
        raise ValueError("a failed run has no metrics")
