"""Data sets as they were published: had from a mirror, kept as a .npz; torchvision's copies read
where they lie; no pickle's code run.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noisebench.cli import main
from noisebench.datasets import DATASETS, download, read_images, read_labels
from noisebench.datasets.download import FILES, MIRROR
from noisebench.datasets.raw import BATCHES, find_raw, read_raw
from noisebench.errors import DataError
from tests.support.hosting import (
    Host,
    hosting,
    idx,
    lay_out,
    published,
    python_2_batch,
)

IDX = {"train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
       "test_images": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte"}  # fmt: skip

RAW = {"mnist": "MNIST/raw", "fashionmnist": "FashionMNIST/raw"}  # torchvision's folders


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """28 x 28 pixels that tell the example's number; of fashionmnist the published training labels."""
    labels = (
        np.arange(60_000) % 10
        if name == "mnist"
        else read_labels(DATASETS[name], Path("nowhere"), offline=True).labels
    )
    found = {
        "train_labels": labels.astype(np.uint8),
        "test_labels": (np.arange(10_000) % 10).astype(np.uint8),
    }
    for part in ("train", "test"):
        found[f"{part}_images"] = np.zeros((len(found[f"{part}_labels"]), 28, 28), np.uint8)
        found[f"{part}_images"][:, 3, 5] = np.arange(len(found[f"{part}_labels"])) % 251
    return found


def trust(
    monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes], *where: str
) -> None:
    """Take these for the published files."""
    files = tuple(
        published(content, *where, shelf=name, name=file) for file, content in contents.items()
    )
    monkeypatch.setitem(download.FILES, name, files)


@pytest.fixture(scope="module")
def zipped() -> dict[str, dict[str, bytes]]:
    """MNIST's and Fashion-MNIST's four files, of our own making."""
    return {name: {f"{file}.gz": gzip.compress(idx(arrays_of(name)[part]), 1) for part, file in IDX.items()}
            for name in ("mnist", "fashionmnist")}  # fmt: skip


@pytest.fixture
def mirror(zipped: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Has both; nobody else has them."""
    with hosting() as host:
        for name, contents in zipped.items():
            trust(monkeypatch, name, contents, "http://127.0.0.1:9/")
            host.files |= {f"/{name}/{file}": content for file, content in contents.items()}
        monkeypatch.setenv(MIRROR, host.address)
        yield host


# Had from a mirror


def test_a_set_is_downloaded_once_and_kept_as_npz(mirror: Host, tmp_path: Path) -> None:
    name = "fashionmnist"
    first = read_images(DATASETS[name], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.npz"]
    assert mirror.asked == [(f"/{name}/{file}.gz", "") for file in IDX.values()]
    again = read_images(DATASETS[name], tmp_path, offline=True)
    assert first.fingerprint == again.fingerprint and len(mirror.asked) == 4
    wanted = arrays_of(name)
    for part in ("train", "test"):
        np.testing.assert_array_equal(
            getattr(again, f"{part}_images")[..., 0], wanted[f"{part}_images"]
        )
        np.testing.assert_array_equal(getattr(again, f"{part}_labels"), wanted[f"{part}_labels"])


def test_the_command_trains_on_what_it_downloads_saying_how_far_it_is(
    mirror: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "-C",
        str(tmp_path),
        "--data-dir",
        str(tmp_path / "data"),
        "corrupt",
        "mnist",
        "--sym",
        "0.4",
    ]
    assert main(words) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in said[:4]] == [
        (f"downloading {file}.gz from {mirror.address[7:]}") for file in IDX.values()
    ]
    assert said[0].endswith(" MB") and (tmp_path / "data" / "mnist.npz").exists()


def test_a_download_that_was_whole_before_its_npz_was_is_not_repeated(
    mirror: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "noisebench.datasets.load.atomic_write",
            lambda *words: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        read_images(DATASETS["mnist"], tmp_path)
    read_images(DATASETS["mnist"], tmp_path)
    assert len(mirror.asked) == 4 and (tmp_path / "mnist.npz").exists()


def test_a_process_killed_while_it_keeps_a_set_leaves_nothing_half_written(
    mirror: Host, tmp_path: Path
) -> None:
    script = "\n".join([
        "import os, signal, sys; from pathlib import Path; import numpy as np",
        "from noisebench.datasets import DATASETS, download, read_images",
        "from noisebench.datasets.download import Published",
        f"download.FILES['mnist'] = {FILES['mnist']!r}",
        ("np.savez = lambda file, **arrays: (file.write(b'half'), file.flush(), "
        "os.kill(os.getpid(), signal.SIGKILL))"),
        "read_images(DATASETS['mnist'], Path(sys.argv[1]))",
    ])  # fmt: skip
    assert (
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode
        == -signal.SIGKILL
    )
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]
    assert read_images(DATASETS["mnist"], tmp_path).train_images.shape == (60_000, 28, 28, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["mnist.npz"] and len(mirror.asked) == 4


def test_a_disk_too_full_to_keep_a_set_is_said_and_costs_no_second_download(
    mirror: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, **arrays: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(
            DataError,
            match=r"cannot write "
            r".*mnist\.npz: No "
            r"space left on device",
        ),
    ):
        patch.setattr(np, "savez", full)
        read_images(DATASETS["mnist"], tmp_path)
    read_images(DATASETS["mnist"], tmp_path)
    assert len(mirror.asked) == 4


def test_where_no_host_has_it_one_line_says_who_was_asked_and_where_to_put_it(
    mirror: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.files.clear()
    assert (
        main(
            [
                "--data-dir",
                str(tmp_path),
                "-C",
                str(tmp_path),
                "train",
                "fashionmnist",
                "--sym",
                "0.4",
                "--dry-run",
            ]
        )
        == 2
    )
    assert capsys.readouterr().err == (
        f"error: fashionmnist is not in {tmp_path}, and train-images-idx3-ubyte.gz cannot be "
        f"downloaded ({mirror.address[7:]}: HTTP 404 Not Found; 127.0.0.1:9: Connection refused): put "
        "fashionmnist.npz there "
        "(train_images, train_labels, test_images, test_labels), or the published "
        "FashionMNIST/raw/, or use another --data-dir\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_labels_of_packaged_sets_need_no_host(mirror: Host, tmp_path: Path) -> None:
    read_labels(DATASETS["fashionmnist"], tmp_path)
    assert mirror.asked == []


def test_of_two_processes_that_want_a_set_one_downloads_it(mirror: Host, tmp_path: Path) -> None:
    script = "\n".join([
        ("import sys; from pathlib import Path; from noisebench.datasets import DATASETS, "
        "download, read_images"),
        "from noisebench.datasets.download import Published",
        f"download.FILES['mnist'] = {FILES['mnist']!r}",
        ("assert read_images(DATASETS['mnist'], Path(sys.argv[1])).train_images.shape == (60000, "
        "28, 28, 1)"),
        "assert not {'torch', 'torchvision'} & set(sys.modules)",
    ])  # fmt: skip
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert sorted(mirror.asked) == sorted((f"/mnist/{file}.gz", "") for file in IDX.values())


# torchvision's copies


@pytest.mark.parametrize(("name", "unpacked"), [("mnist", True), ("fashionmnist", False)])
def test_torchvisions_copy_of_mnist_is_used_offline(
    name: str, unpacked: bool, mirror: Host, zipped: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    lay_out(tmp_path / RAW[name], {
        file.removesuffix(".gz") if unpacked else file: gzip.decompress(raw) if unpacked else raw for file, raw in zipped[name].items()
    })  # fmt: skip
    images = read_images(DATASETS[name], tmp_path, offline=True)
    np.testing.assert_array_equal(images.train_images[..., 0], arrays_of(name)["train_images"])
    assert mirror.asked == [] and not (tmp_path / f"{name}.npz").exists()


def test_what_torchvision_left_half_downloaded_is_not_used(
    mirror: Host, zipped: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    lay_out(tmp_path / "MNIST" / "raw", {file: raw[:-1] for file, raw in zipped["mnist"].items()})
    assert find_raw("mnist", tmp_path) is None
    with pytest.raises(
        DataError,
        match=r"mnist is not in .*without --offline it would be "
        r"downloaded: put mnist\.npz there",
    ):
        read_images(DATASETS["mnist"], tmp_path, offline=True)


@pytest.mark.parametrize(
    "change",
    [lambda raw: raw[:-1] + b"?", lambda raw: b"?" + raw[1:]],
    ids=["last byte", "first byte"],
)
def test_one_other_byte_is_noticed(
    change: Callable[[bytes], bytes],
    mirror: Host,
    zipped: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    lay_out(
        tmp_path / "MNIST" / "raw",
        zipped["mnist"]
        | {"t10k-labels-idx1-ubyte.gz": change(zipped["mnist"]["t10k-labels-idx1-ubyte.gz"])},
    )
    with pytest.raises(
        DataError,
        match=r"t10k-labels-idx1-ubyte\.gz is not the published file: "
        r"its checksum is not sha256:",
    ):
        read_images(DATASETS["mnist"], tmp_path, offline=True)


def test_an_idx_file_of_another_shape_is_refused(
    mirror: Host, zipped: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    unpacked = {
        file.removesuffix(".gz"): gzip.decompress(raw) for file, raw in zipped["mnist"].items()
    }
    unpacked[IDX["test_images"]] = idx(np.zeros((10_000, 14, 56), np.uint8))
    lay_out(tmp_path / "MNIST" / "raw", unpacked)
    with pytest.raises(
        DataError,
        match=r"t10k-images-idx3-ubyte is not the published file: it "
        r"does not contain \(10000, 28, 28\) bytes",
    ):
        read_images(DATASETS["mnist"], tmp_path, offline=True)


# CIFAR's batches


def small_batches(name: str) -> dict[str, bytes]:
    """Every batch of a set with twenty images of noise."""
    rng, batches = np.random.default_rng(7), BATCHES[name]
    return {batch: python_2_batch(rng.integers(0, 256, (20, 32, 32, 3), np.uint8), rng.integers(0, 10, 20), batches.labels)
            for batch in batches.train | batches.test}  # fmt: skip


def archive_of(name: str, batches: dict[str, bytes], **others: bytes) -> bytes:
    """The archive with its batches, and other members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for path, raw in {
            **{f"{BATCHES[name].folder}/{batch}": raw for batch, raw in batches.items()},
            **others,
        }.items():
            member = tarfile.TarInfo(path)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return out.getvalue()


def trust_batches(
    monkeypatch: pytest.MonkeyPatch, name: str, batches: dict[str, bytes], archive: bytes
) -> None:
    def md5(names: dict[str, str]) -> dict[str, str]:
        return {
            batch: hashlib.md5(batches[batch], usedforsecurity=False).hexdigest() for batch in names
        }

    known = BATCHES[name]
    monkeypatch.setitem(BATCHES, name, replace(known, train=md5(known.train), test=md5(known.test)))
    trust(monkeypatch, name, {FILES[name][0].name: archive})


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A set of small batches, in torchvision's folder and as archive."""
    name, batches = request.param, small_batches(request.param)
    archive = archive_of(name, batches)
    trust_batches(monkeypatch, name, batches, archive)
    lay_out(
        tmp_path,
        {
            FILES[name][0].name: archive,
            **{f"{BATCHES[name].folder}/{batch}": raw for batch, raw in batches.items()},
        },
    )
    return name


def test_the_batches_are_read_as_torchvision_reads_them(
    cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    ours = read_raw(cifar, tmp_path / BATCHES[cifar].folder)
    theirs = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[cifar]
    monkeypatch.setattr(theirs, "_check_integrity", lambda self: True)
    monkeypatch.setattr(theirs, "_load_meta", lambda self: None)
    for part in ("train", "test"):
        found = theirs(str(tmp_path), train=part == "train")
        np.testing.assert_array_equal(ours[f"{part}_images"], found.data)
        np.testing.assert_array_equal(ours[f"{part}_labels"], found.targets)


def test_the_archive_holds_what_its_folder_does(cifar: str, tmp_path: Path) -> None:
    folder, archive = tmp_path / BATCHES[cifar].folder, tmp_path / FILES[cifar][0].name
    a, b = read_raw(cifar, folder), read_raw(cifar, archive)
    assert a.keys() == b.keys() and all(np.array_equal(a[part], b[part]) for part in a)


def test_the_folder_is_used_before_the_archive_and_only_where_it_is_whole(
    cifar: str, tmp_path: Path
) -> None:
    folder, archive = tmp_path / BATCHES[cifar].folder, tmp_path / FILES[cifar][0].name
    assert find_raw(cifar, tmp_path) == folder
    (folder / next(iter(BATCHES[cifar].test))).unlink()
    assert find_raw(cifar, tmp_path) == archive
    archive.write_bytes(archive.read_bytes()[:-1])
    assert find_raw(cifar, tmp_path) is None


def test_a_batch_with_one_other_byte_is_refused(cifar: str, tmp_path: Path) -> None:
    batch = tmp_path / BATCHES[cifar].folder / next(iter(BATCHES[cifar].test))
    batch.write_bytes(batch.read_bytes()[:-3] + b"\0u.")
    with pytest.raises(DataError, match="is not the published file: its md5 is"):
        read_raw(cifar, batch.parent)


def test_an_archive_with_one_other_byte_is_refused(cifar: str, tmp_path: Path) -> None:
    archive = tmp_path / FILES[cifar][0].name
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="is not the published file: its checksum is not sha256:"):
        read_raw(cifar, archive)


def test_of_an_archive_the_named_batches_alone_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = small_batches("cifar10")
    others = {
        "../evil": b"out of here",
        "/evil": b"absolute",
        "cifar-10-batches-py/batches.meta": b"cos\nsystem\n.",
    }
    archive = archive_of("cifar10", batches, **others)
    trust_batches(monkeypatch, "cifar10", batches, archive)
    lay_out(tmp_path / "data", {"cifar-10-python.tar.gz": archive})
    assert read_raw("cifar10", tmp_path / "data" / "cifar-10-python.tar.gz")[
        "test_labels"
    ].shape == (20,)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        "cifar-10-python.tar.gz"
    ]


@pytest.mark.soak  # the small batches above are read by the same code
def test_the_real_cifar10_comes_out_of_its_published_layout_bit_for_bit(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = read_images(DATASETS["cifar10"], real_data, offline=True)
    batches = {f"data_batch_{i + 1}": python_2_batch(np.asarray(images.train_images)[at], images.train_labels[at], "labels")
               for i, at in enumerate(np.split(np.arange(50_000), 5))}  # fmt: skip
    batches["test_batch"] = python_2_batch(
        np.asarray(images.test_images), images.test_labels, "labels"
    )
    trust_batches(monkeypatch, "cifar10", batches, b"")
    lay_out(tmp_path / "cifar-10-batches-py", batches)
    assert (
        read_images(DATASETS["cifar10"], tmp_path, offline=True).fingerprint == images.fingerprint
    )


def test_the_real_fashionmnist_comes_out_of_its_published_layout_bit_for_bit(
    real_data: Path, tmp_path: Path
) -> None:
    images = read_images(DATASETS["fashionmnist"], real_data, offline=True)
    content = {"train_images": images.train_images, "train_labels": images.train_labels, "test_images": images.test_images,
               "test_labels": images.test_labels}  # fmt: skip
    plain = {
        part: values[..., 0] if values.ndim == 4 else values for part, values in content.items()
    }
    lay_out(
        tmp_path / "FashionMNIST" / "raw",
        {file: idx(np.asarray(plain[part])) for part, file in IDX.items()},
    )
    assert (
        read_images(DATASETS["fashionmnist"], tmp_path, offline=True).fingerprint
        == images.fingerprint
    )


def test_every_file_has_a_checksum_a_size_and_a_second_https_host() -> None:
    for shelf in (*RAW, *BATCHES):
        for file in FILES[shelf]:
            algorithm, _, digest = file.checksum.partition(":")
            assert (
                algorithm == "sha256"
                and len(bytes.fromhex(digest)) == 32
                and file.size > 0
                and file.shelf == shelf
            )
            assert len({host.split("/")[2] for host in file.hosts}) >= 2
            assert all(host.startswith("https://") and host.endswith("/") for host in file.hosts)


def test_the_table_says_what_torchvision_says_of_the_same_files() -> None:
    from torchvision import datasets

    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert FILES[name][0].name == theirs.filename and BATCHES[name].folder == theirs.base_folder
        assert theirs.url == FILES[name][0].hosts[0] + FILES[name][0].name
        assert list(BATCHES[name].train.items()) == [tuple(row) for row in theirs.train_list]
        assert list(BATCHES[name].test.items()) == [tuple(row) for row in theirs.test_list]
    for name, other in (("mnist", datasets.MNIST), ("fashionmnist", datasets.FashionMNIST)):
        assert [file.name for file in FILES[name]] == [file for file, _ in other.resources]
        assert f"{other.__name__}/raw" == RAW[name]
