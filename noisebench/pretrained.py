"""timm's own weights of a network: which they are, and the file of the Hugging Face hub or its cache. Loads timm, and with it torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .backbones import TIMM
from .core.files.untrusted import hash_of
from .datasets.streaming.hub import unreachable
from .datasets.streaming.images import SIDE
from .errors import ConfigError, DataError, UnknownName

_FILES = ("model.safetensors", "pytorch_model.bin")


def find_pretrained(model: str, *, offline: bool) -> tuple[str, Path]:
    """`resnet50.a1_in1k` and the file of its weights, of `timm:resnet50` or with a tag of timm's; downloaded where it is not in the cache.

    Raises ConfigError for a network without such weights, DataError, in one line that says how to get them, where they cannot be had.
    """
    if not model.startswith(TIMM):
        raise ConfigError(f"--init pretrained is for timm's networks (--model timm:resnet50), not for {model}: give --init FILE, or none")
    tag, repository = _tag(model.removeprefix(TIMM))
    found = cached(repository)
    return tag, found or _download(tag, repository, offline=offline)


def input_side(model: str) -> int:
    """The side in pixels of the images that timm's own weights of a network were trained on."""
    import timm

    about = timm.get_pretrained_cfg(model.removeprefix(TIMM))
    return int(about.input_size[-1]) if about else SIDE


def _tag(name: str) -> tuple[str, str]:
    """timm's name for the weights, and their repository on the hub."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UnknownName("timm model", name, timm.list_models(), "models timm")
    known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
    if "." in name and name not in known:
        raise UnknownName("weights of timm", name, known, "models timm")
    about = timm.get_pretrained_cfg(name)
    tag = f"{name.partition('.')[0]}.{about.tag}" if about and about.tag else name
    if not about or not about.hf_hub_id:
        where = f": fetch {about.url} and give --init FILE" if about and isinstance(about.url, str) else ": give --init FILE, or none"
        raise ConfigError(f"timm has no weights of {name} on the hub{where}")
    return tag, str(about.hf_hub_id)


def cached(repository: str) -> Path | None:
    """The file in the cache of the hub (HF_HOME), if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found: list[Any] = [try_to_load_from_cache(repository, name) for name in _FILES]
    return next((Path(path) for path in found if isinstance(path, str)), None)


def cached_pretrained(model: str) -> Path | None:
    """The file of a network's own weights, if it is in the cache; nothing is downloaded."""
    return cached(_tag(model.removeprefix(TIMM))[1])


def _download(tag: str, repository: str, *, offline: bool) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    why = "and --offline forbids to fetch them" if offline or constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)
    for name in () if why else _FILES:
        try:
            return _checked(Path(hf_hub_download(repository, name)))
        except Exception as error:  # whatever the hub's client raises: the file cannot be had
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the other name; the local one says that nobody could be asked
            why = f"and could not be fetched ({(str(error).splitlines() or [type(error).__name__])[0]})"
            break
    place = f"{constants.ENDPOINT}/{repository}/resolve/main/{_FILES[0]}"
    why = why or "and the hub has no file of them"
    raise DataError(
        f"the weights {tag} are not in {constants.HF_HUB_CACHE} {why}: get {place} elsewhere and give --init FILE, or --init none"
    )


def _checked(path: Path) -> Path:
    """The hub names a large file by its sha256, and its client looks at the size alone. A file that is another is not kept: DataError."""
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and hash_of(blob) != blob.name:
        blob.unlink()
        raise DataError("what came is not what the hub names by that sha256")
    return path
