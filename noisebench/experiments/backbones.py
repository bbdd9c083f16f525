"""The names of backbones, and their initial weights with a hash of the tensors, which is part of a
run's key. `timm:NAME` is any network of timm.

Initial weights come from a finished run's directory, a `.safetensors` file, a state dict saved by
torch, or timm's pretrained weights on the Hugging Face Hub or in its cache. Imports torch only for
the last two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.expressions import Call, parse
from ..core.files.arrays import load_torch
from ..core.files.atomic import read_checked
from ..core.files.untrusted import hash_of, read_text
from ..datasets.hub import unreachable
from ..datasets.images import SIDE
from ..errors import ConfigError, DataError, LanguageError, UnknownName

TIMM = "timm:"


@dataclass(frozen=True)
class Backbone:
    """One network, made by the function of this name in training.networks.backbones. The numbers of
    parameters are for 32x32x3 images and K = 10.
    """

    name: str
    summary: str
    version: int = 1
    pack: int = 1  # number of runs that train faster as one network


BACKBONES = {
    entry.name: entry
    for entry in (
        Backbone("linear", "a linear layer, for features", pack=56),
        Backbone("knn", "votes of the 20 nearest neighbours by cosine, for features; not trained"),
        Backbone(
            "mlp",
            "two hidden layers of 256, ReLU; one of 512 on features",
            pack=16,
        ),
        Backbone("cnn4", "conv 32, conv 64, dense 128, dense K, for 28x28"),
        Backbone(
            "cnn8",
            "the 8-layer CNN of SL, D2L and APL: 6 conv, 2 dense; 1.6 M parameters",
        ),
        Backbone(
            "resnet44",
            "pre-activation ResNet-44 of SL and D2L, widths 16-32-64; 0.67 M parameters",
        ),
        Backbone("resnet18", "ResNet-18 with a 3x3 stem for 32x32; 11.2 M parameters"),
        Backbone("resnet34", "ResNet-34 with a 3x3 stem for 32x32; 21.3 M parameters"),
        Backbone(
            "preact_resnet18",
            "pre-activation ResNet-18 for 32x32 (DivideMix, ELR+, SOP+); 11.2 M parameters",
        ),
    )
}


def canonical_backbone(text: str) -> str:
    """The canonical text of a backbone. Raises UnknownName; names after `timm:` are checked when
    the network is created.
    """
    expression = parse(text)
    if not isinstance(expression, Call) or expression.args or expression.kwargs:
        raise LanguageError(
            f"a model must be a name without parameters (cnn8, timm:resnet50), got {text!r}"
        )
    if not expression.name.startswith(TIMM) and expression.name not in BACKBONES:
        raise UnknownName("model", expression.name, BACKBONES, "models")
    return expression.name


def pack_width(name: str) -> int:
    """The number of runs of a backbone that train as one network; 1: each by itself."""
    return 1 if name.startswith(TIMM) else BACKBONES[name].pack


def backbone_fingerprint(name: str) -> str:
    """The component version in a run's key."""
    return "1" if name.startswith(TIMM) else str(BACKBONES[name].version)


NONE, PRETRAINED = "none", "pretrained"
VERSION = 1  # of fitting weights to a network; increased when the fitted weights change
_SAFE, _TORCH = ".safetensors", (".pt", ".pth", ".bin", ".ckpt")
# keys under which checkpoints store their state dict
_WRAPPERS = ("state_dict", "model", "model_state_dict")
# prefixes of all tensor names: from data parallel training, compiled networks, Lightning
_PREFIXES = ("module.", "_orig_mod.", "model.")
_KEY = re.compile(r"[0-9a-f]{6,64}")
_SHOWN = 4  # names of runs in an error
_OWN = re.compile(r"network\d+\.")  # prefix of every name in a run's model.safetensors


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights.

    text: as given by the user; sha256: of the tensors' names, types, shapes and bytes, independent
    of path and file format; tag: timm's name of its weights; path: the file, None if not available.
    """

    text: str
    sha256: str
    tag: str = ""
    path: Path | None = field(default=None, compare=False)

    @property
    def facts(self) -> dict[str, str]:
        """The weights' entry in a record."""
        return {"text": self.text, "sha256": self.sha256, **({"tag": self.tag} if self.tag else {})}

    @property
    def label(self) -> str:
        return label_of(self.facts)


def label_of(facts: Mapping[str, Any] | None) -> str:
    """The name of initial weights in tables, such as `resnet50.a1_in1k 14fe96d1` or `warm
    3f2a9c1d`; `none` for random weights.
    """
    if facts is None:
        return NONE
    path = Path(facts["text"])
    name = facts.get("tag") or (
        path.parent.name
        if path.stem == "model" and path.parent.name
        else path.name.removesuffix(path.suffix)
    )
    return f"{name} {facts['sha256'][:8]}"


def check_init(text: str) -> None:
    """Raises ConfigError if the text is empty. Does not look for files."""
    if not text.strip():
        raise ConfigError(
            f"init must be a run directory, a weights file, {PRETRAINED} or {NONE}; got {text!r}"
        )


def find_file(text: str, root: Path, option: str = "--init-weights") -> Path:
    """The weights file for a text: the path of a file or of a run directory, relative to the
    current directory or the workspace, or a run's name as in `find_run`. Raises DataError or
    ConfigError.
    """
    check_init(text)
    given = Path(text).expanduser()
    candidates = [path for path in (given, root / given, root / "runs" / given) if path.exists()]
    try:
        source = candidates[0] if candidates else find_run(text, root / "runs")
    except ConfigError as error:
        raise DataError(
            f"{option} {text}: no such file, and {error}; or give a file "
            f"({_SAFE}, {', '.join(_TORCH[:2])}), {PRETRAINED} or {NONE}"
        ) from None
    path = source / f"model{_SAFE}" if source.is_dir() else source
    if not path.is_file():
        raise DataError(
            f"{option} {text}: {source} has no model{_SAFE}, so it is not a finished run"
        )
    if path.suffix not in (_SAFE, *_TORCH):
        raise ConfigError(
            f"{option} {text}: expected a {_SAFE} file or a state dict ({', '.join(_TORCH)})"
        )
    return path


def find_run(text: str, runs: Path) -> Path:
    """The directory of the one run with this name, with or without seed and key, or with a key that
    begins with these six or more characters. Raises ConfigError, listing similar runs.
    """
    paths = sorted(runs.glob("*__*"))
    matches = [path for path in paths if _is_called(path, text)]
    if len(matches) == 1:
        return matches[0]
    near = matches or [
        path
        for path in paths
        if path.name.startswith(text) or path.name.rpartition("__")[2].startswith(text)
    ]
    listed = ", ".join(path.name for path in near[:_SHOWN]) + (" ..." if len(near) > _SHOWN else "")
    problem, which = "no run matches", f"; runs that begin with it: {listed}" if near else ""
    if matches:
        problem, which = f"{len(near)} runs match", f": {listed}"
    raise ConfigError(
        f"{problem} {text!r}{which}; give a full name or six characters of the key "
        "(noisebench list runs)"
    )


def _is_called(path: Path, text: str) -> bool:
    """Whether a run directory has this name, with or without key and seed, or a key that begins
    with the text. The name contains eight characters of the key, config.yaml all.
    """
    name, _, short_key = path.name.rpartition("__")
    if text in (path.name, name, name.rpartition("_seed")[0]):
        return True
    if not _KEY.fullmatch(text) or not short_key.startswith(text[:8]):
        return False
    with suppress(OSError, ValueError):
        config = "" if len(text) <= 8 else read_text(path / "config.yaml").replace("'", "")
        return not config or config.startswith(f"key: {text}")
    return False


def initial_of(text: str, path: Path, tag: str = "") -> InitialWeights:
    """The initial weights in a file. Raises DataError if it cannot be read or has no tensors."""
    return InitialWeights(text, _sha256(read_tensors(path), path), tag, path)


def read_initial(initial: InitialWeights) -> bytes:
    """The tensors, as the bytes of a .safetensors file. Raises DataError if they are not available
    or have changed.
    """
    who = f"the initial weights {initial.tag or initial.text} of this run"
    if initial.path is None:
        raise DataError(
            f"{who} are not available: restore the file (sha256 of its tensors "
            f"{initial.sha256[:16]}...)"
        )
    content = read_tensors(initial.path)
    if _sha256(content, initial.path) != initial.sha256:
        raise DataError(f"{who} have changed: {initial.path} has other tensors now")
    return content


def read_tensors(path: Path) -> bytes:
    """A weights file as the bytes of a .safetensors file; never runs pickled code. Raises
    DataError.
    """
    if path.suffix == _SAFE:
        return read_checked(path)
    import torch
    from safetensors.torch import save

    raw = read_checked(path)
    try:
        loaded = load_torch(raw)
    except Exception:  # torch.load documents no exceptions
        raise DataError(
            f"{path} is damaged or contains more than tensors (pickled code is never run): save "
            "only a state dict"
        ) from None
    for _ in _WRAPPERS:
        inner = [
            loaded[key]
            for key in _WRAPPERS
            if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)
        ]
        loaded = inner[0] if inner else loaded
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(value, torch.Tensor) for value in loaded.values())
    ):
        raise DataError(
            f"{path} is not a state dict (tensors by name), nor does it have one under "
            f"{', '.join(map(repr, _WRAPPERS))}"
        )
    return save(
        {str(name): tensor.detach().clone().contiguous() for name, tensor in loaded.items()}
    )


def _sha256(content: bytes, path: Path) -> str:
    from safetensors import SafetensorError, deserialize

    try:
        tensors = dict(deserialize(content))
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or not a {_SAFE} file ({error})") from None
    if not tensors:
        raise DataError(f"{path} contains no tensors")
    digest = hashlib.sha256()
    for plain, name in sorted((plain, name) for name, plain in plain_names(tensors).items()):
        tensor = tensors[name]
        digest.update(f"{plain} {tensor['dtype']} {tuple(tensor['shape'])}\n".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """The names without prefixes that all of them share: those of wrappers, and `network0.` of a
    run with one network.
    """
    plain = {name: name for name in names}
    prefixes = ["network0.", *_PREFIXES]
    while common := [p for p in prefixes if all(name.startswith(p) for name in plain.values())]:
        plain = {name: short.removeprefix(common[0]) for name, short in plain.items()}
    return plain


def is_ours(names: Iterable[str]) -> bool:
    """Whether a run wrote these tensors."""
    return all(_OWN.match(name) for name in names)


_FILES = ("model.safetensors", "pytorch_model.bin")


def find_pretrained(model: str, *, offline: bool) -> tuple[str, Path]:
    """The tag and the file of timm's pretrained weights, such as `resnet50.a1_in1k` for
    `timm:resnet50`; downloaded if not in the cache.

    Raises ConfigError if the network has no such weights, DataError if they are not available, with
    instructions to get them.
    """
    if not model.startswith(TIMM):
        raise ConfigError(
            f"{model} has no pretrained weights, only timm's networks do (--model timm:resnet50): "
            "give --init-weights FILE, or none"
        )
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    tag, repository = _tag(model.removeprefix(TIMM))
    for name in _FILES:
        if isinstance(cached := try_to_load_from_cache(repository, name), str):
            return tag, Path(cached)
    why = (
        "and --offline forbids downloads"
        if offline or constants.HF_HUB_OFFLINE
        else unreachable(constants.ENDPOINT)
    )
    for name in () if why else _FILES:
        try:
            path = Path(hf_hub_download(repository, name))
            # the Hub names a large file by its sha256, but its client only checks the size
            blob = path.resolve()
            if not re.fullmatch("[0-9a-f]{64}", blob.name) or hash_of(blob) == blob.name:
                return tag, path
            blob.unlink()
            why = "and the downloaded file does not have the sha256 that the Hub states"
            break
        except Exception as error:  # any error of the Hub's client: the file is not available
            if isinstance(error, EntryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                continue  # try the other name; a LocalEntryNotFoundError: the Hub was not reached
            why = (
                "and the download failed "
                f"({(str(error).splitlines() or [type(error).__name__])[0]})"
            )
            break
    url = f"{constants.ENDPOINT}/{repository}/resolve/main/{_FILES[0]}"
    why = why or "and the Hub has no file of them"
    raise DataError(
        f"the weights {tag} are not in {constants.HF_HUB_CACHE} {why}: download {url} on another "
        "machine and give --init-weights FILE, or use --init-weights none"
    )


def input_side(model: str) -> int:
    """Side in pixels of the images that timm's pretrained weights of a network were trained on."""
    import timm

    about = timm.get_pretrained_cfg(model.removeprefix(TIMM))
    return int(about.input_size[-1]) if about else SIDE


def _tag(name: str) -> tuple[str, str]:
    """timm's name of the weights, and their repository on the Hub."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UnknownName("timm model", name, timm.list_models(), "models timm")
    known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
    if "." in name and name not in known:
        raise UnknownName("weights of timm", name, known, "models timm")
    about = timm.get_pretrained_cfg(name)
    tag = f"{name.partition('.')[0]}.{about.tag}" if about and about.tag else name
    if not about or not about.hf_hub_id:
        where = (
            f": download {about.url} and give --init-weights FILE"
            if about and isinstance(about.url, str)
            else ": give --init-weights FILE, or none"
        )
        raise ConfigError(f"timm has no weights of {name} on the Hub{where}")
    return tag, str(about.hf_hub_id)
