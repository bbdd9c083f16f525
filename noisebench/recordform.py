"""What a run's `result.json` and `error.json` must be like, and a baseline of results: checked before anything is read of them."""

from __future__ import annotations

from typing import Any

from .form import CLASSES, COUNT, FLAG, NUMBER, SCALAR, SHARE, TEXT, WHOLE, Each, Form, Kind, Maybe, check_form, check_plain


def _numbers(value: Any) -> bool:
    """A number or a list of them, by name or not, each of which may be unknown."""
    if isinstance(value, dict | list):
        return all(map(_numbers, value.values() if isinstance(value, dict) else value))
    return value is None or NUMBER.fits(value)


_METRIC = Kind("numbers", _numbers)
_INIT: Form = {"text": TEXT, "sha256": TEXT, "tag?": TEXT}
_RECIPE: Form = Each(SCALAR)
_ENVIRONMENT: dict[str, Form] = {"device?": TEXT, "threads?": COUNT, "packed?": COUNT, "processes?": COUNT, "accumulate?": COUNT}
RECORD: Form = {
    "key": TEXT,
    "title": TEXT,
    "data": {
        "name": TEXT,
        "num_classes?": CLASSES,
        "classes?": [TEXT],
        "sha256?": Maybe(TEXT),
        "path?": TEXT,
        "test_path?": TEXT,
        "shape?": [COUNT],
        "normalisation?": {"mean": [NUMBER], "std": [NUMBER]},
    },
    "noise": {
        "text": TEXT,
        "seed": Maybe(WHOLE),
        "nominal_rate?": Maybe(SHARE),
        "realised_rate": Maybe(SHARE),
        "labels_sha256?": TEXT,
        "manifest_sha256?": TEXT,
        "held_out?": TEXT,
        "known?": SHARE,
        "source_sha256?": TEXT,
        "convention?": TEXT,
        "source?": TEXT,
        "subset?": COUNT,
    },
    "method": TEXT,
    "loss": TEXT,
    "strategy": TEXT,
    "model": {"name": TEXT, "parameters?": WHOLE},
    "init?": _INIT,
    "recipe": {"name": TEXT, "epochs": COUNT},
    "seed": WHOLE,
    "precision": TEXT,
    "oracle": FLAG,
    "versions?": Each(TEXT),
    "metrics": {"test_acc": {"last": Maybe(NUMBER)}},
    "expected?": Each(WHOLE),
    "seconds": NUMBER,
    "images_per_second?": NUMBER,
    "environment?": _ENVIRONMENT,
    "estimates?": {
        "rate?": {"estimate": NUMBER, "truth": Maybe(NUMBER)},
        "transition?": {"estimate?": [[NUMBER]], "truth?": Maybe([[NUMBER]])},
    },
    "files?": Each(TEXT),
}
ABOUT: Form = {
    "method": TEXT,
    "loss": TEXT,
    "strategy": TEXT,
    "precision": TEXT,
    "seed": WHOLE,
    "oracle": FLAG,
    "recipe_name": TEXT,
    "recipe": {"epochs": COUNT},
    "dataset": TEXT,
    "path?": TEXT,
    "test_path?": TEXT,
    "data_sha256": Maybe(TEXT),
    "model": TEXT,
    "init?": _INIT,
    "noise": TEXT,
    "noise_seed": Maybe(WHOLE),
    "realised_rate": Maybe(SHARE),
    "held_out?": TEXT,
    "subset?": COUNT,
    "source_sha256?": TEXT,
    "known?": SHARE,
    "labels?": TEXT,
    "versions?": Each(TEXT),
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
        raise ValueError(f"it names {len(data.get('classes', ()))} classes of {data['num_classes']}")


def check_failure(content: dict[str, Any]) -> None:
    """What is written of a failed run. Raises ValueError."""
    check_plain(content)
    check_form(content, {"about": {}, "message": TEXT, "type?": TEXT, "traceback?": TEXT})


def check_about(about: dict[str, Any]) -> None:
    """What a table is told of a failed run. Raises ValueError."""
    check_form(about, ABOUT)
    check_form(about["recipe"], _RECIPE, "recipe")
    if about.get("metrics") is not None:
        raise ValueError("a failed run has no metrics")
