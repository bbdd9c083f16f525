"""Pictures that are streamed: the same ones through every reader, the same training however they
are read, and what is refused.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader

from noisebench.cli import main
from noisebench.datasets import (
    Images,
    LazyImages,
    find_dataset,
    image_rows,
    read_images,
    read_labels,
)
from noisebench.datasets.images import Names
from noisebench.datasets.user_data import check_memory
from noisebench.errors import DataError
from noisebench.experiments import resolve
from noisebench.experiments.backbones import InitialWeights
from noisebench.experiments.recipes import RECIPES
from noisebench.experiments.resolve import RunRequest, resolve_run
from noisebench.experiments.suite import find_suite
from noisebench.labels.build import LabelRequest
from noisebench.labels.manifest import read_manifest
from noisebench.reporting.page.label_issues import PageImages
from noisebench.runs.folder import RunFolder
from noisebench.runs.inference import StoredNetworks, evaluate_on
from noisebench.runs.session import check_networks, make_trainer
from noisebench.runs.workspace import Workspace
from noisebench.strategies import build_strategy
from noisebench.training.images import EpochPlan, Normalisation, StreamTransform
from noisebench.training.inference import source_of
from tests.support import kills

CPU = torch.device("cpu")
CLASSES = ("airplane", "automobile", "bird")
TRAIN = [
    "--model",
    "cnn4",
    "--img-size",
    "16",
    "--batch-size",
    "16",
    "--lr",
    "0.05",
    "--precision",
    "fp32",
]


def write_folder(place: Path, images: np.ndarray, labels: np.ndarray, part: str, each: int) -> None:
    """Photographs of three things, of several sizes, as .png, so that no reader may differ by a
    decoder.
    """
    for k, name in enumerate(CLASSES):
        (place / part / name).mkdir(parents=True)
        for number, at in enumerate(np.flatnonzero(labels == k)[:each]):
            size = (40 + number % 3, 32 + number % 5)
            Image.fromarray(images[at]).resize(size, Image.Resampling.BICUBIC).save(
                place / part / name / f"{number:02d}.png"
            )


@pytest.fixture(scope="session")
def pets(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of CIFAR-10's photographs where these are at hand, else of handwritten digits, so that nobody
    skips all of this.
    """
    place = tmp_path_factory.mktemp("streamed") / "pets"
    archive = Path(os.environ.get("NOISEBENCH_DATA", "")) / "cifar10.npz"
    with np.load(archive) if archive.exists() else nullcontext(in_colour(digits)) as data:
        for part, source, each in (("train", "train", 16), ("val", "test", 4)):
            write_folder(
                place,
                data[f"{source}_images"][:2000],
                data[f"{source}_labels"][:2000].reshape(-1),
                part,
                each,
            )
    return place


def in_colour(digits: Images) -> dict[str, np.ndarray]:
    images = {
        f"{part}_images": getattr(digits, f"{part}_images").repeat(3, -1) * 15
        for part in ("train", "test")
    }
    return {**images, "train_labels": digits.train_labels, "test_labels": digits.test_labels}


def add(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    tar.addfile(member, io.BytesIO(raw))


def files_of(pets: Path, part: str) -> list[tuple[str, int, bytes]]:
    """Path below the part, class number and bytes."""
    paths = sorted((pets / part).rglob("*.png"))
    return [
        (
            path.relative_to(pets / part).as_posix(),
            CLASSES.index(path.parent.name),
            path.read_bytes(),
        )
        for path in paths
    ]


def as_one_tar(pets: Path, place: Path) -> str:
    with tarfile.open(place / "pets.tar", "w") as tar:
        for part in ("train", "val"):
            for name, _, raw in files_of(pets, part):
                add(tar, f"{part}/{name}", raw)
    return f"tar:{place / 'pets.tar'}"


def as_tars(pets: Path, place: Path) -> str:
    """train.tar and val.tar."""
    for part in ("train", "val"):
        with tarfile.open(place / f"{part}.tar", "w") as tar:
            for name, _, raw in files_of(pets, part):
                add(tar, name, raw)
    return f"tar:{place}"


def as_shards(pets: Path, place: Path) -> str:
    for part in ("train", "val"):
        files = files_of(pets, part)
        for shard in range(2):
            with tarfile.open(place / f"pets-{part}-{shard:02d}.tar", "w") as tar:
                for name, label, raw in files[
                    shard * len(files) // 2 : (shard + 1) * len(files) // 2
                ]:
                    key = name.removesuffix(".png").replace("/", "_")
                    add(tar, f"{key}.png", raw)
                    add(
                        tar,
                        f"{key}.cls" if shard else f"{key}.json",
                        (str(label) if shard else json.dumps({"label": label})).encode(),
                    )
    return f"wds:{place / 'pets-{train,val}-{00..01}.tar'}"


def as_table(pets: Path, place: Path) -> str:
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    for part, split in (("train", "train"), ("val", "validation")):
        rows = [
            {"image": {"bytes": raw, "path": None}, "label": label}
            for _, label, raw in files_of(pets, part)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(
            str(place / f"{split}.parquet")
        )
    return f"hfds:{place}"


@pytest.mark.parametrize("write", [as_one_tar, as_tars, as_shards, as_table])
def test_every_reader_has_the_same_pictures_and_labels_as_the_folder(
    write, pets, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    if write is as_shards:
        pytest.importorskip("braceexpand", reason="needs webdataset")
    (tmp_path / "data").mkdir()
    ours, theirs = (
        find_dataset(name, tmp_path) for name in (f"folder:{pets}", write(pets, tmp_path / "data"))
    )
    whole, other = (read_images(dataset, tmp_path, workers=0) for dataset in (ours, theirs))
    for part in ("train", "test"):
        a, b = (getattr(images, f"{part}_images") for images in (whole, other))
        np.testing.assert_array_equal(
            getattr(whole, f"{part}_labels"), getattr(other, f"{part}_labels")
        )
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        by_timm = [
            torch.cat(
                list(
                    source_of(
                        each, Normalisation.of(each), CPU, StreamTransform(32, 0.875)
                    ).eval_batches()
                )
            )
            for each in (a, b)
        ]
        assert torch.equal(*by_timm)
    assert (
        len(set(other.ids)) == 48
        and other.train_images.listing.sized().sizes.tolist()
        == whole.train_images.listing.sizes.tolist()
    )


def test_a_table_says_which_columns_it_takes_and_which_it_does_not_use(
    pets, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    name = as_table(pets, tmp_path / "data")
    for path in (tmp_path / "data").glob("*.parquet"):
        table = parquet.read_table(path)
        parquet.write_table(table.append_column("noisy_label", table["label"]), path)
    assert main(["-C", str(tmp_path), "corrupt", name, "--sym", "0.2"]) == 0
    assert (
        f"{name}: images from 'image', labels from 'label'; not used: noisy_label\n"
        in capsys.readouterr().err
    )


def test_a_table_may_have_names_or_whole_numbers_as_labels_and_nothing_else(
    pets, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")

    def described(label):
        place = tmp_path / f"t{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for part, split in (("train", "train"), ("val", "test"), ("val", "extra")):
            rows = [
                {"image": {"bytes": raw, "path": None}, "label": label(k)}
                for _, k, raw in files_of(pets, part)
            ]
            datasets.Dataset.from_list(rows).to_parquet(str(place / f"{split}.parquet"))
        return find_dataset(f"hfds:{place}", tmp_path)

    number = read_labels(find_dataset(f"folder:{pets}"), tmp_path).labels
    for label, classes in (
        (lambda k: CLASSES[k], CLASSES),
        (float, tuple(map(str, range(len(CLASSES))))),
    ):
        dataset = described(label)
        assert (
            dataset.classes == classes
            and read_labels(dataset, tmp_path).labels.tolist() == number.tolist()
        )
    for label in (
        lambda k: k + 0.5,
        lambda k: None if k == 0 else k,
        lambda k: None if k == 0 else str(k),
        lambda k: [k],
    ):
        with pytest.raises(DataError, match="label"):
            described(label)


def test_of_a_shard_nothing_is_dropped_silently_and_no_key_has_two_labels(tmp_path):
    def described(*beside):
        place = tmp_path / f"s{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for part in ("train", "test"):
            with tarfile.open(place / f"{part}-0.tar", "w") as tar:
                for k in range(2):
                    for name, raw in ((f"{k}.png", b"x"), (f"{k}.cls", str(k).encode()), *beside):
                        add(tar, name, raw)
        return find_dataset(f"wds:{place}", tmp_path)

    assert described(("0.json", b'{"label": "cat"}')).decisions == ()
    assert any("0.mask.png" in line for line in described(("0.mask.png", b"x")).decisions)
    for beside, what in (
        (("0.jpg", b"x"), "two images have the key '0'"),
        (("1.json", b'{"label": 0}'), "is 1 in its .cls but 0"),
    ):
        with pytest.raises(DataError, match=what):
            described(beside)


def test_names_are_paths_members_keys_and_rows(pets, tmp_path, monkeypatch):
    pytest.importorskip("webdataset", reason="needs pip install 'noisebench[stream]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    first = {}
    for write in (as_one_tar, as_tars, as_shards, as_table):
        place = tmp_path / write.__name__
        place.mkdir()
        first[write] = read_labels(find_dataset(write(pets, place), tmp_path), tmp_path).ids[0]
    assert list(first.values()) == [
        "train/airplane/00.png",
        "train/airplane/00.png",
        "airplane_00",
        "train/0",
    ]
    assert read_labels(find_dataset(f"folder:{pets}"), tmp_path).ids[0] == "train/airplane/00.png"


def test_what_a_tar_holds_is_looked_for_once_and_again_when_it_changes(pets, tmp_path, monkeypatch):
    name = as_one_tar(pets, tmp_path)
    before = read_labels(find_dataset(name, tmp_path / "cache"), tmp_path)
    monkeypatch.setattr(
        tarfile, "open", lambda *a, **k: pytest.fail("the tar was looked through again")
    )
    assert read_labels(find_dataset(name, tmp_path / "cache"), tmp_path).ids == before.ids
    monkeypatch.undo()
    with tarfile.open(tmp_path / "pets.tar", "a") as tar:
        add(tar, "train/bird/new.png", files_of(pets, "train")[0][2])
    assert (
        len(read_labels(find_dataset(name, tmp_path / "cache"), tmp_path).ids)
        == len(before.ids) + 1
    )


def pictures_of(pets: Path) -> LazyImages:
    found = read_images(find_dataset(f"folder:{pets}"), pets, workers=0).train_images
    assert isinstance(found, LazyImages)
    return found


def test_a_slice_a_mask_and_an_index_of_pictures_read_nothing(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "pets")
    pictures = pictures_of(tmp_path / "pets")
    shutil.rmtree(tmp_path / "pets")
    mask = np.arange(48) % 2 == 0
    assert (pictures[3:9].shape, len(pictures[mask]), pictures[mask][np.array([5])].places.tolist()) == (
        (6, 224, 224, 3), 24, [10])  # fmt: skip


def test_pictures_as_an_array_are_those_that_networks_are_asked_about(pets):
    pictures = pictures_of(pets).sized(24, 0.75)[10:20]
    (plain,) = source_of(
        pictures, Normalisation.of(pictures), CPU, StreamTransform(24, 0.75)
    ).eval_batches()
    assert torch.equal(Normalisation.of(pictures)(torch.from_numpy(np.asarray(pictures))), plain)


def test_the_fingerprint_is_of_names_sizes_and_labels_and_not_of_the_place(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    other = tmp_path / "elsewhere" / "pets"
    assert pictures_of(pets).fingerprint == pictures_of(other).fingerprint
    (other / "train" / "bird" / "00.png").write_bytes(b"longer or shorter")
    assert pictures_of(pets).fingerprint != pictures_of(other).fingerprint


def test_a_million_names_are_one_object():
    names = Names.of(f"train/klasse/ü{number}.jpg" for number in range(1000))
    assert (names[0], names[999], len(names)) == (
        "train/klasse/ü0.jpg",
        "train/klasse/ü999.jpg",
        1000,
    )


# The order of reading


def streamed(pets: Path, workers: int | None, side: int = 24) -> tuple[object, EpochPlan]:
    pictures = read_images(find_dataset(f"folder:{pets}"), pets, workers=workers).train_images
    source = source_of(
        pictures, Normalisation.of(pictures), CPU, StreamTransform(side, 0.875, 0.08, flip=True)
    )
    return source, EpochPlan.draw(48, 2, 0, True, torch.Generator().manual_seed(3))


def read(source, plan, ats):
    source.start_epoch(plan, ats)
    found = [source.views(plan, at) for at in ats]
    source.close()
    return found


ATS = [slice(start, start + 20) for start in (0, 20)] + [slice(40, 48)]


def test_pictures_are_the_same_with_any_number_of_workers_and_after_a_resume(pets):
    expected = read(*streamed(pets, 0), ATS)
    assert expected[0][0].shape == (20, 3, 24, 24) and not torch.equal(
        expected[0][0], expected[0][1]
    )
    for workers, first in ((1, 0), (3, 0), (2, 1), (0, 2)):
        for got, wanted in zip(
            read(*streamed(pets, workers), ATS[first:]), expected[first:], strict=True
        ):
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_part_of_a_step_is_that_part_of_it(pets):
    """As processes that share a step ask for it."""
    source, plan = streamed(pets, 0)
    whole = source.views(plan, slice(0, 20))
    assert torch.equal(
        torch.cat([source.views(plan, slice(0, 7))[1], source.views(plan, slice(7, 20))[1]]),
        whole[1],
    )


def test_another_epoch_crops_otherwise(pets):
    source, plan = streamed(pets, 0)
    again = EpochPlan.draw(48, 2, 0, True, torch.Generator().manual_seed(4))
    same_places = EpochPlan(plan.order, plan.shifts, plan.flips, again.seed)
    assert not torch.equal(
        source.views(plan, slice(0, 8))[0], source.views(same_places, slice(0, 8))[0]
    )


def test_reading_here_leaves_randomness_as_it_was(pets):
    source, plan = streamed(pets, 0)
    before = torch.get_rng_state(), random.getstate()
    source.views(plan, slice(0, 8))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_a_resumed_epoch_reads_no_picture_of_the_steps_before(pets, tmp_path):
    expected = read(*streamed(pets, 0), ATS)[2]
    shutil.copytree(pets, tmp_path / "pets")
    source, plan = streamed(tmp_path / "pets", 0)
    paths = sorted((tmp_path / "pets" / "train").rglob("*.png"))
    for at in plan.order[:40].tolist():
        paths[at].unlink()
    (resumed,) = read(source, plan, ATS[2:])
    assert all(torch.equal(a, b) for a, b in zip(resumed, expected, strict=True))


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


def test_no_worker_is_left_at_the_end_or_after_an_error(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "pets")
    (tmp_path / "pets" / "train" / "bird" / "05.png").write_bytes(b"no picture")
    before = children()
    for workers in (0, 2):
        source, plan = streamed(tmp_path / "pets", workers)
        with pytest.raises(
            DataError,
            match=r"train/bird/05\.png cannot be read as an image .*: "
            r"repair or remove it$",
        ):
            read(source, plan, ATS)
        source.close()
    assert children() == before


def test_workers_begun_for_the_rest_of_an_epoch_are_as_many_as_for_a_whole_one(pets):
    before = children()
    source, plan = streamed(pets, 2)
    for ats in (ATS[2:], ATS):
        source.start_epoch(plan, ats)
        for at in ats:
            source.views(plan, at)
        assert len(children() - before) == 2
    source.close()
    assert children() == before


def test_the_processes_of_a_run_on_one_machine_share_its_cores(pets, monkeypatch):
    monkeypatch.setattr("noisebench.training.streamed.cpu_count", lambda: 8)
    assert streamed(pets, None)[0].workers == 8
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert [streamed(pets, workers)[0].workers for workers in (None, 6)] == [2, 6]


def test_a_dead_worker_is_said_in_one_line(pets, monkeypatch):
    source, plan = streamed(pets, 1)
    monkeypatch.setattr(Image, "open", lambda *words, **options: os._exit(9))
    with pytest.raises(
        DataError,
        match=r"a process that reads images ended .*fewer --workers "
        r"may help",
    ):
        read(source, plan, ATS)
    source.close()


@pytest.mark.soak
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(start, pets, monkeypatch):
    expected = read(*streamed(pets, 0), ATS)
    original = DataLoader.__init__
    monkeypatch.setattr(
        DataLoader,
        "__init__",
        lambda self, *a, **k: original(self, *a, **k, multiprocessing_context=start),
    )
    for got, wanted in zip(read(*streamed(pets, 2), ATS), expected, strict=True):
        assert torch.equal(got[0], wanted[0])


# From the command line


@pytest.fixture
def lab(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(pets, tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_run_is_trained_resumed_and_asked_again(lab, capsys):
    assert main(["--data-dir", "data", "corrupt", "folder:pets", "--sym", "0.4", "--json"]) == 0
    manifest = read_manifest(last_json(capsys)["manifest"])
    assert manifest.meta["path"] == "folder:pets" and manifest.ids[17] == "train/automobile/01.png"
    assert (
        main(["--data-dir", "data", "train", *TRAIN, "--epochs", "2", "--workers", "1", "--json"])
        == 0
    )
    run = Path(last_json(capsys)["run"])
    record = RunFolder(run).record()
    assert (
        record["data"]["shape"] == [16, 16, 3]
        and record["recipe"]["size"] == 16
        and record["recipe"]["centre"] == 0.875
    )
    np.testing.assert_allclose(
        record["data"]["normalisation"]["mean"], [123.675, 116.28, 103.53], rtol=1e-6
    )
    assert main(["--data-dir", "data", "evaluate", str(run), "--verify", "--workers", "0"]) == 0
    assert (
        main(["--data-dir", "data", "evaluate", str(run), "--eval-on", "folder:pets", "--json"])
        == 0
    )
    assert (
        json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))[0]["on"][
            "folder:pets"
        ]["n"]
        == 12
    )
    assert main(["--data-dir", "data", "evaluate", str(run), "--suspects", "doubts.csv"]) == 0
    assert (
        Path("doubts.csv")
        .read_text()
        .splitlines()[0]
        .startswith("rank,index,path,given_label,predicted_label")
    )
    assert main(["--data-dir", "data", "report", "-o", "report.html"]) == 0
    assert "data:image/png;base64," in Path("report.html").read_text()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(lab):
    """Bit for bit, with other workers."""
    keys = []
    for stop_at in (None, 4):
        workspace = Workspace(f"w{stop_at}", "data", workers=0 if stop_at else 2)
        trainer, run = trainer_of(workspace)
        state = None
        while trainer.state.epoch < 2:
            try:
                trainer.run_epoch(partial(stopping, trainer, stop_at if state is None else None))
            except KeyboardInterrupt:
                state = trainer.state_dict()
                trainer.close()
                trainer, run = trainer_of(Workspace("other", "data", workers=1))
                trainer.load_state_dict(state)
        trainer.close()
        keys.append(
            (run.key, [value.clone() for value in trainer.networks[0].state_dict().values()])
        )
    assert keys[0][0] == keys[1][0] and all(
        torch.equal(a, b) for a, b in zip(keys[0][1], keys[1][1], strict=True)
    )


def test_a_run_that_is_killed_while_its_workers_read_leaves_none_of_them_and_goes_on(lab, capsys):
    """Bit for bit, too."""
    plugin = Path(__file__).parents[1] / "support" / "mishap.py"
    train = [
        "train",
        f"folder:{lab / 'pets'}",
        *TRAIN,
        "--sym",
        "0.4",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--workers",
        "2",
    ]
    command = ["--data-dir", str(lab / "data"), "-C", str(lab / "killed"), *train]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MISHAP": "kill", "VICTIMS": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "noisebench", "-q", "--plugin", str(plugin), *command],
        env=environment,
    ) as process:
        code, workers = watched(process)
    assert code == -9 and len(workers) >= 2
    until = time.monotonic() + 30
    while (left := [pid for pid in workers if is_alive(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    assert main(command) == 0 and "resuming where it was interrupted" in capsys.readouterr().err
    assert main(["--data-dir", str(lab / "data"), "-C", str(lab / "straight"), *train]) == 0
    one, other = (
        next((lab / name / "runs").glob("*/model.safetensors")).read_bytes()
        for name in ("killed", "straight")
    )
    assert one == other


def watched(process: subprocess.Popen[bytes]) -> tuple[int, set[int]]:
    """How it ended, and the processes that it had started."""
    started: set[int] = set()
    while process.poll() is None:
        started.update(kills.children(process.pid))
        time.sleep(0.05)
    return process.returncode, started


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    return False


def stopping(trainer, at):
    if (
        at is not None
        and trainer.state.epoch * len(trainer.state.batches) + trainer.state.step == at
    ):
        raise KeyboardInterrupt


def test_weights_are_tried_on_pictures_of_the_size_that_a_run_has(lab):
    """Small ones are enlarged for timm's own stem, which those of the data set's usual size are
    not.
    """
    torch.manual_seed(5)
    torch.save(timm.create_model("test_resnet").state_dict(), "w.pt")
    workspace, said = Workspace(".", "data", workers=0), []
    for size in (16, 96):
        run = run_of(
            workspace,
            model="timm:test_resnet",
            size=size,
            init=workspace.initial("w.pt", "timm:test_resnet"),
        )
        said.append(check_networks(workspace, [run]))
        assert [sentence.partition(": ")[2] for sentence in said[-1]] == make_trainer(
            run, workspace.images(run.dataset), "cpu"
        ).adapted
    assert [any("enlarged 4 times" in sentence for sentence in each) for each in said] == [
        True,
        False,
    ]


def test_a_network_of_grey_images_or_rectangles_is_not_asked_about_streamed_ones(lab):
    workspace = Workspace(".", "data", workers=0)
    normalise = Normalisation.of(workspace.images(workspace.dataset("folder:pets")).test_images)
    for shape, why in (
        ((28, 28, 1), "is streamed in color, and mine is grayscale"),
        ((20, 28, 3), "must be square, got 20x28"),
    ):
        networks = StoredNetworks([], build_strategy("standard"), shape, normalise, "fp32")
        with pytest.raises(DataError, match=why):
            evaluate_on(
                {"data": {"name": "mine"}}, networks, workspace, workspace.dataset("folder:pets")
            )


def run_of(
    workspace: Workspace, model: str = "cnn4", size: int = 16, init: InitialWeights | None = None
):
    dataset = workspace.dataset("folder:pets")
    manifest, _ = workspace.make(dataset, LabelRequest("symmetric(rate=0.4)"))
    wish = RunRequest(
        model=model,
        changes={"epochs": 2, "batch_size": 16, "size": size, "lr": 0.05},
        precision="fp32",
        init=init,
    )
    return resolve_run(wish, dataset, manifest, workspace.images(dataset).fingerprint)


def trainer_of(workspace: Workspace):
    run = run_of(workspace)
    return make_trainer(run, workspace.images(run.dataset), "cpu"), run


def test_the_key_is_the_same_wherever_the_folder_lies(lab):
    _, here = trainer_of(Workspace(".", "data"))
    shutil.move("pets", "moved")
    Path("deep").mkdir()
    shutil.move("moved", "deep/pets")
    os.chdir("deep")
    _, there = trainer_of(Workspace(".", "data"))
    assert here.key == there.key and here.folder_name == there.folder_name


def test_how_pictures_are_decoded_is_in_the_key_where_their_pixels_are_not(lab, monkeypatch):
    before = run_of(Workspace(".", "data"))
    assert before.key and before.config["versions"]["decoding"]
    monkeypatch.setattr(resolve, "DECODING_VERSION", 99)
    assert run_of(Workspace(".", "data")).key != before.key


def test_a_folder_in_memory_and_streamed_are_two_sets_with_a_manifest_each(lab, capsys):
    for name in ("pets", "folder:pets"):
        assert main(["corrupt", name, "--sym", "0.4", "--json"]) == 0
        manifest = last_json(capsys)["manifest"]
        assert read_manifest(manifest).meta["path"] == name
        words = [
            "--manifest",
            manifest,
            "--model",
            "mlp",
            "--epochs",
            "1",
            "--batch-size",
            "16",
            "--json",
        ]
        assert main(["train", *words, *(["--img-size", "16"] if ":" in name else [])]) == 0
        assert main(["-q", "evaluate", last_json(capsys)["run"], "--verify", "--json"]) == 0
        capsys.readouterr()


def test_held_out_and_dropped_pictures_are_predicted_too(lab, capsys):
    labels = ["--sym", "0.4", "--val-fraction", "0.25", "--subset", "36"]
    assert main(["train", "folder:pets", *labels, *TRAIN, "--epochs", "1", "--json"]) == 0
    run = Path(last_json(capsys)["run"])
    assert len(RunFolder(run).read_arrays()["train_classes"]) == 48
    assert main(["evaluate", str(run), "--verify"]) == 0


def test_a_run_that_estimates_its_noise_streams_its_folds(lab, capsys):
    before = children()
    assert (
        main(
            [
                "train",
                "folder:pets",
                "--sym",
                "0.4",
                "--loss",
                "el(eps=estimated)",
                *TRAIN,
                "--epochs",
                "2",
                "--workers",
                "1",
            ]
        )
        == 0
    )
    assert children() == before


def test_a_page_asks_no_network_for_pictures_and_says_which_folder_is_missing(lab, monkeypatch):
    asked = []

    def describe(*words, labels, offline):
        asked.append(offline)
        raise DataError("not in its cache")

    monkeypatch.setattr("noisebench.datasets.load.describe_stream", describe)
    pictures = PageImages(Workspace(".", "data"))
    for where, said in (
        ("hfds:somebody/table", "no images: not in its cache"),
        ("imagenet", "no images: imagenet/ is not in the data"),
    ):
        with pytest.raises(DataError, match=said):
            pictures.names({"data": {"name": where}, "noise": {}}, np.array([0]))
    assert asked == [True]


def test_a_suite_trains_a_streamed_set(lab, capsys):
    Path("benchmarks.yaml").write_text(
        "version: 1\nsuites:\n  mine:\n    defaults: {dataset: 'folder:pets', model: mlp, epochs: "
        "1, size: 16, batch_size: 16}\n"
        "    matrix: {noise: [symmetric(rate=0.4)], method: [ce, lsr, gce]}\n"
    )
    assert main(["run", "mine", "--jobs", "1", "--workers", "0", "--json"]) == 0
    assert {cell["n"] for cell in last_json(capsys)["cells"]} == {1}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (
            ["--crop", "4"],
            "crop is only for images in memory, and pets-.* is streamed: use scale",
        ),
        (["--img-size", "2000"], "img_size must be at least 8 and at most 1024, got 2000"),
        (["--fit", "stretch"], "fit must be one of crop, pad, squash, got 'stretch'"),
        (
            ["--fit", "pad", "--crop-pct", "0.9"],
            "crop_pct has no effect with fit pad, got 0.9",
        ),
        (["--scale", "1.5"], "scale must be at least 0 and at most 1, got 1.5"),
        (["--crop-pct", "0"], "crop_pct must be above 0 on pets-"),
    ],
)
def test_what_cannot_be_done_with_streamed_pictures_is_refused(words, what, lab, capsys):
    assert main(["train", "folder:pets", "--sym", "0.4", "--epochs", "1", *words, "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert __import__("re").search(what, line), line


def test_who_reads_nothing_ahead_has_no_use_for_workers(tmp_path, capsys):
    for words in (["train", "digits", "--sym", "0.4"], ["run", "smoke"]):
        assert main(["-C", str(tmp_path), *words, "--workers", "3", "--dry-run"]) == 2
        assert capsys.readouterr().err == (
            "error: --workers has an effect on streamed images only (folder:DIR ...); "
            "digits is in memory\n"
        )


def test_a_table_that_cannot_be_fetched_says_why(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # and again afterwards
    for offline, why in (
        (False, r"http://127\.0\.0\.1:9 cannot be reached"),
        (True, "--offline forbids downloads"),
    ):
        with pytest.raises(
            DataError,
            match=rf"is not in the local cache of the hub and {why}.*: "
            r"use a directory of parquet files",
        ):
            find_dataset("hfds:somebody/nothing", tmp_path, offline=offline)


@pytest.mark.parametrize("words", [["--scale", "0.5"], ["--crop-pct", "0.9"]])
def test_what_only_streamed_pictures_have_is_refused_elsewhere(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--sym", "0.4", *words, "--dry-run"]) == 2
    assert "has no effect on digits, which is in memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("folder:none", "folder:none is not a directory"),
        ("folder:bare", "has no test images: put them into"),
        ("tar:pets", "is neither a tar nor a directory with tars"),
        ("tar:broken.tar", "cannot be read as an uncompressed tar"),
        ("wds:unlabelled", "'a' has no label: expected a.cls, or .json with a label"),
        ("wds:half", "has no test part"),
    ],
)
def test_what_is_no_set_of_pictures_is_said(name, what, lab):
    for name_of_class in ("cat", "dog"):
        (lab / "bare" / name_of_class).mkdir(parents=True)
        Image.new("L", (8, 8)).save(lab / "bare" / name_of_class / "0.png")
    (lab / "broken.tar").write_bytes(b"no tar at all" * 100)
    for place, members in (("unlabelled", ("a.png",)), ("half", ("a.png", "a.cls"))):
        (lab / place).mkdir()
        for part in ("train", "test") if place == "unlabelled" else ("train",):
            with tarfile.open(lab / place / f"{part}-00.tar", "w") as tar:
                for member in members:
                    add(tar, member, b"1")
    with pytest.raises(DataError, match=what):
        find_dataset(name, lab)


def test_a_folder_that_does_not_fit_into_memory_says_how_to_stream_it(tmp_path):
    with pytest.raises(
        DataError,
        match=r"1000000 images of 224x224 need 150.5 GB of memory, .*: use a smaller "
        r"--img-size, or stream them as folder:pets$",
    ):
        check_memory(Path("pets"), 1_000_000, 224, 224)
    check_memory(Path("pets"), 100, 32, 32)


def test_open_set_noise_on_what_is_streamed_is_refused(lab, capsys):
    assert (
        main(
            [
                "train",
                "folder:pets",
                "--openset",
                "0.2",
                "--source",
                "digits",
                "--epochs",
                "1",
                *TRAIN,
            ]
        )
        == 2
    )
    assert "is streamed, so its images cannot be replaced" in capsys.readouterr().err


def test_noise_that_looks_at_images_looks_at_streamed_ones(lab, capsys):
    assert main(["corrupt", "folder:pets", "--idn", "0.3", "--json"]) == 0
    assert last_json(capsys)["realised_rate"] > 0.1
    assert np.asarray(image_rows(find_dataset("folder:pets"), lab)(np.array([0, 5]))).shape == (
        2,
        224,
        224,
        3,
    )


# ImageNet's half of the paper


def test_the_papers_suite_is_four_methods_two_networks_and_four_seeds(tmp_path):
    _, suite = find_suite("el-imagenet", tmp_path)
    recipe = RECIPES["el-imagenet"].settings
    assert suite.matrix == {
        "model": ["timm:resnet50", "timm:resnet101"],
        "method": ["ce", "el", "lsr", "lsr_el"],
    }
    assert suite.defaults.seeds == [0, 1, 2, 3] and suite.report.published == "equal-loss"
    assert (recipe["batch_size"], recipe["lr"], recipe["weight_decay"]) == (2048, 0.8, 1e-4)


def test_a_strategy_that_would_keep_too_large_a_table_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resolve, "_LARGEST_TABLE", 10_000)
    words = ["-C", str(tmp_path), "train", "digits", "--sym", "0.4", "--dry-run"]
    for keeps in (["--strategy", "elr"], ["--loss", "el(eps=estimated)"]):
        assert main([*words, *keeps]) == 2
        assert "1,297 examples x 10 classes, 0.0 GB: use a --subset" in capsys.readouterr().err
        assert main([*words, *keeps, "--subset", "1000"]) == 0
    assert main([*words, "--strategy", "standard"]) == 0
