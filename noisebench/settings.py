"""What a suite of benchmarks.yaml may say of its runs and its table: names and types. What the values mean is suite.py's to check."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

Scalar = bool | int | float | str | None
Selector = dict[str, Scalar | list[Scalar]]
"""Which runs of a suite: those that have one of the values of each key."""


class Strict(BaseModel):
    """Nothing unknown, nothing of another type, nothing changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Settings(Strict):
    """What one run may be told; every field may stand in `defaults`, the axes in `matrix` too."""

    dataset: str | None = None
    test: str | None = None  # where the test images of a folder lie, if not in it
    model: str | None = None
    init: str | None = None
    recipe: str | None = None
    noise: str | None = None
    method: str | None = None
    loss: str | None = None
    strategy: str | None = None
    val_fraction: float | None = None
    val_split: str | None = None
    trusted: float | None = None
    subset: int | None = None
    precision: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    clip: float | None = None
    crop: int | None = None
    flip: bool | None = None
    freeze: int | None = None
    layer_decay: float | None = None
    size: int | None = Field(default=None, validation_alias=AliasChoices("img_size", "size"))
    fit: str | None = None
    area: float | None = None
    centre: float | None = None

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True, exclude_none=True)


class Defaults(Settings):
    """The settings all runs of a suite share, and the seeds. noise_seed: the same as the seed unless fixed; budget: what all methods
    have alike, the epochs, or with `compute` the work of so many epochs of CE."""

    seeds: list[int] = Field(default=[0], min_length=1)
    noise_seed: int | None = None
    budget: str = "epochs"


class Override(Strict):
    """`set` these settings in the runs that `match`."""

    match: Selector
    set: Settings


class ReportShape(Strict):
    """How the suite's table is laid out; suspects: a .csv of the workspace, for the labels that its runs together doubt."""

    rows: str = "method"
    cols: str = "noise"
    metric: str = "last"
    published: str | None = None
    suspects: str | None = None
