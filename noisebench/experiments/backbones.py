"""The names of networks and where their code is; their initial weights, and the hash of those
tensors, which a run's key holds. `timm:NAME` is any of timm's networks.

Weights are a finished run's folder, a `.safetensors`, a state dict as torch saves it, or timm's
own, from the Hugging Face hub or its cache. Loads torch for the last two alone.
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
    """One network; the function of this name in training.networks.backbones makes it. Parameters as
    counted at 32x32x3, K = 10.
    """

    name: str
    summary: str
    version: int = 1
    pack: int = 1  # so many runs of it train faster as one network


BACKBONES = {
    entry.name: entry
    for entry in (
        Backbone("mlp", "two hidden layers of 256, ReLU", pack=16),
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
    """The one text of a backbone. Raises UnknownName; names behind `timm:` are checked when the
    network is made.
    """
    expression = parse(text)
    if not isinstance(expression, Call) or expression.args or expression.kwargs:
        raise LanguageError(
            f"a model is a name without parameters, such as cnn8 or timm:resnet50; got {text!r}"
        )
    if not expression.name.startswith(TIMM) and expression.name not in BACKBONES:
        raise UnknownName("model", expression.name, BACKBONES, "models")
    return expression.name


def pack_width(name: str) -> int:
    """How many runs of a backbone train together; 1: each by itself."""
    return 1 if name.startswith(TIMM) else BACKBONES[name].pack


def backbone_fingerprint(name: str) -> str:
    """The component version that a run's key holds."""
    return "1" if name.startswith(TIMM) else str(BACKBONES[name].version)


NONE, PRETRAINED = "none", "pretrained"
VERSION = 1  # of how weights are fitted to a network; raised where a fitted one would be another
_SAFE, _TORCH = ".safetensors", (".pt", ".pth", ".bin", ".ckpt")
# keys under which a checkpoint holds its state dict
_WRAPPERS = ("state_dict", "model", "model_state_dict")
# of every name: of data parallel training, compiled networks, Lightning
_PREFIXES = ("module.", "_orig_mod.", "model.")
_KEY = re.compile(r"[0-9a-f]{6,64}")
_SHOWN = 4  # names of runs in an error
_OWN = re.compile(r"network\d+\.")  # of every name in a run's model.safetensors


@dataclass(frozen=True)
class InitialWeights:
    """text: as the user gave it; sha256: of names, types, shapes and bytes of the tensors, wherever
    they lie and in which format; tag: timm's name for its own; path: the file, None where it is
    not at hand.
    """

    text: str
    sha256: str
    tag: str = ""
    path: Path | None = field(default=None, compare=False)

    @property
    def facts(self) -> dict[str, str]:
        """For a record."""
        return {"text": self.text, "sha256": self.sha256, **({"tag": self.tag} if self.tag else {})}

    @property
    def label(self) -> str:
        return label_of(self.facts)


def label_of(facts: Mapping[str, Any] | None) -> str:
    """`resnet50.a1_in1k 14fe96d1`, `warm 3f2a9c1d`: weights as a table names them; `none` for
    networks that begin afresh.
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
    """Raises ConfigError for a text that can name no weights. Looks for no file."""
    if not text.strip():
        raise ConfigError(
            f"init names a run's folder, a file of weights, {PRETRAINED}, or {NONE}; got {text!r}"
        )


def find_file(text: str, root: Path) -> Path:
    """The file of weights that a text names: a file, or a finished run, by its folder, from here or
    from the workspace, or as `find_run` does. Raises DataError or ConfigError.
    """
    check_init(text)
    given = Path(text).expanduser()
    candidates = [path for path in (given, root / given, root / "runs" / given) if path.exists()]
    try:
        source = candidates[0] if candidates else find_run(text, root / "runs")
    except ConfigError as error:
        raise DataError(
            f"--init-weights {text}: no such file, and {error}; or give a {_SAFE}, a "
            f"{' or '.join(_TORCH[:2])}, {PRETRAINED}, or {NONE}"
        ) from None
    path = source / f"model{_SAFE}" if source.is_dir() else source
    if not path.is_file():
        raise DataError(
            f"--init-weights {text}: {source} holds no model{_SAFE}: it is no finished run's folder"
        )
    if path.suffix not in (_SAFE, *_TORCH):
        raise ConfigError(
            f"--init-weights {text}: weights lie in a {_SAFE} or a state dict ({', '.join(_TORCH)})"
        )
    return path


def find_run(text: str, runs: Path) -> Path:
    """The folder of the one run that has this name, with or without its seed and key, or a key that
    begins so, by at least six characters. Raises ConfigError, with the runs that could be meant.
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
    count, which = "no", f"; these begin so: {listed}" if near else ""
    if matches:
        count, which = "more than one", f"; {len(near)} are called so: {listed}"
    raise ConfigError(
        f"{count} run {text!r}{which}; give a full name or six characters of its key "
        "(noisebench list runs)"
    )


def _is_called(path: Path, text: str) -> bool:
    """Whether a run's folder has this name, with or without key and seed, or a key that begins so:
    the name holds eight characters of the key, the configuration all.
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
    """Raises DataError where the file cannot be read or holds no tensors."""
    return InitialWeights(text, _sha256(read_tensors(path), path), tag, path)


def read_initial(initial: InitialWeights) -> bytes:
    """The tensors, as the bytes of a .safetensors. Raises DataError where they are not at hand, or
    no longer those.
    """
    who = f"the weights {initial.tag or initial.text}, from which this run began"
    if initial.path is None:
        raise DataError(
            f"{who}, are not at hand: put them where they were (sha256 of their "
            f"tensors {initial.sha256[:16]}...)"
        )
    content = read_tensors(initial.path)
    if _sha256(content, initial.path) != initial.sha256:
        raise DataError(f"{who}, are others now: {initial.path} has changed")
    return content


def read_tensors(path: Path) -> bytes:
    """A file of weights as the bytes of a .safetensors; of a state dict no pickled code is run.
    Raises DataError.
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
            f"{path} is damaged, or holds more than tensors, and no pickled code is run: save a "
            "state dict alone"
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
            f"{path} holds no state dict: tensors by name, or that under "
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
        raise DataError(f"{path} is damaged, or no {_SAFE} ({error})") from None
    if not tensors:
        raise DataError(f"{path} holds no tensors")
    digest = hashlib.sha256()
    for plain, name in sorted((plain, name) for name, plain in plain_names(tensors).items()):
        tensor = tensors[name]
        digest.update(f"{plain} {tensor['dtype']} {tuple(tensor['shape'])}\n".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what all of them begin with: wrappers' prefixes, and `network0.` where a
    run had one network.
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
    """`resnet50.a1_in1k` and the file of its weights, of `timm:resnet50` or with a tag of timm's;
    downloaded where it is not in the cache.

    Raises ConfigError for a network without such weights, DataError, in one line that says how to
    get them, where they cannot be had.
    """
    if not model.startswith(TIMM):
        raise ConfigError(
            "--init-weights pretrained is for timm's networks (--model timm:resnet50), not "
            f"for {model}: give --init-weights FILE, or none"
        )
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    tag, repository = _tag(model.removeprefix(TIMM))
    for name in _FILES:
        if isinstance(cached := try_to_load_from_cache(repository, name), str):
            return tag, Path(cached)
    why = (
        "and --offline forbids to fetch them"
        if offline or constants.HF_HUB_OFFLINE
        else unreachable(constants.ENDPOINT)
    )
    for name in () if why else _FILES:
        try:
            path = Path(hf_hub_download(repository, name))
            # the hub names a large file by its sha256, and its client checks the size alone
            blob = path.resolve()
            if not re.fullmatch("[0-9a-f]{64}", blob.name) or hash_of(blob) == blob.name:
                return tag, path
            blob.unlink()
            why = "and could not be fetched (what came is not what the hub names by that sha256)"
            break
        except Exception as error:  # whatever the hub's client raises: the file cannot be had
            if isinstance(error, EntryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                continue  # the other name; the local one means that the hub was not reached
            why = (
                "and could not be fetched "
                f"({(str(error).splitlines() or [type(error).__name__])[0]})"
            )
            break
    url = f"{constants.ENDPOINT}/{repository}/resolve/main/{_FILES[0]}"
    why = why or "and the hub has no file of them"
    raise DataError(
        f"the weights {tag} are not in {constants.HF_HUB_CACHE} {why}: get {url} elsewhere and "
        "give --init-weights FILE, or --init-weights none"
    )


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
        where = (
            f": fetch {about.url} and give --init-weights FILE"
            if about and isinstance(about.url, str)
            else ": give --init-weights FILE, or none"
        )
        raise ConfigError(f"timm has no weights of {name} on the hub{where}")
    return tag, str(about.hf_hub_id)
