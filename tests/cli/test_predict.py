"""`predict`: new images are prepared as the run's own, so that its own images have its recorded
predictions.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from noisebench.cli import main
from noisebench.runs.folder import RunFolder

CLASSES = ("猫", "naïve", "=1+1")
CELLS = ("'=1+1", "naïve", "猫")  # sorted, and safe for a spreadsheet


def write_digits(place: Path) -> list[tuple[str, int]]:
    """Colour images of the digits 0 to 2 in folders; returns the paths of the test part and the
    classes.
    """
    digits, written = load_digits(), []
    for number in np.flatnonzero(digits.target < 3)[:180].tolist():
        part = "test" if number % 3 == 0 else "train"
        kind = int(digits.target[number])
        path = place / part / CLASSES[kind] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").resize((12, 10)).save(path)
        if part == "test":
            written.append((str(path), kind))
    return sorted(written)


def trained(*words: str) -> RunFolder:
    assert main(["-q", "train", *words, "--epochs", "2"]) == 0
    (path,) = Path("runs").iterdir()
    return RunFolder(path)


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["-q", "predict", *words]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("features", [False, True])
def test_the_test_images_of_a_run_have_its_recorded_predictions(
    features: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For images of other sizes than the network's, colour, and classes in any script."""
    monkeypatch.chdir(tmp_path)
    tests = write_digits(Path("pets"))
    options = ["--model", "mlp"]
    if features:
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet").state_dict(), "weights.safetensors")
        options = ["--features", "timm:test_resnet", "--feature-weights", "weights.safetensors"]
        options += ["--img-size", "32"]
    run = trained("pets", "--sym", "0.2", *options)
    recorded = run.read_arrays()["test_log_p"].astype(np.float32)
    lines = predicted(capsys, run.path.name, "pets/test", "--top", "3")
    assert [line["path"] for line in lines] == [path for path, _ in tests]
    for line, log_p in zip(lines, recorded, strict=True):
        found = {
            line[f"class{rank}"]: float(line[f"probability{rank}"]) for rank in ("", "_2", "_3")
        }
        expected = dict(zip(CELLS, np.exp(log_p).tolist(), strict=True))
        assert found == pytest.approx(expected, abs=2e-3)  # recorded as float16
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_directory_a_list_stdin_and_an_array_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tests = write_digits(Path("pets"))
    key = trained("pets", "--sym", "0.2", "--model", "mlp").path.name.rpartition("__")[2]
    paths = [path for path, _ in tests]
    expected = predicted(capsys, key, "pets/test")
    Path("list.txt").write_text("\n".join(paths), encoding="utf-8")
    assert predicted(capsys, key, "list.txt") == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(paths)))
    assert predicted(capsys, key, "-") == expected
    assert predicted(capsys, key, paths[0]) == expected[:1]
    np.savez("new.npz", images=np.stack([np.asarray(Image.open(path)) for path in paths]))
    probabilities = [line["probability"] for line in predicted(capsys, key, "new.npz")]
    assert probabilities == [line["probability"] for line in expected]
    assert main(["-q", "predict", key, "pets/test", "-o", "out.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert [line["path"] for line in lines] == paths
    assert [line["top"][0]["class"] for line in lines] == [
        line["class"].removeprefix("'") for line in expected
    ]


def test_files_that_are_no_images_are_listed_and_the_others_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tests = write_digits(Path("pets"))
    run = trained("pets", "--sym", "0.2", "--model", "mlp").path.name
    bad = ["pets/test/broken.png", "pets/test/absent.png"]
    Path(bad[0]).write_bytes(b"no image")
    Path("list.txt").write_text("\n".join([bad[0], tests[0][0], bad[1]]), encoding="utf-8")
    capsys.readouterr()
    assert main(["-q", "predict", run, "list.txt", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [line["path"] for line in found["predictions"]] == [tests[0][0]]
    assert len(found["unreadable"]) == 2
    assert all(path in text for path, text in zip(bad, found["unreadable"], strict=True))
    assert all(path in err for path in bad)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tests[0][0]}\n\udcff.png\n"))
    assert [line["path"] for line in predicted(capsys, run, "-")] == [tests[0][0]]  # no UTF-8
    assert main(["-q", "predict", run, bad[0], "-o", "out.csv"]) == 2
    assert not Path("out.csv").exists()


def test_a_run_on_features_takes_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = (rng.normal(size=(3, 5))[labels] * 3 + rng.normal(size=(120, 5))).astype(np.float32)
    np.savez(
        "made.npz",
        train_features=features[:90],
        train_labels=labels[:90],
        test_features=features[90:],
        test_labels=labels[90:],
    )
    run = trained("made.npz", "--sym", "0.2")
    recorded = run.read_arrays()["test_log_p"].argmax(1)
    lines = predicted(capsys, run.path.name, "made.npz")
    assert [int(line["class"]) for line in lines] == recorded.tolist()
    np.save("wide.npy", np.zeros((2, 6), np.float32))
    np.save("images.npy", np.zeros((2, 8, 8), np.uint8))
    for name in ("wide.npy", "images.npy", "absent"):
        assert main(["-q", "predict", run.path.name, name]) == 2
