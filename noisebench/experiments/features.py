"""Features of an image set from a frozen network: which network, weights and image size. They are
part of a run's key, the numbers themselves are not, since processors round differently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..datasets import Fitting
from ..errors import ConfigError
from .backbones import NONE, TIMM, InitialWeights, canonical_backbone

VERSION = 1  # of the extraction; increased when the features of the same images change
KNN = "knn"
HEADS = ("linear", "mlp", KNN)  # networks for features
HEAD, RECIPE = "linear", "features"  # defaults of runs on features


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network and its weights, requested by --features and --feature-weights."""

    model: str
    weights: InitialWeights

    def at(self, size: int, fit: str, precision: str) -> FeatureExtraction:
        """The extraction from images of `size` pixels, made square by `fit` (see Fitting)."""
        return FeatureExtraction(self.model, self.weights, size, fit, precision)


@dataclass(frozen=True)
class FeatureExtraction(FeatureNetwork):
    """How features are computed: the network's penultimate layer, for square images of `size`
    pixels, in `precision`.
    """

    size: int
    fit: str
    precision: str

    @property
    def facts(self) -> dict[str, Any]:
        """The entry in a record; `sha256` identifies all of it."""
        settings = {
            "model": self.model,
            "weights_sha256": self.weights.sha256,
            "size": self.size,
            "fit": self.fit,
            "precision": self.precision,
            "version": VERSION,
        }
        sha256 = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        tag = {"tag": self.weights.tag} if self.weights.tag else {}
        return {**settings, "text": self.weights.text, **tag, "sha256": sha256}

    @property
    def fitting(self) -> Fitting:
        """How images are resized for the network."""
        return Fitting(self.size, self.size, self.fit)

    @property
    def label(self) -> str:
        return features_label(self.facts)


def features_label(facts: Mapping[str, Any] | None) -> str:
    """The name of features in tables, such as `tf_efficientnet_lite0@128 3f2a9c1d`: network, image
    size, and the beginning of the weights' hash; `none` for images.
    """
    if facts is None:
        return NONE
    name = str(facts["model"]).removeprefix(TIMM)
    return f"{name}@{facts['size']} {facts['weights_sha256'][:8]}"


def check_features(model: str) -> str:
    """The canonical name of a network for features. Raises ConfigError unless it is `none` or one
    of timm's.
    """
    if model == NONE or canonical_backbone(model).startswith(TIMM):
        return model
    raise ConfigError(f"features must be {TIMM}NAME, a network of timm, or {NONE}; got {model!r}")
