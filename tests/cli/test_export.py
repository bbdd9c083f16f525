"""`export`: the model card's own code, run where noisebench cannot be imported, gives the classes that
`predict` gives.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from noisebench.cli import main
from tests.cli.test_predict import predicted, trained, write_digits

FORBID = "import sys; sys.modules['noisebench'] = None; sys.argv = sys.argv[:2]\n"
FEATURES = ["--features", "timm:test_resnet", "--feature-weights", "w.safetensors"]


@pytest.fixture(params=["mlp", "features"], scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one run, on colour images that are no squares."""
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_digits(Path("pets"))
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet").state_dict(), "w.safetensors")
        kind = ["--model", "mlp"] if request.param == "mlp" else [*FEATURES, "--img-size", "80"]
        trained("pets", "--sym", "0.2", "--precision", "fp32", *kind)
    return place


def loaded(card: Path, image: str) -> tuple[str, float]:
    """The class and probability that the card's code prints."""
    found = re.search(r"```python\n(.*?)```", card.read_text("utf-8"), re.DOTALL)
    assert found, "a card shows how the model is loaded"
    Path("use.py").write_text(FORBID + found[1], encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "use.py", image]
    out = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    name, _, p = out.strip().rpartition(" ")
    return name, float(p)


def test_the_code_of_the_card_gives_the_classes_of_predict(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (run,) = (path.name for path in Path("runs").iterdir())
    expected = predicted(capsys, run, "pets/test")
    for suffix in (".onnx", ".pt2", ".safetensors"):
        words = ["-q", "export", run, "-o", f"m{suffix}", "--force"]
        if suffix == ".safetensors" and place.name.startswith("mlp"):
            assert main(words) == 2  # no network of timm
            assert not Path(f"m{suffix}").exists()
            continue
        assert main(words) == 0
        for line in (expected[0], expected[-1]):
            name, p = loaded(Path("m.md"), line["path"])
            assert name == line["class"].removeprefix("'")
            assert p == pytest.approx(float(line["probability"]), abs=2e-3)
    assert main(["-q", "export", run, "-o", "m.onnx"]) == 2  # exists
    assert main(["-q", "export", run, "-o", "m.bin"]) == 2


def test_the_code_of_the_card_reads_images_of_any_kind_as_predict_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_digits(Path("pets"))
    torch.manual_seed(0)
    options = ["--model", "timm:test_resnet", "--img-size", "80", "--precision", "fp32"]
    run = trained("pets", "--sym", "0.2", *options).path.name
    grey = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)
    colour = Image.fromarray(np.stack([grey, grey.max() - grey, grey // 2], 2))
    Path("new").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save("new/turned.jpg", exif=exif)
    Image.fromarray(grey.astype(np.uint16) * 257).save("new/deep.png")
    Image.merge("RGBA", (*colour.split(), Image.fromarray(grey))).save("new/alpha.png")
    colour.convert("P").save("new/palette.png", transparency=3)
    assert main(["-q", "export", run, "-o", "m.safetensors"]) == 0
    lines = predicted(capsys, run, "new")
    assert len(lines) == 4
    for line in lines:
        name, p = loaded(Path("m.md"), line["path"])
        assert name == line["class"].removeprefix("'")
        assert p == pytest.approx(float(line["probability"]), abs=1e-4)
    with safe_open("m.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["noisebench"])
    assert "logits" in facts["output"]  # of timm's network alone


def test_onnxruntime_gives_the_classes_of_a_whole_batch_of_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = (rng.normal(size=(3, 5))[labels] * 3 + rng.normal(size=(120, 5))).astype(np.float32)
    parts = {"train": slice(0, 90), "test": slice(90, 120)}
    arrays = {f"{name}_features": features[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
    np.savez("made.npz", **arrays)
    run = trained("made.npz", "--sym", "0.2", "--precision", "fp32").path.name
    assert main(["-q", "export", run, "-o", "m.onnx"]) == 0
    session = onnxruntime.InferenceSession("m.onnx")
    (p,) = session.run(None, {"input": features[90:]})
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    lines = predicted(capsys, run, "made.npz")
    assert p.argmax(1).tolist() == [int(line["class"]) for line in lines]
