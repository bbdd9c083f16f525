"""Exports a finished run as one model, from images or features to probabilities, that needs no
noisebench: ONNX, a torch program, or weights for timm.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.files.atomic import atomic_write, write_text
from ..errors import ConfigError, DataError
from ..experiments.backbones import TIMM

if TYPE_CHECKING:
    from .prediction import Predictor

FORMATS = (".onnx", ".pt2", ".safetensors")
CARD = ".md"  # suffix of the model card, beside the model
_EXAMPLES = 2  # in the batch that the graph is traced with; any other size is possible later


class ExportedModel(nn.Module):
    """Images (n, C, H, W), RGB or grey in [0, 1], or features (n, D) -> probabilities (n, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        ensemble, extractor = predictor.networks, predictor.extractor
        self.networks = nn.ModuleList(ensemble.networks)
        self.combine = ensemble.strategy.predict
        self.features: nn.Module | None = extractor.network if extractor else None
        self.of_images = not predictor.takes_features
        # of the images, and with frozen features of these too
        first = extractor.normalise if extractor else ensemble.normalise
        scale = 255 if self.of_images else 1
        shape = (1, -1, 1, 1) if self.of_images else (1, -1)
        self.register_buffer("mean", (first.mean / scale).view(shape))
        self.register_buffer("std", (first.std / scale).view(shape))
        if extractor:
            self.register_buffer("feature_mean", ensemble.normalise.mean.view(1, -1))
            self.register_buffer("feature_std", ensemble.normalise.std.view(1, -1))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = (inputs - self.mean) / self.std
        if self.features is not None:
            if hasattr(self.features, "enlarge"):  # called by a hook, which methods do not call
                inputs = self.features.enlarge(inputs)  # type: ignore[operator]
            rows = self.features.forward_features(inputs)  # type: ignore[operator]
            rows = self.features.forward_head(rows, pre_logits=True).flatten(1)  # type: ignore[operator]
            inputs = (rows - self.feature_mean) / self.feature_std
        log_p = self.combine([network(inputs).log_softmax(1) for network in self.networks])
        return log_p.exp()


def export_model(predictor: Predictor, path: Path) -> Path:
    """Write the model, and the model card beside it; returns the card's path.

    Raises DataError if the network cannot be exported or a file not be written, ConfigError for
    another suffix or if a package is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"the model must end in {', '.join(FORMATS)}, got {path}")
    facts = model_facts(predictor, suffix)
    model = ExportedModel(predictor).float().cpu().eval()
    for tensor in (*model.parameters(), *model.buffers()):  # none a view: a file has whole tensors
        tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
    shape = facts["input_shape"]
    batch = torch.rand(_EXAMPLES, *shape)
    text = json.dumps(facts, ensure_ascii=False)
    write = {".onnx": _onnx, ".pt2": _program, ".safetensors": _weights}[suffix](
        model, batch, text, predictor
    )
    card = path.with_suffix(CARD)
    try:
        atomic_write(path, write)
        write_text(card, model_card(predictor, facts, path))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return card


Write = Callable[[Any], object]


def _traced(model: nn.Module, batch: Tensor) -> Any:
    try:
        with torch.no_grad():
            return torch.export.export(
                model, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
    except Exception as error:  # torch documents no exceptions: any network may use anything
        raise DataError(
            "the network cannot be exported as a graph "
            f"({str(error).splitlines()[0] or type(error).__name__})"
        ) from None


def _program(model: nn.Module, batch: Tensor, facts: str, _: Predictor) -> Write:
    program = _traced(model, batch)
    return lambda file: torch.export.save(program, file, extra_files={"model.json": facts})


def _onnx(model: nn.Module, batch: Tensor, facts: str, _: Predictor) -> Write:
    try:
        import onnxscript  # noqa: F401 torch imports it late, with another error
    except ImportError:
        raise ConfigError(
            "--out FILE.onnx needs two packages: pip install 'noisebench[export]'"
        ) from None
    program = torch.onnx.export(
        _traced(model, batch),
        (batch,),
        input_names=["input"],
        output_names=["probabilities"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "only without a file it returns the program"
    proto = program.model_proto
    proto.metadata_props.add(key="noisebench", value=facts)
    return lambda file: file.write(proto.SerializeToString())


def _weights(model: nn.Module, _: Tensor, facts: str, predictor: Predictor) -> Write:
    """The weights of timm's network with its classifier, for frozen features with the head as the
    classifier. Raises DataError for networks that are not timm's.
    """
    import timm
    from safetensors.torch import save

    record = predictor.record
    name = timm_name(predictor)
    if name is None or len(predictor.networks.networks) > 1:
        raise DataError(
            f"{record['model']['name']} is no network of timm alone, and weights without their "
            "network are of no use: give FILE.onnx or FILE.pt2, which contain it"
        )
    (network,) = predictor.networks.networks
    state = dict(network.state_dict())
    num_classes = record["data"]["num_classes"]
    if predictor.extractor:
        frozen: Any = predictor.extractor.network
        classifier = frozen.default_cfg["classifier"]
        head: Any = network.get_submodule("head")
        std, mean = predictor.networks.normalise.std, predictor.networks.normalise.mean
        weight = head.weight / std
        state = dict(frozen.state_dict())
        old = state[f"{classifier}.weight"]
        state[f"{classifier}.weight"] = weight.view(num_classes, *old.shape[1:])
        state[f"{classifier}.bias"] = head.bias - weight @ mean
    channels = json.loads(facts)["input_shape"][0]
    plain = timm.create_model(name, num_classes=num_classes, in_chans=channels)
    try:
        plain.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"timm's {name} does not take these weights, since its stem was adapted to small "
            f"images ({str(error).splitlines()[-1].strip()}): give FILE.onnx or FILE.pt2"
        ) from None
    content = save(
        {key: value.contiguous().cpu() for key, value in state.items()}, {"noisebench": facts}
    )
    return lambda file: file.write(content)


def timm_name(predictor: Predictor) -> str | None:
    """The name in timm of a network whose classifier is the run's; None if there is none."""
    if predictor.extractor is None:
        name = predictor.record["model"]["name"]
    elif predictor.record["model"]["name"] == "linear":
        name = predictor.extractor.extraction.model
    else:
        return None
    return str(name).removeprefix(TIMM) if str(name).startswith(TIMM) else None


def model_facts(predictor: Predictor, suffix: str) -> dict[str, Any]:
    """What a model file says about itself: input, classes, preprocessing, and the run."""
    record, networks = predictor.record, predictor.networks
    plain = suffix == ".safetensors"  # timm's network, without what ExportedModel adds
    facts: dict[str, Any] = {
        "run": record["title"],
        "key": record["key"],
        "noisebench": record["environment"].get("noisebench"),
        "classes": list(map(str, predictor.classes)),
        "output": f"{'logits' if plain else 'probabilities'} (n, K) of the classes",
    }
    if predictor.takes_features:
        return {**facts, "input": "features (n, D), float32", "input_shape": [networks.shape[2]]}
    fitting = predictor.fitting
    channels = 3 if predictor.extractor else networks.shape[2]
    return {
        **facts,
        "input": f"images (n, C, H, W), float32 in [0, 1], {'RGB' if channels == 3 else 'grey'}; "
        + ("to be normalized by mean and std" if plain else "normalization is part of the model"),
        "input_shape": [channels, fitting.height, fitting.width],
        "resize": {"fit": fitting.fit, "centre": fitting.centre, "filter": "bilinear, antialiased"},
        "timm": timm_name(predictor),
        "mean": ((predictor.extractor or networks).normalise.mean / 255).tolist(),
        "std": ((predictor.extractor or networks).normalise.std / 255).tolist(),
    }


def model_card(predictor: Predictor, facts: dict[str, Any], path: Path) -> str:
    """Markdown: what the model is, what it was trained on, how good it is, and how to load it."""
    record = predictor.record
    noise, accuracy = record["noise"], record["metrics"]["test_acc"]["last"]
    rate = noise.get("realised_rate")
    known = "" if rate is None else f", {100 * rate:.1f} % of the labels incorrect"
    recipe = record["recipe"]
    preprocessing = record["data"]["preprocessing"]
    rows = {
        "Run": f"{record['title']} (key {record['key'][:8]})",
        "Network": f"{record['model']['name']}"
        + (f" on features of {predictor.extraction.label}" if predictor.extraction else ""),
        "Method": f"loss `{record['loss']}`, strategy `{record['strategy']}`, "
        f"{recipe['epochs']} epochs",
        "Training labels": f"{noise['text']}{known}",
        "Test accuracy": f"{100 * accuracy:.2f} %, last epoch, on the data set's test labels, "
        f"assumed to be correct; computed in {record['precision']}, the exported model computes in "
        "float32",
        "Classes": ", ".join(f"{number} {name}" for number, name in enumerate(facts["classes"])),
        "Input": facts["input"],
        "Output": facts["output"],
        "Input shape": str(facts["input_shape"]),
        "Preprocessing": "; ".join(preprocessing),
        "License": "unknown: that of the training data and of initial weights applies",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return (
        f"# {_cell(path.name)}\n\n| | |\n| --- | --- |\n{table}\n\n## Use\n\n```python\n"
        f"{snippet(facts, path)}```\n"
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def snippet(facts: dict[str, Any], path: Path) -> str:
    """Python code that loads the model and predicts one file, without noisebench."""
    suffix, name = path.suffix.lower(), path.name
    lines = ["import json", "import sys", "", "import numpy as np"]
    images = len(facts["input_shape"]) == 3
    if images:
        lines.append("from PIL import Image, ImageOps")
    lines.append("")
    if suffix == ".onnx":
        lines += [
            "import onnxruntime",
            "",
            f"session = onnxruntime.InferenceSession({name!r})",
            "metadata = session.get_modelmeta().custom_metadata_map",
            'classes = json.loads(metadata["noisebench"])["classes"]',
        ]
        predict = ['p = session.run(None, {"input": x})[0][0]']
    elif suffix == ".pt2":
        lines += [
            "import torch",
            "",
            'extra = {"model.json": ""}',
            f"model = torch.export.load({name!r}, extra_files=extra).module()",
            'classes = json.loads(extra["model.json"])["classes"]',
        ]
        predict = ["p = model(torch.from_numpy(x))[0].detach().numpy()"]
    else:
        lines += [
            "import timm",
            "import torch",
            "from safetensors import safe_open",
            "from safetensors.torch import load_file",
            "",
            f'with safe_open({name!r}, "pt") as file:',
            '    facts = json.loads(file.metadata()["noisebench"])',
            'classes = facts["classes"]',
            f"model = timm.create_model({facts['timm']!r}, num_classes=len(classes), "
            f"in_chans={facts['input_shape'][0]})",
            f"model.load_state_dict(load_file({name!r}))",
            "model.eval()",
            "",
        ]
        predict = [
            'mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))',
            "with torch.no_grad():",
            "    p = model((torch.from_numpy(x) - mean) / std).softmax(1)[0].numpy()",
        ]
    lines += ["", *(_reading(facts) if images else _features), *predict, ""]
    lines.append("print(classes[int(p.argmax())], float(p.max()))")
    return "\n".join(lines) + "\n"


_features = ["x = np.load(sys.argv[1])[:1].astype(np.float32)  # features (n, D) in a .npy"]


def _reading(facts: dict[str, Any]) -> list[str]:
    """Lines that read the image sys.argv[1] into x (1, C, H, W), resized as in training."""
    channels, height, width = facts["input_shape"]
    fit, centre = facts["resize"]["fit"], facts["resize"]["centre"]
    mode = "L" if channels == 1 else "RGB"
    lines = [
        "image = ImageOps.exif_transpose(Image.open(sys.argv[1]))",
        'if image.mode.startswith("I"):  # of 16 bits, the highest 8',
        "    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))",
        'if "A" in image.getbands() or "transparency" in image.info:  # put on white',
        '    image = image.convert("RGBA")',
        '    white = Image.new("RGB", image.size, "white")',
        '    white.paste(image, mask=image.getchannel("A"))',
        "    image = white",
        f'image = image.convert("{mode}")',
    ]
    if fit == "squash":
        lines += [f"image = image.resize(({width}, {height}), Image.Resampling.BILINEAR)"]
    elif fit == "pad":
        lines += [
            f"scale = min({height} / image.height, {width} / image.width)",
            "small = image.resize((max(1, round(image.width * scale)), "
            "max(1, round(image.height * scale))), Image.Resampling.BILINEAR)",
            f"image = Image.new(small.mode, ({width}, {height}))",
            f"image.paste(small, (({width} - small.width) // 2, ({height} - small.height) // 2))",
        ]
    else:
        tall, wide = int(height / centre), int(width / centre)
        lines += [
            f"tall, wide = {tall}, {wide}  # the shorter side, of which the middle is kept",
            "if image.width * tall <= image.height * wide:",
            "    size = wide, max(tall, int(wide * image.height / image.width))",
            "else:",
            "    size = max(wide, int(tall * image.width / image.height)), tall",
            "image = image.resize(size, Image.Resampling.BILINEAR)",
            f"left, top = round((size[0] - {width}) / 2), round((size[1] - {height}) / 2)",
            f"image = image.crop((left, top, left + {width}, top + {height}))",
        ]
    lines += [
        f"x = np.asarray(image, np.float32).reshape({height}, {width}, {channels}) / 255",
        "x = x.transpose(2, 0, 1)[None].copy()",
    ]
    return lines
