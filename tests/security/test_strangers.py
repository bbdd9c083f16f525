"""Untrusted files: nothing in them is run, nothing is written where they say, and what is
gigantic is refused at once.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from noisebench.cli import main
from noisebench.core.files.arrays import load_torch
from noisebench.datasets import find_dataset, read_images
from noisebench.datasets.images import LARGEST, ImageIndex, Names, decoded, opener
from noisebench.datasets.tars import index_tars
from noisebench.errors import ConfigError, DataError, Interrupted, LanguageError, NoisebenchError
from noisebench.experiments.backbones import initial_of
from noisebench.experiments.suite import read_suites
from noisebench.labels.manifest import read_manifest
from noisebench.losses import LOSSES, register_loss
from noisebench.runs.checkpoint import RunOptions, RunState, load_state, read, save
from noisebench.runs.folder import RunFolder
from noisebench.runs.inference import load_weights
from noisebench.training.trainer import Trainer
from tests.unit.test_runner import Desk

CPU = torch.device("cpu")
QUICK = 20.0  # seconds, on a busy machine; where the failure would be minutes, or gigabytes


# Within a memory bound, in a process of its own

BOUND = """
import resource, time
from pathlib import Path
{imports}
def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size() + {memory}, -1))
from noisebench.errors import NoisebenchError
begun = time.monotonic()
try:
    {code}
except NoisebenchError as error:
    print("refused:", error)
else:
    print("read")
assert time.monotonic() - begun < {seconds}
"""


def bounded(code: str, where: Path, *, imports: str = "", memory: int = 1 << 30) -> str:
    """What some code says within so many bytes more than its imports took, and within QUICK seconds
    after these.
    """
    script = BOUND.format(code=code, imports=imports, memory=memory, seconds=QUICK)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=10 * QUICK,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A picture of one colour of any size, with more chunks behind its head; its rows are made only
    as far as they are cheap.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big")
            + name
            + content
            + zlib.crc32(name + content).to_bytes(4, "big")
        )

    packer, row = zlib.compressobj(9), bytes(1 + width)
    rows = b"".join(packer.compress(row) for _ in range(min(height, 300))) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    parts = [(b"IHDR", head), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved_as(form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, form, **how)
    return file.getvalue()


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) (w) file "
    b"closefile\nshowpage\n%%EOF\n"
)
PICTURES: dict[str, tuple[str, bytes]] = {
    "a bomb of one colour": ("x.png", png(60_000, 60_000)),
    "one between PIL's limit and twice it": ("x.png", png(12_000, 12_000)),
    "one pixel too many": ("x.png", png(LARGEST + 1, 1)),
    "text that is inflated": (
        "x.png",
        png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(bytes(30_000_000), 9))),
    ),
    "a profile that is inflated": (
        "x.png",
        png(1 << 14, 1 << 13, (b"iCCP", b"k\0\0" + zlib.compress(bytes(30_000_000), 9))),
    ),
    "a chunk that promises too much": (
        "x.png",
        saved_as("png")[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(100),
    ),
    "a cut jpeg": ("x.jpg", saved_as("jpeg")[:300]),
    "nothing": ("x.png", b""),
    "a program in PostScript": ("x.png", EPS),
    "svg": ("x.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'),
    "pdf": ("x.jpg", saved_as("pdf")),
    "ico": ("x.png", saved_as("ico")),
    "a gigantic bmp": (
        "x.bmp",
        saved_as("bmp")[:18] + (60_000).to_bytes(4, "little") * 2 + saved_as("bmp")[26:],
    ),
    "a gigantic gif": (
        "x.gif",
        b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    ),
    "a gigantic ppm": ("x.ppm", b"P6 60000 60000 255\n" + bytes(300)),
}


def test_a_picture_that_is_no_picture_or_too_large_is_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, (file, content) in PICTURES.items():
        with subtests.test(picture=name):
            (tmp_path / file).write_bytes(content)
            listing = ImageIndex("folder", str(tmp_path), Names.of([file]))
            with pytest.raises(DataError, match="cannot be read as an image") as caught:
                decoded(opener(listing), listing, 0)
            assert "\n" not in str(caught.value) and file in str(caught.value)


READ = {
    "in memory": (
        "",
        "from noisebench.datasets import find_dataset, read_images; "
        'read_images(find_dataset("./set"), Path())',
    ),
    "streamed, without torch": (
        "import numpy as np",
        "from noisebench.datasets import find_dataset, read_images;"
        'np.asarray(read_images(find_dataset("folder:set"), Path()).train_images)',
    ),
    "streamed, as a training reads": (
        "import torch; import noisebench.training.streamed",
        "from noisebench.datasets import find_dataset, read_images;"
        "from noisebench.training.images import Normalisation, StreamTransform;"
        "from noisebench.training.inference import source_of;"
        'images = read_images(find_dataset("folder:set"), Path(), workers=0).train_images;'
        'next(iter(source_of(images, Normalisation.of(images), torch.device("cpu"), '
        "StreamTransform(32, 0.875)).eval_batches()))",
    ),
}


@pytest.mark.parametrize(
    "how", [*list(READ)[:2], pytest.param(list(READ)[2], marks=pytest.mark.soak)]
)
def test_bombs_are_refused_within_a_gigabyte_however_they_are_read(
    how: str, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "set" / part / label).mkdir(parents=True)
            (tmp_path / "set" / part / label / "x.png").write_bytes(
                png(60_000, 60_000) if part == "train" else saved_as("png")
            )
    imports, code = READ[how]
    assert "cannot be read as an image" in bounded(code, tmp_path, imports=imports)


def test_a_picture_at_the_limit_is_read_within_a_gigabyte(tmp_path: Path) -> None:
    """The first of many frames: the others are never asked for."""
    side = 4096
    frames = [Image.new("L", (64, 64), k) for k in range(200)]
    for label, content in (("a", png(side, side // 2)), ("b", None)):
        for part in ("train", "test"):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            place = tmp_path / "set" / part / label / "x"
            if content:
                place.with_suffix(".png").write_bytes(content)
            else:
                frames[0].save(place.with_suffix(".tiff"), save_all=True, append_images=frames[1:])
    code = 'print(read_images(find_dataset("./set"), Path()).train_images.shape)'
    assert "(2, 224, 224, 3)" in bounded(
        code, tmp_path, imports="from noisebench.datasets import find_dataset, read_images"
    )


def test_no_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "x.png").write_bytes(EPS)
    with pytest.raises(DataError):
        find_dataset(str(tmp_path / "set"))
    assert not (tmp_path / "ran").exists()


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "set" / part / label).mkdir(parents=True)
            os.mkfifo(tmp_path / "set" / part / label / "x.png")
    assert "not a file" in bounded(
        'from noisebench.datasets import find_dataset; find_dataset("./set")', tmp_path
    )
    with pytest.raises(DataError, match="is not a file"):
        read_images(find_dataset(f"folder:{tmp_path / 'set'}"), tmp_path)


# Tars


def a_tar(path: Path, *members: tuple[str, bytes | Callable[[tarfile.TarInfo], object]]) -> Path:
    """Members by name, with content or changed by a function."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            else:
                content(member)
            tar.addfile(
                member, io.BytesIO(content if isinstance(content, bytes) else bytes(member.size))
            )
    return path


def linked(kind: bytes, target: str = "/etc/passwd") -> Callable[[tarfile.TarInfo], object]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, target

    return change


def indexed(tmp_path: Path, name: str = "x.tar") -> list[str]:
    return list(index_tars(tmp_path, [name], tmp_path / "cache", keyed=False)[0].names)


def test_nothing_is_taken_out_of_a_tar_and_links_and_devices_are_no_pictures(
    tmp_path: Path,
) -> None:
    strange = [
        (f"train/a/{kind!r}.png", linked(kind))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    ]
    names = ("../../outside.png", "/absolute.png", "train/a/../../x.png", "train/a/ok.png")
    a_tar(tmp_path / "in" / "x.tar", *strange, *((name, saved_as("png")) for name in names))
    assert indexed(tmp_path / "in") == [name.removeprefix("./") for name in names]
    assert {
        path.name for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts
    } == {"x.tar"}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's head that may say any size."""
    member = tarfile.TarInfo(name)
    member.type = kind
    raw = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = (
        (0x80 << 88 | size).to_bytes(12, "big")
        if size >= 0
        else (size % (1 << 96)).to_bytes(12, "big")
    )
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


END = bytes(1024)
TARS = {
    "a member that says terabytes": header("a/x.png", 1 << 42) + END,
    "a member of a negative size": header("a/x.png", 0) + header("a/y.png", -1024) + END,
    "a long name that says terabytes": header("././@LongLink", 1 << 42, tarfile.GNUTYPE_LONGNAME)
    + END,
    "a long name that says as much as there is": header(
        "././@LongLink", 1 << 21, tarfile.GNUTYPE_LONGNAME
    )
    + bytes(1 << 22),
    "further heads that say terabytes": header("x", 1 << 42, tarfile.XHDTYPE) + END,
    "a cut member": header("a/x.png", 600) + bytes(100),
    "a damaged head": header("a/x.png", 0) + b"\xff" * 512 + header("a/y.png", 0) + END,
    "no tar": b"PK\x03\x04" + bytes(1000),
    "nothing": b"",
    "gzip": zlib.compress(END),
}


def test_a_damaged_or_lying_tar_is_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, content in TARS.items():
        with subtests.test(tar=name):
            (tmp_path / "x.tar").write_bytes(content)
            with pytest.raises(DataError, match=r"x\.tar") as caught:
                indexed(tmp_path)
            assert "\n" not in str(caught.value)


def test_a_name_that_no_manifest_can_hold_is_refused(tmp_path: Path) -> None:
    raw = header("train/a/x.png", 0).replace(b"train/a/x.png", b"train/a/\xff.png")
    raw = raw[:148] + b" " * 8 + raw[156:]
    (tmp_path / "x.tar").write_bytes(raw[:148] + b"%06o\0 " % sum(raw) + raw[156:] + END)
    with pytest.raises(DataError, match="not UTF-8"):
        indexed(tmp_path)


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    """It would be read as the bytes that happen to lie there."""
    member = tarfile.TarInfo("a/x.png")
    member.type, member.size = tarfile.REGTYPE, 0
    member.pax_headers = {
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.realsize": str(1 << 40),
    }
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + END)
    with pytest.raises(DataError, match=r"sparse file|is outside of it"):
        indexed(tmp_path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    a_tar(
        tmp_path / "x.tar",
        *[
            (f"{part}/{label}/x.png", saved_as("png"))
            for part in ("train", "train", "test")
            for label in "ab"
        ],
    )
    with pytest.raises(DataError, match="two training images have the same name"):
        find_dataset(f"tar:{tmp_path / 'x.tar'}", tmp_path)


def test_a_label_that_no_class_has_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    labels = (b"-1", b"70000", b"9" * 30, b"9" * 10_000, b"1e400", b"Infinity", b"[" * 200_000)
    for label, suffix in itertools.product(labels, ("cls", "json")):
        with subtests.test(label=label[:20], suffix=suffix):
            content = label if suffix == "cls" else b'{"label": ' + label + b"}"
            a_tar(tmp_path / "x.tar", ("0.png", saved_as("png")), (f"0.{suffix}", content))
            with pytest.raises(DataError, match="contains no class number"):
                index_tars(tmp_path, ["x.tar"], tmp_path / "cache", keyed=True)


def test_a_list_of_a_published_set_stays_in_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "webvision"
    (root / "info").mkdir(parents=True)
    for name in ("/etc/passwd.jpg", "../../x.jpg", "a/../../x.jpg"):
        (root / "info" / "train_filelist_google.txt").write_text(f"{name} 0\n")
        (root / "info" / "val_filelist.txt").write_text("x.jpg 0\n")
        with pytest.raises(DataError, match="is outside of it"):
            find_dataset("webvision", tmp_path)


# Weights and checkpoints


class Evil:
    """What a pickle can do when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


class Lying:
    """A tensor of one number that says any size."""

    def __init__(self, size: int, stride: int) -> None:
        self.size, self.stride = size, stride

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (
            torch.ones(1)._typed_storage(),
            0,
            (self.size,),
            (self.stride,),
            False,
            {},
        )


def torch_file(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def compressed(raw: bytes) -> bytes:
    """The same with members that are inflated."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(raw)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return file.getvalue()


def deep(depth: int) -> Any:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def hostile_files(canary: Path) -> dict[str, bytes]:
    return {
        "code": torch_file({"a": Evil(canary)}),
        "code alone": pickle.dumps(Evil(canary)),
        "code as torch wrote before": torch_file(
            {"a": Evil(canary)}, _use_new_zipfile_serialization=False
        ),
        "a tensor that says terabytes": torch_file({"a": Lying(1 << 40, 1)}),
        "a tensor of one number again and again": torch_file({"a": Lying(1 << 40, 0)}),
        "an archive that is inflated": compressed(torch_file({"a": torch.zeros(1 << 22)})),
        "a meta tensor": torch_file({"a": torch.empty(1 << 40, device="meta")}),
        "a sparse tensor": torch_file(
            {
                "a": torch.sparse_coo_tensor(
                    torch.tensor([[0]]), torch.ones(1), (1 << 40,), check_invariants=True
                )
            }
        ),
        "lists in lists": torch_file({"a": deep(100)}),
        "cut": torch_file({"a": torch.ones(1000)})[:-700],
        "nothing": b"",
        "no file of torch's": b"PK\x03\x04" + bytes(100),
    }


def test_weights_of_strangers_run_nothing_and_are_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, content in hostile_files(tmp_path / "ran").items():
        with subtests.test(weights=name):
            (tmp_path / "x.pt").write_bytes(content)
            with pytest.raises(DataError) as caught:
                initial_of("x.pt", tmp_path / "x.pt")
            assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_checkpoints_of_strangers_run_nothing_and_are_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, content in hostile_files(tmp_path / "ran").items():
        with subtests.test(checkpoint=name):
            with pytest.raises(NoisebenchError, match="cannot be resumed") as caught:
                load_state(RunFolder(tmp_path), sealed(content), CPU)
            assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def sealed(content: bytes) -> bytes:
    """With a checksum that fits."""
    return f"noisebench checkpoint {hashlib.sha256(content).hexdigest()}\n".encode() + content


@pytest.mark.soak  # a process that imports torch; that such an archive is refused stands above
def test_an_inflated_checkpoint_is_refused_within_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(compressed(torch_file({"a": torch.zeros(1 << 26)})))
    assert (tmp_path / "x.pt").stat().st_size < 1 << 20
    code = (
        'from noisebench.experiments.backbones import initial_of; initial_of("x.pt", Path("x.pt"))'
    )
    assert "refused" in bounded(
        code, tmp_path, imports="import torch, safetensors.torch", memory=1 << 27
    )


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    shared = torch.ones(4, 3)
    content = {
        "a": shared,
        "b": shared.T,
        "c": shared[:, 1:],
        "d": [1, "x", None, (2.5, True)],
        "e": torch.tensor(3),
        "f": torch.empty(0),
    }
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        found = load_torch(torch_file(content, **how))
        assert torch.equal(found["c"], shared[:, 1:]) and found["d"] == content["d"]


Checkpoint = tuple[RunFolder, dict[str, Any]]


@pytest.fixture
def checkpoint(make_trainer: Callable[..., Trainer], tmp_path: Path) -> Checkpoint:
    """A run's folder with a checkpoint, and what stands in it."""
    folder = RunFolder(tmp_path / "run__1")
    save(folder, make_trainer(), RunState())
    return folder, torch.load(
        io.BytesIO(folder.resume.read_bytes().partition(b"\n")[2]), weights_only=True
    )


def test_a_checkpoint_is_its_runs(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder, _ = checkpoint
    load_state(folder, folder.resume.read_bytes(), CPU)
    with pytest.raises(NoisebenchError, match="it belongs to the run run__1"):
        load_state(RunFolder(tmp_path / "run__2"), folder.resume.read_bytes(), CPU)


SWAPPED: dict[str, tuple[Any, ...]] = {
    "run": (None,), "folds": ([1],), "dynamics": ({},),
}  # fmt: skip


def test_a_checkpoint_of_other_types_is_refused(
    checkpoint: Checkpoint, subtests: pytest.Subtests
) -> None:
    folder, content = checkpoint
    for name, value in [(name, value) for name, values in SWAPPED.items() for value in values]:
        with (
            subtests.test(name=name, value=value),
            pytest.raises(NoisebenchError, match="cannot be resumed"),
        ):
            load_state(folder, sealed(torch_file({**content, name: value})), CPU)


def test_a_checkpoint_whose_training_is_of_other_types_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = desk.plan()
    folder, steps = desk.folder(run), iter(range(100))
    with pytest.raises(Interrupted):
        desk.execute(run, RunOptions(should_stop=lambda: next(steps) > 2))
    content = torch.load(
        io.BytesIO(folder.resume.read_bytes().partition(b"\n")[2]), weights_only=True
    )
    folder.resume.write_bytes(sealed(torch_file({**content, "trainer": {"networks": 3}})))
    with pytest.raises(NoisebenchError, match="cannot be resumed"):
        desk.execute(run)


def safetensors_file(head: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    raw = json.dumps(head).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


SAFETENSORS = {
    "a head that says terabytes": safetensors_file({}, length=1 << 60),
    "a tensor beyond the file": safetensors_file(
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ),
    "a shape that is not its bytes": safetensors_file(
        {"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "tensors that overlap": safetensors_file(
        {k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}, bytes(4)
    ),
    "a type that is none": safetensors_file(
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a type that torch has not": safetensors_file(
        {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, bytes(1)
    ),
    "a negative place": safetensors_file(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(4)
    ),
    "a pickle": pickle.dumps({"a": 1}),
    "nothing": b"",
    "deep json": (100_000).to_bytes(8, "little") + b"[" * 100_000,
}


def test_lying_safetensors_are_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, content in SAFETENSORS.items():
        with subtests.test(file=name):
            (tmp_path / "x.safetensors").write_bytes(content)
            with pytest.raises(DataError) as caught:
                load_weights(tmp_path / "x.safetensors", [torch.nn.Linear(1, 1)])
            assert "\n" not in str(caught.value)
            if name != "a type that torch has not":
                with pytest.raises(DataError):
                    initial_of("x", tmp_path / "x.safetensors")


def test_what_a_cluster_job_left_runs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'noisebench[slurm]'")
    from noisebench.executors.slurm import exit_code

    left = tmp_path / "result.pkl"
    for content, expected in ((("success", 0), 0), (("success", 137), 137)):
        left.write_bytes(pickle.dumps(content))
        assert exit_code(left) == expected
    for raw in (
        pickle.dumps(("success", Evil(tmp_path / "ran"))),
        pickle.dumps(Evil(tmp_path / "ran")),
        b"",
        b"\x80",
        pickle.dumps(3),
    ):
        left.write_bytes(raw)
        with pytest.raises(RuntimeError):
            exit_code(left)
    left.write_bytes(pickle.dumps(("error", "Traceback\nValueError: x")))
    with pytest.raises(RuntimeError, match="ValueError: x"):
        exit_code(left)
    assert not (tmp_path / "ran").exists()


# Paths


TRAINING = ("--subset", "200", "--model", "mlp", "--epochs", "1", "--loss", "ce")


def suite_text(report: dict[str, Any], **more: Any) -> str:
    defaults = {"dataset": "digits", "model": "mlp", "epochs": 1, "subset": 200, **more}
    matrix = {"noise": ["symmetric(rate=0.4)"], "method": ["ce"]}
    return json.dumps(
        {
            "version": 1,
            "suites": {"tiny": {"defaults": defaults, "matrix": matrix, "report": report}},
        }
    )


def test_a_suite_names_no_file_outside_of_the_workspace(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name in (
        "../x.csv",
        "/tmp/x.csv",
        "a/../../x.csv",
        "..\\x.csv",
        "C:\\x.csv",
        "",
        ".csv",
        "x.txt",
    ):
        with subtests.test(name=name):
            (tmp_path / "s.yaml").write_text(suite_text({"suspects": name}))
            with pytest.raises(ConfigError, match="inside the workspace"):
                read_suites(tmp_path / "s.yaml")
    (tmp_path / "s.yaml").write_text(suite_text({"suspects": "lists/x.csv"}))
    assert read_suites(tmp_path / "s.yaml")


def test_a_link_leads_no_list_out_of_the_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, outside = tmp_path / "workspace", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    (place / "lists").symlink_to(outside)
    (place / "benchmarks.yaml").write_text(suite_text({"suspects": "lists/x.csv"}))
    assert main(["-q", "-C", str(place), "run", "tiny"]) == 2
    assert (
        "a link leads it out" in capsys.readouterr().err
        and not list(outside.iterdir())
        and not (place / "runs").exists()
    )


SHORT = ["--model", "mlp", "--epochs", "1", "--loss", "ce"]


def test_no_link_in_a_workspace_is_written_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are replaced and not followed; a run whose folder is a link is refused."""
    place, outside = tmp_path / "workspace", tmp_path / "outside"
    outside.mkdir()
    precious = {
        name: outside / name
        for name in (
            "config.yaml",
            "metrics.csv",
            "result.json",
            "resume.pt",
            "claim",
            "model.safetensors",
        )
    }
    for path in precious.values():
        path.write_text("precious")
    command = ["-q", "-C", str(place), "train", "digits", "--sym", "0.4", "--subset", "200", *SHORT]
    assert main(command) == 0
    (run,) = (place / "runs").iterdir()
    for name in ("config.yaml", "metrics.csv", "model.safetensors"):
        (run / name).unlink()
        (run / name).symlink_to(precious[name])
    assert main([*command, "--force"]) == 0
    moved = run.rename(tmp_path / "moved")
    run.symlink_to(outside)
    assert main([*command, "--force"]) == 2 and "is a symbolic link" in capsys.readouterr().err
    assert {path.read_text() for path in outside.iterdir()} == {"precious"} and len(
        list(outside.iterdir())
    ) == len(precious)
    assert not (moved / "config.yaml").is_symlink()


def test_a_strangers_names_are_no_paths(tmp_path: Path) -> None:
    """Whatever a manifest says of itself, what is made of it lies in the workspace."""
    place = tmp_path / "a" / "workspace"
    assert (
        main(["-q", "-C", str(place), "corrupt", "digits", "--sym", "0.4", "--subset", "200"]) == 0
    )
    (path,) = (place / "manifests").glob("*.csv")
    made = read_manifest(path)
    evil = {
        "convention": "../../../evil",
        "plugin": "evil.py",
        "plugins": ["evil.py"],
        "out": "/evil",
    }
    replace(made, meta={**made.meta, **evil}).write(tmp_path / "m.csv")
    command = [
        "-q",
        "-C",
        str(place),
        "train",
        "digits",
        "--manifest",
        str(tmp_path / "m.csv"),
        *SHORT,
    ]
    assert main(command) == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"workspace"} and {
        path.name for path in tmp_path.iterdir()
    } == {
        "a",
        "m.csv",
    }
    assert {path.name for path in place.iterdir()} == {"manifests", "runs"}


# Plugins


PLUGIN = "import os\nos.mkdir({canary!r})\n"


def test_no_suite_and_no_manifest_loads_a_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text(PLUGIN.format(canary=str(tmp_path / "ran")))
    for more in ({"plugin": "evil.py"}, {"loss": "evil.py"}, {"model": "evil.py"}):
        (tmp_path / "benchmarks.yaml").write_text(suite_text({}, **more))
        assert main(["-C", str(tmp_path), "run", "tiny"]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for text in (
            "evil",
            "evil()",
            "evil.py",
            "__import__('evil')",
            "noisebench.core.plugins.load_plugins(['evil.py'])",
        ):
            assert (
                main(["train", "digits", "--loss", text]) == 2
                and main(["corrupt", "digits", "--noise", text]) == 2
            )
    assert not (tmp_path / "ran").exists() and "error: " in capsys.readouterr().err
    assert main(["--plugin", str(tmp_path / "evil.py"), "list", "env"]) == 0
    assert (tmp_path / "ran").exists(), "the user's own option does"


def test_a_plugins_names_are_of_the_language(subtests: pytest.Subtests) -> None:
    def cost(log_p: Any) -> Any:
        return -log_p

    for name in (
        "",
        "a b",
        "a-b",
        "1a",
        "_a",
        "a\n",
        "a\x1b[2J",
        "ä",
        "a.b",
        "a(b)",
        "../a",
        "a:b",
    ):
        with subtests.test(name=name):
            with pytest.raises(LanguageError, match="invalid name"):
                register_loss(aliases=(name,))(cost)
            assert "cost" not in LOSSES and name not in LOSSES


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_checkpoint_that_is_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    os.mkfifo(folder.resume)
    with pytest.raises(NoisebenchError, match="not a file"):
        read(folder)
