"""Folders of images: manifests go by path, the test split is where one says, and what does not fit is refused."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import noisebench.arrays
from noisebench.cli import main
from noisebench.datasets import DATASETS, FITS, Fitting, find_dataset, fit_images, image_rows, read_images, read_labels
from noisebench.datasets.foreign import describe_foreign
from noisebench.datasets.opening import opener
from noisebench.datasets.pictures import decoded
from noisebench.errors import DataError
from noisebench.manifest import read_manifest
from noisebench.reproduce import reproduction
from noisebench.runfolder import RunFolder
from noisebench.training.opening import timm_opener
from noisebench.training.sources import Look, normalisation_of, source_of


def folder(place: Path, *parts: str, each: int = 6, size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures of cats and dogs, each of one grey, in `part/class/`; a part "" is the folder itself."""
    for part in parts:
        for k, name in enumerate(("cat", "dog")):
            (place / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                Image.new("L", size, 40 * k + number).save(place / part / name / f"{number}.png")
    return place


@pytest.mark.parametrize(
    ("parts", "expected"), [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "val", "test"), "test")]
)
def test_the_test_split_is_test_else_val(parts, expected, tmp_path):
    place = folder(tmp_path, *parts)
    Image.new("L", (8, 8), 200).save(place / expected / "dog" / "extra.png")
    images = read_images(find_dataset(str(place)), tmp_path)
    assert (len(images.train_labels), images.test_labels.tolist()) == (12, [0] * 6 + [1] * 7)


@pytest.mark.parametrize("parts", [("train",), ("",)])
def test_the_test_split_may_lie_elsewhere(parts, tmp_path):
    place, elsewhere = folder(tmp_path / "a", *parts), folder(tmp_path / "b", "", each=2)
    dataset = find_dataset(str(place), test=elsewhere)
    images = read_images(dataset, tmp_path)
    assert images.test_labels.tolist() == [0, 0, 1, 1] and dataset.n_test == 4
    assert images.test_images[:, 0, 0, 0].tolist() == [0, 1, 40, 41]


def test_a_test_folder_without_these_classes_is_refused(tmp_path):
    place, other = folder(tmp_path / "a", "train"), tmp_path / "b"
    (other / "horse").mkdir(parents=True)
    for wrong, what in ((other, "has no class 'horse'"), (tmp_path / "none", "no pictures in folders named as the classes")):
        with pytest.raises(DataError, match=f"--test .*{what}"):
            find_dataset(str(place), test=wrong)


def test_a_set_with_a_test_part_of_its_own_takes_no_other(tmp_path):
    with pytest.raises(DataError, match="has its own test set"):
        find_dataset("digits", test=tmp_path)
    np.savez(tmp_path / "x.npz", train_labels=[0, 1])
    with pytest.raises(DataError, match="has its own test arrays"):
        find_dataset(str(tmp_path / "x.npz"), test=tmp_path)


def test_a_folders_pictures_are_fetched_as_they_are_read_whole(tmp_path):
    place = folder(tmp_path, "train", "test")
    Image.new("L", (20, 14), 99).save(place / "train" / "cat" / "large.png")
    dataset = find_dataset(str(place))
    whole, which = read_images(dataset, tmp_path).train_images, np.array([12, 0, 6, 3])
    np.testing.assert_array_equal(image_rows(dataset, tmp_path)(which), whole[which])


def test_a_manifest_of_a_folder_names_every_example_by_its_path(tmp_path, monkeypatch, capsys):
    place = folder(tmp_path / "pets", "train", "test")
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--sym", "0.5", "--json"]) == 0
    manifest = read_manifest(json.loads(capsys.readouterr().out)["manifest"])
    assert manifest.ids[:2] == ("train/cat/0.png", "train/cat/1.png") and len(manifest.ids) == 12


def test_a_manifest_without_a_test_set_takes_one_and_keeps_it(tmp_path, monkeypatch):
    for name in ("pets", "clean", "others"):
        folder(tmp_path / name, "")
    monkeypatch.chdir(tmp_path)
    said = []
    for words in ([], ["--test", "clean"], [], ["--test", "others"]):
        assert main(["-q", "corrupt", "pets", "--sym", "0.5", *words]) == 0
        said.append(read_manifest(next(Path("manifests").glob("*.csv"))))
    assert [manifest.meta.get("test_path") for manifest in said] == [None, "clean", "clean", "others"]
    assert len({tuple(manifest.labels) for manifest in said}) == 1


def test_labels_by_path_in_any_order_train_with_a_test_folder(tmp_path, monkeypatch, capsys):
    place, elsewhere = folder(tmp_path / "pets", "", each=8), folder(tmp_path / "clean", "", each=3)
    rows = [f"{name}/{number}.png,{'dog' if number == 0 else name}" for name in ("dog", "cat") for number in reversed(range(8))]
    (tmp_path / "mine.csv").write_text("\n".join(["path,label", *rows]))
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--labels", "mine.csv", "--test", str(elsewhere)]) == 0
    assert main(["train", "--epochs", "1", "--batch-size", "8", "--json"]) == 0
    manifest, record = (
        read_manifest(next(Path("manifests").glob("*.csv"))),
        json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""])),
    )
    assert manifest.labels.tolist() == [1] + [0] * 7 + [1] * 8 and manifest.meta["realised_rate"] is None
    assert record["memorised"] is None


def test_another_file_in_the_folder_is_noticed(tmp_path, monkeypatch, capsys):
    place = folder(tmp_path / "pets", "train", "test")
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--sym", "0.5"]) == 0
    Image.new("L", (8, 8)).save(place / "train" / "cat" / "new.png")
    assert main(["train", "--epochs", "1"]) == 2
    assert "is for other data" in capsys.readouterr().err


# One size for all images of a set


def striped(width: int, height: int) -> Image.Image:
    """Black on the left, white on the right."""
    return Image.fromarray(np.tile(np.where(np.arange(width) < width / 2, 0, 255).astype(np.uint8), (height, 1)))


def test_crop_pad_and_squash_bring_an_image_to_these_pixels():
    wide = striped(16, 8)
    crop, pad, squash = (np.asarray(Fitting(8, 8, fit)(wide)) for fit in FITS)
    np.testing.assert_array_equal(crop, np.tile([0] * 4 + [255] * 4, (8, 1)))  # the middle, with no pixel resampled
    assert (pad[:2] == 0).all() and (pad[6:] == 0).all() and (pad[2:6, :2] == 0).all() and (pad[2:6, 6:] == 255).all()
    assert (squash[:, :2] == 0).all() and (squash[:, 6:] == 255).all() and (squash == squash[0]).all()
    for fit in FITS:
        assert Fitting(8, 16, fit)(wide) is wide and Fitting(5, 7, fit)(wide).size == (7, 5)
    np.testing.assert_array_equal(np.asarray(Fitting(4, 4, centre=0.5)(striped(8, 8))), np.tile([0, 0, 255, 255], (4, 1)))


def mixed(place: Path) -> Path:
    """Ten images of 20 to 29 pixels and an icon of 9 x 7 in each class."""
    for part in ("train", "test"):
        for k, name in enumerate(("cat", "dog")):
            (place / part / name).mkdir(parents=True)
            for number in range(10):
                striped(30 + number, 20 + number).rotate(90 * k, expand=True).save(place / part / name / f"{number}.png")
            striped(9, 7).save(place / part / name / "icon.png")
    return place


def test_images_of_different_sizes_take_the_median_and_no_icon_decides(tmp_path, monkeypatch, capsys):
    place = mixed(tmp_path / "pets")
    dataset = find_dataset(str(place))
    assert dataset.shape == (24, 24, 3)  # the shorter sides are 7, 20, 21, ... 29
    images = read_images(dataset, tmp_path)
    assert images.train_images.shape == (22, 24, 24, 3) and images.test_images.shape == (22, 24, 24, 3)
    said = "22 of 22 training images: resized to 24x24 pixels (crop)"
    small = "2 of 22 are less than half as large and are enlarged: train/cat/icon.png (7x9), train/dog/icon.png (7x9)"
    assert said in images.changed and f"training images: {small}" in images.changed
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", "pets", "--sym", "0.2"]) == 0
    err = capsys.readouterr().err
    assert (
        "the shorter side 7 to 29 pixels, median 24; used at 24x24 pixels (crop); --img-size and --fit change that" in err and small in err
    )
    assert read_manifest(next(Path("manifests").glob("*.csv"))).meta["images"] == "used at 24x24 pixels (crop)"
    assert main(["train", "--epochs", "1", "--batch-size", "8"]) == 0
    captured = capsys.readouterr()
    assert said in captured.err and small in captured.err
    record = RunFolder(next(Path("runs").glob("*"))).record()
    assert record["data"]["shape"] == [24, 24, 3] and record["recipe"]["size"] == 24 and said in record["data"]["preprocessing"]


def test_every_fit_makes_the_same_pixels_in_memory_and_streamed(tmp_path):
    place = mixed(tmp_path)
    for fit in FITS:
        fitting = Fitting(16, 16, fit)
        whole = read_images(find_dataset(str(place)), tmp_path, fitting=fitting).train_images
        streamed = read_images(find_dataset(f"folder:{place}"), tmp_path, fitting=fitting, workers=0).train_images
        np.testing.assert_array_equal(whole, np.asarray(streamed))
        normalise = normalisation_of(streamed)
        (plain,) = source_of(streamed, normalise, torch.device("cpu"), Look(16, 1.0, fit=fit)).plain()
        assert torch.equal(plain, normalise(torch.from_numpy(whole)))


def test_images_of_one_size_stay_as_they_are_square_or_not(tmp_path):
    for size in ((8, 8), (12, 7)):
        place = folder(tmp_path / str(size), "train", "test", size=size)
        dataset, images = find_dataset(str(place)), read_images(find_dataset(str(place)), tmp_path)
        assert dataset.shape == (*size[::-1], 3) and images.changed == () and "size" not in dataset.augmentation
        assert images.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 40, 41, 42, 43, 44, 45]


def test_the_key_moves_with_size_and_fit_and_only_then(tmp_path, monkeypatch, capsys):
    folder(tmp_path / "same", "train", "test")
    mixed(tmp_path / "mixed")
    monkeypatch.chdir(tmp_path)

    def key(name: str, *words: str) -> str:
        assert main(["-q", "train", name, "--sym", "0.2", "--epochs", "1", "--dry-run", "--json", *words]) == 0
        return str(json.loads(capsys.readouterr().out)["key"])

    sizes = [[], ["--img-size", "16"], ["--img-size", "16", "--fit", "pad"], ["--img-size", "16", "--fit", "squash"], ["--img-size", "32"]]
    for name in ("same", "mixed", "folder:mixed", "digits"):
        assert len({key(name, *words) for words in sizes}) == len(sizes), name
    assert key("same") == key("same", "--img-size", "8") and key("mixed") == key("mixed", "--img-size", "24", "--fit", "crop")
    assert key("mixed", "--size", "16") == key("mixed", "--img-size", "16")
    for words in (["same", "--fit", "pad"], ["digits", "--img-size", "8", "--fit", "pad"]):
        assert main(["train", *words, "--sym", "0.2", "--dry-run"]) == 2
        assert "fit has no effect on" in capsys.readouterr().err


def test_a_run_at_another_size_is_reproduced_and_rechecked(tmp_path, monkeypatch, capsys):
    """Of noise that looked at the images too, in the data set's own size."""
    mixed(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    words = ["pets", "--idn", "0.2", "--img-size", "12", "--fit", "pad", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    assert main(["-q", "train", *words]) == 0
    run = RunFolder(next(Path("runs").glob("*")))
    assert run.record()["data"]["shape"] == [12, 12, 3]
    assert main(["-q", "evaluate", str(run.path), "--recheck"]) == 0
    command = reproduction(run.about()).words
    assert command[(at := command.index("--img-size")) : at + 2] == ("--img-size", "12") and "pad" in command
    capsys.readouterr()
    assert main([*command[1:], "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == run.record()["key"]


# What else lies beside the data sets


def test_a_foreign_npz_is_described_without_reading_its_images(tmp_path, monkeypatch):
    shape = {"train_images": (6, 9, 7, 3), "test_images": (3, 9, 7, 3)}
    arrays = {name: np.zeros(size, np.uint8) for name, size in shape.items()}
    np.savez(tmp_path / "x.npz", train_labels=np.arange(6) % 3, test_labels=np.arange(3), **arrays)
    seen = []
    read = noisebench.arrays._of_member
    monkeypatch.setattr(noisebench.arrays, "_of_member", lambda archive, member: seen.append(member.filename) or read(archive, member))
    assert describe_foreign(tmp_path / "x.npz").shape == (9, 7, 3)
    assert set(seen) == {"train_labels.npy", "test_labels.npy"}


def test_cifar20_is_cifar100_by_superclass():
    fine, coarse = (read_labels(DATASETS[name], Path(), offline=True).labels for name in ("cifar100", "cifar20"))
    names = [DATASETS[name].classes for name in ("cifar100", "cifar20")]
    of = {names[0][a]: names[1][b] for a, b in zip(fine, coarse, strict=True)}
    assert np.bincount(coarse).tolist() == [2500] * 20
    assert (of["rose"], of["trout"], of["maple_tree"], of["lawn_mower"], of["boy"]) == ("flowers", "fish", "trees", "vehicles_2", "people")


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 12, 3), (5, 9, 1)])
def test_images_of_another_set_take_the_shape_of_this_one(shape):
    images = np.full((3, 10, 10, 3), 77, np.uint8)
    fitted = fit_images(images, Fitting(*shape[:2], "squash"), shape[2])
    assert fitted.shape == (3, *shape) and (fitted == 77).all()


# From a file to 8-bit RGB


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, colour: int, *values: int, others: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """One row of pixels, of so many bits a channel (8 or 16) and a colour type of PNG's."""
    row = b"\0" + struct.pack(f">{len(values)}{'H' if bits == 16 else 'B'}", *values)
    width = len(values) // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    body = [(b"IHDR", head), *others, (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in body)


def tiff(bits: int, photometric: int, row: bytes, width: int, sample_format: int = 1) -> bytes:
    """One row of one channel, uncompressed; photometric 0: 0 is white."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 12 * 9 + 4), (277, 1), (279, len(row)),
            (339, sample_format)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + row


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def in_modes() -> dict[str, tuple[bytes, list[Any]]]:
    """Files of every mode, and their pixels worked out by hand: a row of (r, g, b), or one number for a grey."""
    u16, keyed, quarter = struct.pack("<2H", 0x1234, 0x8000), (b"tRNS", struct.pack(">H", 0x1234)), Image.Exif()
    quarter[0x0112] = 6  # the stored row stands upright when it is turned to the right: its left pixel is on top
    frames = [Image.new("L", (1, 1), value) for value in (5, 200)]
    palette = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    return {
        "grey.png": (png(8, 0, 0, 7, 255), [0, 7, 255]),
        "grey16.png": (png(16, 0, 0, 0x0100, 0x1234, 0x80FF, 0xFFFF), [0, 1, 0x12, 0x80, 255]),
        "grey16 with a transparent value.png": (png(16, 0, 0x1234, 0x1235, others=(keyed,)), [255, 0x12]),
        "grey with a transparent value.png": (png(8, 0, 7, 9, others=((b"tRNS", b"\0\x07"),)), [255, 9]),
        "rgb16.png": (png(16, 2, 0x1234, 0x8000, 0xFFFF), [(0x12, 0x80, 255)]),
        "rgb with a transparent colour.png": (png(8, 2, 1, 2, 3, 4, 5, 6, others=((b"tRNS", b"\0\1\0\2\0\3"),)), [255, (4, 5, 6)]),
        "la.png": (png(8, 4, 100, 255, 100, 0, 0, 51), [100, 255, 204]),
        "la16.png": (png(16, 4, 0x6400, 0xFFFF, 0x6400, 0), [100, 255]),
        "rgba.png": (png(8, 6, 1, 2, 3, 255, 1, 2, 3, 0, 0, 50, 100, 102), [(1, 2, 3), 255, (153, 173, 193)]),
        "rgba16.png": (png(16, 6, 0x0102, 0x0203, 0x0304, 0xFFFF, 0, 0, 0, 0), [(1, 2, 3), 255]),
        "palette.png": (png(8, 3, 0, 1, others=(palette,)), [(10, 20, 30), (40, 50, 60)]),
        "palette with alpha.png": (png(8, 3, 0, 1, others=(palette, (b"tRNS", b"\0\xff"))), [255, (40, 50, 60)]),
        "bits.png": (saved(Image.frombytes("1", (8, 1), b"\xa0"), "PNG"), [255, 0, 255, 0, 0, 0, 0, 0]),
        "16.tif": (tiff(16, 1, u16, 2), [0x12, 0x80]),
        "16 where 0 is white.tif": (tiff(16, 0, u16, 2), [255 - 0x12, 255 - 0x80]),
        "12.tif": (tiff(12, 1, b"\xff\xf8\x00", 2), [255, 0x80]),
        "big endian.tif": (saved(Image.fromarray(np.array([[0x1234, 0x8000]], ">u2")), "TIFF"), [0x12, 0x80]),
        "cmyk.tif": (saved(Image.new("CMYK", (1, 1), (0, 255, 51, 0)), "TIFF"), [(255, 0, 204)]),
        "lab.tif": (saved(Image.new("LAB", (2, 1), (255, 128, 128)), "TIFF"), [255, 255]),
        "grey16.pgm": (b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 0), [255, 0]),
        "rgb16.ppm": (b"P6 1 1 65535\n" + struct.pack(">3H", 65535, 0, 257), [(255, 0, 1)]),
        "frames.gif": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), [5]),
        "frames.tif": (saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), [5]),
        "turned.png": (saved(Image.fromarray(np.array([[9], [70]], np.uint8)).rotate(90, expand=True), "PNG", exif=quarter), [9, 70]),
    }


def test_every_mode_is_decoded_to_the_same_rgb_in_memory_and_streamed(tmp_path):
    """Nothing is clipped: 16 bits keep their high byte, what is transparent is white, and EXIF's orientation is applied."""
    for number, (name, (raw, row)) in enumerate(in_modes().items()):
        place = tmp_path / str(number)
        for part in ("train", "test"):
            for class_name in ("a", "b"):
                (place / part / class_name).mkdir(parents=True)
                (place / part / class_name / name).write_bytes(raw)
        expected = [(value,) * 3 if isinstance(value, int) else value for value in row]
        in_memory = read_images(find_dataset(str(place)), tmp_path).train_images
        atol = 1 if name == "lab.tif" else 0  # whose white is a hair off in 8 bits
        np.testing.assert_allclose(in_memory[0].reshape(-1, 3).astype(int), expected, rtol=0, atol=atol, err_msg=name)
        pictures = read_images(find_dataset(f"folder:{place}"), tmp_path).train_images
        for open_with in (opener, timm_opener):
            streamed = np.asarray(decoded(open_with(pictures.listing), pictures.listing, 0))
            np.testing.assert_array_equal(streamed, in_memory[0], err_msg=name)


def test_pixels_of_an_unknown_range_are_refused_by_name(tmp_path):
    refused = {
        "int32.tif": saved(Image.fromarray(np.array([[5, 70_000]], np.int32)), "TIFF"),
        "signed16.tif": tiff(16, 1, struct.pack("<2h", -5, 300), 2, sample_format=2),
        "float.tif": saved(Image.fromarray(np.array([[0.5, 1.0]], np.float32)), "TIFF"),
        "float.ppm": b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
        "colour16 with a transparent one.png": png(16, 2, 1, 2, 3, others=((b"tRNS", b"\0\1\0\2\0\3"),)),
    }
    place = folder(tmp_path, "train", "test")
    for name, raw in refused.items():
        path = place / "train" / "cat" / name
        path.write_bytes(raw)
        with pytest.raises(DataError, match=f"{name} cannot be read as a picture .*: write it with 8"):
            read_images(find_dataset(str(place)), tmp_path)
        with pytest.raises(DataError, match=f"{name} cannot be read as a picture .*: write it with 8"):
            np.asarray(read_images(find_dataset(f"folder:{place}"), tmp_path).train_images)
        path.unlink()
