"""What the header of a manifest says, checked: of nothing that is read there another type is taken."""

from __future__ import annotations

from typing import Any

from .core.files.schema import CLASSES, COUNT, NUMBER, SHARE, TEXT, WHOLE, Form, Maybe, check_form, check_plain
from .errors import ManifestError

_FORM: Form = {
    "dataset": TEXT,
    "n": COUNT,
    "num_classes": CLASSES,
    "classes": [TEXT],
    "noise": TEXT,
    "nominal_rate": Maybe(SHARE),
    "realised_rate": Maybe(SHARE),
    "noise_seed": WHOLE,
    "labels_sha256": TEXT,
    "per_class_rate": [Maybe(SHARE)],
    "transition?": Maybe([[NUMBER]]),
    "images_sha256?": TEXT,
    "images?": TEXT,
    "path?": TEXT,
    "test_path?": TEXT,
    "labels_path?": TEXT,
    "source?": TEXT,
    "source_path?": TEXT,
    "convention?": TEXT,
    "val_fraction?": SHARE,
    "val_split?": TEXT,
    "trusted?": SHARE,
    "subset?": COUNT,
    "label_file?": TEXT,
    "rates?": [Maybe(SHARE)],
    "decisions?": [TEXT],
}


def check_header(meta: Any) -> dict[str, Any]:
    """The header itself. Raises ManifestError."""
    try:
        check_plain(meta)
        check_form(meta, _FORM, "its header")
        K = meta["num_classes"]
        for name in ("classes", "per_class_rate"):
            if len(meta[name]) != K:
                raise ValueError(f"its header's {name} are {len(meta[name])}, its classes {K}")
        T = meta.get("transition")
        if T is not None and (len(T) != K or any(len(row) != K for row in T)):
            raise ValueError(f"its header has a transition that is not {K} by {K}")
    except ValueError as error:
        raise ManifestError(str(error)) from None
    return dict(meta)
