"""Features in place of images: files are read as they are or refused, heads train as plain torch
does, and a frozen network's features are those of timm, computed once.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_wine
from sklearn.neighbors import NearestNeighbors

from noisebench.cli import main
from noisebench.core.files.arrays import map_npz_array
from noisebench.datasets import find_dataset, fingerprint, read_images, read_labels
from noisebench.errors import DataError
from noisebench.experiments.backbones import initial_of
from noisebench.experiments.command import repro_command
from noisebench.experiments.features import FeatureNetwork
from noisebench.experiments.recipes import Recipe
from noisebench.losses import build_loss
from noisebench.runs.folder import run_folders
from noisebench.runs.workspace import Workspace
from noisebench.strategies import build_strategy
from noisebench.training import images as sources
from noisebench.training.features import FeatureExtractor, extract_to_file, stored_features
from noisebench.training.images import InMemoryFeatures, Normalisation
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import Task, Trainer
from tests.conftest import Case, same, weights

CPU = torch.device("cpu")
TINY = "timm:test_resnet"
NAMES = ("spam", "ham", "eggs")


def wine(dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """178 examples of 13 chemical measurements in 3 classes, in random order."""
    data = load_wine()
    order = np.random.default_rng(0).permutation(len(data.data))
    return data.data[order].astype(dtype), data.target[order]


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    x, y = wine()
    return saved(
        tmp_path / "wine.npz",
        train_features=x[:120],
        train_labels=y[:120],
        test_features=x[120:],
        test_labels=y[120:],
    )


def opened(path: Path) -> tuple[np.ndarray, np.ndarray]:
    images = read_images(find_dataset(str(path)), Path("unused"))
    return np.asarray(images.train_images), images.train_labels


def test_mapped_arrays_are_those_of_numpy(tmp_path: Path, case: Case) -> None:
    values = np.random.default_rng(0).normal(size=(37, 5))
    arrays = {
        "half": values.astype(np.float16),
        "single": values.astype(np.float32),
        "fortran": np.asfortranarray(values),
        "empty": values[:0],
        "numbers": np.arange(11),
    }
    for write in (np.savez, np.savez_compressed):
        path = tmp_path / f"{write.__name__}.npz"
        write(path, **arrays)  # type: ignore[operator]
        for name, array in arrays.items():
            with case(write=write.__name__, array=name):
                mapped = map_npz_array(path, name)
                assert mapped.dtype == array.dtype and np.array_equal(mapped, array)


def test_a_file_gives_features_labels_and_classes_as_they_are(tmp_path: Path) -> None:
    x, y = wine(np.float16)
    path = saved(
        tmp_path / "wine.npz",
        train_features=x[:100],
        train_labels=np.array(NAMES)[y[:100]],
        test_features=x[100:],
        test_labels=np.array(NAMES)[y[100:]],
        classes=np.array(NAMES),
        ids=np.array([f"bottle {i}" for i in range(100)]),
    )
    dataset = find_dataset(str(path))
    assert dataset.classes == NAMES and dataset.dimensions == 13 and not dataset.decisions
    labels, images = read_labels(dataset, tmp_path), read_images(dataset, tmp_path)
    assert labels.ids[7] == "bottle 7" and np.array_equal(labels.labels, y[:100])
    assert np.array_equal(images.train_images, x[:100])
    assert np.array_equal(images.test_images, x[100:])
    assert np.array_equal(images.test_labels, y[100:])


def test_each_number_and_its_type_are_part_of_the_fingerprint() -> None:
    x, _ = wine()
    changed = x.copy()
    changed[50, 3] = np.nextafter(changed[50, 3], np.inf)
    assert len({fingerprint(x), fingerprint(changed), fingerprint(x.astype(np.float64))}) == 3


def test_a_table_in_parquet_is_read_by_its_columns(tmp_path: Path, case: Case) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x, y = wine()
    names = np.array(NAMES)[y]
    split = np.where(np.arange(len(y)) % 5 == 0, "test", "train")
    lists = {"features": list(x), "label": names, "split": split, "id": np.arange(len(y))}
    fixed = {**lists, "features": arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), 13)}
    wide = {**{f"column {d}": x[:, d] for d in range(13)}, "note": names, "label": y,
            "split": split, "id": np.arange(len(y))}  # fmt: skip
    for kind, columns in {"lists": lists, "fixed": fixed, "wide": wide}.items():
        with case(kind=kind):
            path = tmp_path / f"{kind}.parquet"
            parquet.write_table(arrow.table(columns), path)
            dataset = find_dataset(str(path))
            images = read_images(dataset, tmp_path)
            assert np.array_equal(images.train_images, x[split == "train"])
            assert np.array_equal(images.test_images, x[split == "test"])
            expected = y if kind == "wide" else np.unique(names, return_inverse=True)[1]
            assert np.array_equal(images.train_labels, expected[split == "train"])
            assert images.ids == tuple(map(str, np.flatnonzero(split == "train")))
            assert any("column" in line and "note" in line for line in dataset.decisions) == (
                kind == "wide"
            )


def test_without_a_test_part_a_fifth_of_each_class_is_reserved(tmp_path: Path) -> None:
    x, y = wine()
    path = saved(tmp_path / "wine.npz", train_features=x, train_labels=y)
    dataset = find_dataset(str(path))
    images, labels = read_images(dataset, tmp_path), read_labels(dataset, tmp_path)
    kept = np.array([int(name.removeprefix("row ")) for name in labels.ids])
    reserved = np.setdiff1d(np.arange(len(y)), kept)
    assert np.array_equal(images.train_images, x[kept])
    assert np.array_equal(images.test_images, x[reserved])
    assert np.array_equal(np.bincount(y[reserved]), np.bincount(y) // 5)
    assert f"{len(reserved)} of 178" in dataset.decisions[0]


def test_what_cannot_be_right_is_refused_with_the_reason(tmp_path: Path, case: Case) -> None:
    x, y = wine()
    good = {
        "train_features": x,
        "train_labels": y,
        "test_features": x[:50] + 1,
        "test_labels": y[:50],
    }
    broken = x.copy()
    broken[17, 2] = np.nan
    for change, reason in (
        ({"train_features": broken}, "row 17"),
        ({"test_features": broken + 1}, "row 17"),
        ({"test_features": x[:50, :12]}, "13 dimensions, the test features 12"),
        ({"train_labels": y[:-1]}, "178 train_features, but 177 labels"),
        ({"train_features": x.reshape(-1)}, r"\(N, D\)"),
        ({"train_features": x.astype(str)}, "numbers"),
        ({"ids": np.repeat("one", 178)}, "same id"),
        ({"ids": np.arange(3)}, "3 ids for 178"),
        ({"classes": np.array(["a", "b"])}, "classes are 0 to 1"),
        ({"classes": np.array(["a", "b", "c", "d"])}, "no training example has the class d"),
        ({"train_labels": np.array(NAMES)[y]}, "labels"),
    ):
        with case(reason=reason), pytest.raises(DataError, match=reason):
            arrays = {**good, **change}
            if "test_features" in change and len(change["test_features"]) != 50:
                arrays["test_labels"] = y
            opened(saved(tmp_path / "bad.npz", **arrays))
    with pytest.raises(DataError, match="only one of"):
        opened(saved(tmp_path / "bad.npz", train_features=x, train_labels=y, test_labels=y))


def test_dimensions_are_standardized_whatever_their_offset_and_scale() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5000, 6)) * [1, 1e-3, 1e3, 1, 1, 0] + [0, 0, 0, 1e4, -300, 7]
    source = InMemoryFeatures(
        features.astype(np.float32), Normalisation.of(features.astype(np.float32)), CPU
    )
    rows = torch.cat(list(source.eval_batches()))
    assert torch.allclose(rows.mean(0), torch.zeros(6), atol=1e-3)
    assert torch.allclose(rows.std(0), torch.tensor([1.0, 1, 1, 1, 1, 0]), atol=1e-3)
    assert not rows[:, 5].any()


def test_a_file_larger_than_the_limit_gives_the_same_batches(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = map_npz_array(table, "train_features")
    normalise, index = Normalisation.of(features), torch.tensor([5, 3, 3, 119, 0])
    kept = InMemoryFeatures(features, normalise, CPU)
    monkeypatch.setattr(sources, "_LARGEST_FEATURES", 0)
    mapped = InMemoryFeatures(features, normalise, CPU)
    assert torch.equal(kept.rows(index), mapped.rows(index))
    assert all(map(torch.equal, kept.eval_batches(), mapped.eval_batches()))


def trainer_of(
    loss: str = "ce", model: str = "linear", seed: int = 0, first: Trainer | None = None
) -> Trainer:
    x, y = wine()
    task = Task(
        x[:120],
        np.roll(y[:120], seed),
        x[120:],
        3,
        model,
        build_loss(loss),
        build_strategy("standard"),
        Recipe(3, batch_size=32, lr=0.05, weight_decay=1e-3),
    )
    return Trainer(task, CPU, first)


def test_a_linear_head_is_trained_as_plain_torch_does() -> None:
    trainer = trainer_of()
    x, y = wine()
    rows = torch.from_numpy((x - x[:120].mean(0)) / x[:120].std(0))
    head = torch.nn.Linear(13, 3)
    head.load_state_dict(dict(trainer.networks[0].head.state_dict()))
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(3):
        for step, index in enumerate(trainer.state.batches):
            optimizer.param_groups[0]["lr"] = 0.05 * trainer.state.lr_factor(step)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(rows[index]), torch.from_numpy(y)[index])
            loss.backward()
            optimizer.step()
        result = trainer.run_epoch()
    expected = head(rows[120:]).log_softmax(1).detach().numpy()
    assert np.allclose(result.test_log_p, expected, atol=1e-4)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_in_a_pack_heads_read_each_batch_together_and_learn_as_alone(model: str) -> None:
    losses = ["ce", "ce", "gce", "el(eps=0.4)"]
    alone = [trainer_of(loss, model, seed) for seed, loss in enumerate(losses)]
    single = [[trainer.run_epoch() for _ in range(3)][-1] for trainer in alone]
    members = [trainer_of(loss, model, seed) for seed, loss in enumerate(losses)]
    pack = PackedTrainer(members, 6, losses)
    results = [pack.run_epoch() for _ in range(3)][-1]
    for result, expected in zip(results, single, strict=True):
        assert not isinstance(result, Exception)
        assert np.allclose(result.test_log_p, expected.test_log_p, atol=1e-4)
        assert np.allclose(result.train_p, expected.train_p, atol=1e-4)


def test_a_run_of_a_pack_depends_on_no_other_bit_for_bit() -> None:
    def trained(losses: list[str]) -> list[np.ndarray]:
        members = [trainer_of(loss, seed=seed) for seed, loss in enumerate(losses)]
        pack = PackedTrainer(members, 6, losses)
        pack.run_epoch()
        return weights(members[0])

    assert same(trained(["ce", "ce", "gce"]), trained(["ce", "el(eps=2)"]))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of timm's smallest network, random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_resnet")
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


def extractor_of(path: Path, size: int = 96) -> FeatureExtractor:
    extraction = FeatureNetwork(TINY, initial_of(str(path), path)).at(size, "crop", "fp32")
    return FeatureExtractor(extraction, CPU)


def test_features_are_what_timms_classifier_gets(network: Path) -> None:
    from safetensors.torch import load_file

    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    features = extractor_of(network)(images)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    model.load_state_dict(load_file(network), strict=False)
    config = model.pretrained_cfg
    pixels = (images / 255 - config["mean"]) / config["std"]
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    assert features.dtype == np.float16 and np.allclose(features, expected, rtol=2e-3, atol=2e-3)


def test_an_interrupted_extraction_continues_after_its_last_whole_row(
    network: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 96, 96, 3), np.uint8)
    extractor, read_from = extractor_of(network), []

    def read(start: int, stop: int) -> np.ndarray:
        read_from.append(start)
        if len(read_from) == 3:
            raise KeyboardInterrupt
        return images[start:stop]

    path = tmp_path / "features.npy"
    with pytest.raises(KeyboardInterrupt):
        extract_to_file(extractor, read, len(images), path)
    partial = path.with_suffix(".partial")
    assert stored_features(path, len(images)) is None and partial.exists()
    partial.write_bytes(partial.read_bytes()[:-3])  # a row that a crash cut
    del read_from[:]
    extract_to_file(extractor, lambda a, b: read_from.append(a) or images[a:b], 150, path)
    assert read_from[0] > 0 and not partial.exists()
    stored = stored_features(path, 150)
    assert stored is not None and np.allclose(stored, extractor(images), rtol=2e-3, atol=2e-3)
    assert stored_features(path, 151) is None


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEBENCH_DATA", str(tmp_path / "data"))
    return lambda *words: main([str(word) for word in words])


def test_a_table_goes_all_the_way(
    run: Run, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("corrupt", table, "--sym", 0.3) == 0
    assert run("train", "--loss", "gce", "--epochs", 20, "--lr", 0.3) == 0
    (folder,) = run_folders([Path("runs")])
    record = folder.record()
    assert record["model"]["name"] == "linear" and record["metrics"]["test_acc"]["last"] > 0.9
    capsys.readouterr()
    assert run("evaluate", folder.path, "--verify", "--json") == 0
    checks = json.loads(capsys.readouterr().out)
    assert "'status': 'differs'" not in str(checks) and "'status': 'same'" in str(checks)
    assert run("evaluate", folder.path, "--cv-folds", 3, "--suspects", "list.csv") == 0
    (manifest,) = Path("manifests").glob("wine*.csv")
    assert run("corrupt", "--manifest", manifest, "--suspects", "list.csv", "--drop") == 0
    assert run("train", "--loss", "ce", "--epochs", 20, "--lr", 0.3) == 0
    assert (
        run(
            "train",
            table,
            "--noise",
            "symmetric(rate=0.3)",
            "--eps",
            "estimated",
            "--loss",
            "el",
            "--epochs",
            4,
        )
        == 0
    )
    assert run("report", "--format", "csv") == 0
    assert (
        run("report", "-o", "page.html") == 0 and "has no images" in Path("page.html").read_text()
    )


def test_features_of_images_are_computed_once_and_verified(
    run: Run, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = ("--features", TINY, "--feature-weights", network, "--img-size", 32)
    recipe = ("--epochs", 2, "--precision", "fp32", "--seed", 3)
    assert run("corrupt", "digits", "--sym", 0.4) == 0
    assert run("train", *features, *recipe) == 0
    stored = {path: path.stat().st_mtime_ns for path in Path("data/features").glob("*.npy")}
    assert len(stored) == 2  # training and test images
    assert run("train", *features, *recipe, "--loss", "gce", "--model", "mlp") == 0
    assert stored == {path: path.stat().st_mtime_ns for path in Path("data/features").glob("*.npy")}
    folders = run_folders([Path("runs")])
    assert len(folders) == 2
    for folder in folders:
        record = folder.record()
        assert record["features"]["model"] == TINY and record["data"]["name"] == "digits"
        capsys.readouterr()
        assert run("evaluate", folder.path, "--verify") == 0
        assert run(*shlex.split(repro_command(folder.about()).command)[1:], "--dry-run") == 0
        assert record["key"][:8] in capsys.readouterr().out
    assert run("train", *features[:4], "--img-size", 48, *recipe, "--dry-run") == 0
    assert folders[0].path.name.rpartition("__")[2] not in capsys.readouterr().out
    assert run("report", "--filter", "model=linear") == 0
    assert "features test_resnet@32" in capsys.readouterr().out


def test_a_suite_compares_features_with_images(
    run: Run, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("benchmarks.yaml").write_text(f"""
version: 1
suites:
  both:
    defaults:
      {{dataset: digits, epochs: 1, feature_weights: {network}, img_size: 32, noise: symmetric(rate=0.4)}}
    matrix: {{features: ["{TINY}"], model: [linear, mlp], method: [ce, gce]}}
    report: {{rows: method, cols: model}}
""")
    assert run("run", "both", "--executor", "local") == 0
    out = capsys.readouterr().out
    assert "features test_resnet@32" in out and "gce" in out
    assert run("run", "both", "--dry-run", "--filter", f"features={TINY}") == 0
    assert "4 done" in capsys.readouterr().out


def test_what_has_no_effect_or_cannot_be_is_refused(
    run: Run, table: Path, network: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    features = ("--features", TINY, "--feature-weights", network, "--img-size", 32)
    assert run("corrupt", "digits", "--sym", 0.4, "--out", "digits.csv") == 0
    assert run("corrupt", table, "--sym", 0.4, "--out", "table.csv") == 0
    np.save("net.npy", np.zeros(3))
    save_file({"other.weight": torch.zeros(3)}, "other.safetensors")
    for manifest, words, reason in (
        ("digits", (*features, "--strategy", "dividemix"), "needs 2 augmented views"),
        ("table", ("--strategy", "dividemix"), "needs 2 augmented views"),
        ("digits", (*features, "--model", "cnn8"), "cnn8 needs images"),
        ("table", ("--model", "timm:test_resnet"), "needs images"),
        ("digits", (*features, "--crop", 2), "crop has no effect on features"),
        ("table", ("--img-size", 32), "img_size has no effect on features"),
        ("digits", ("--feature-weights", network), "no effect without --features"),
        ("digits", (*features[:2], "--feature-weights", "none"), "random network"),
        ("digits", (*features[:2], "--feature-weights", "other.safetensors"), "does not fit"),
        ("digits", (*features[:2], "--feature-weights", "missing.pt"), "--feature-weights missing"),
        ("digits", ("--features", "cnn8", "--feature-weights", network), "features must be timm:"),
        ("table", features, "has features already"),
    ):
        with case(manifest=manifest, words=words):
            capsys.readouterr()
            assert run("train", "--manifest", f"{manifest}.csv", "--epochs", 1, *words) != 0
            assert reason in capsys.readouterr().err
    for noise in ("pdn(rate=0.2)", "dependent(rate=0.2)"):
        with case(noise=noise):
            assert run("corrupt", table, "--noise", noise) != 0
            assert "has no images" in capsys.readouterr().err


def test_workspace_keeps_other_networks_apart(network: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "data", offline=True)
    known = workspace.feature_network(TINY, str(network))
    assert known is not None and workspace.feature_network(None, None) is None
    identities = {
        known.at(size, fit, precision).facts["sha256"]
        for size in (32, 48)
        for fit in ("crop", "pad")
        for precision in ("fp32", "bf16")
    }
    assert len(identities) == 8


def test_neighbours_vote_as_scikit_learns_and_not_on_themselves(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = wine()
    x = (x - x.mean(0)) / x.std(0)
    path = saved(
        tmp_path / "wine.npz",
        train_features=x[:120],
        train_labels=y[:120],
        test_features=x[120:],
        test_labels=y[120:],
    )
    assert run("train", path, "--sym", 0.3, "--model", "knn", "--precision", "fp32") == 0
    (folder,) = run_folders([Path("runs")])
    arrays = np.load(folder.predictions)
    given = arrays["recorded_labels"]
    mean, std = x[:120].mean(0), x[:120].std(0)
    rows = (x - mean) / std
    search = NearestNeighbors(n_neighbors=21, metric="cosine").fit(rows[:120])
    for part, queries, first in (("train", rows[:120], 1), ("test", rows[120:], 0)):
        nearest = search.kneighbors(queries, return_distance=False)[:, first : first + 20]
        votes = np.stack([(given[nearest] == k).sum(1) for k in range(3)], 1)
        expected = np.log((votes + 0.1) / 20.3)
        found = np.sort(arrays[f"{part}_log_p"], 1)
        assert np.allclose(found, np.sort(expected, 1), atol=2e-2)
    capsys.readouterr()
    assert run("evaluate", folder.path, "--verify") == 0
    for words in (("--loss", "gce"), ("--strategy", "elr"), ("--epochs", 3)):
        assert run("train", path, "--sym", 0.3, "--model", "knn", *words) != 0
        assert "not trained" in capsys.readouterr().err
    assert run("train", "digits", "--sym", 0.3, "--model", "knn") != 0
    assert "needs features" in capsys.readouterr().err


def test_a_network_without_a_single_classification_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "levit.safetensors"
    save_file(timm.create_model("levit_128s").state_dict(), path)
    network = FeatureNetwork("timm:levit_128s", initial_of(str(path), path))
    with pytest.raises(DataError, match="no single classification layer"):
        FeatureExtractor(network.at(224, "crop", "fp32"), CPU)


def test_streamed_images_have_the_features_of_the_same_images_in_memory(
    run: Run, network: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 6)):
        for i in range(count):
            path = tmp_path / "photos" / part / f"class{i % 3}" / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)
    workspace = Workspace(tmp_path, tmp_path / "data", offline=True)
    extraction = FeatureNetwork(TINY, initial_of(str(network), network)).at(32, "crop", "fp32")
    found = []
    for name in ("photos", "folder:photos"):
        images = workspace.images(workspace.dataset(name))
        order = np.argsort(images.ids)
        found.append(np.asarray(workspace.features(images, extraction).train_images)[order])
    assert np.allclose(*found, atol=2e-3)
