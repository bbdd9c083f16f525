"""`--offline` opens no socket, nor does a command that needs nothing from outside: an audit hook
watches every process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.suites import workspace

GUARD = '''\
"""Refuses and notes every socket but those between processes of this machine; with LISTENERS also tells whether one may listen here."""
import os, socket, sys

def guard(event, words):
    if not event.startswith("socket.") or event == "socket.gethostname":
        return
    family = words[1] if event == "socket.__new__" else getattr(words[0], "family", None)
    if family == socket.AF_UNIX or (event == "socket.__new__" and family == -1):  # -1: of a descriptor that is open already
        return
    if os.environ.get("LISTENERS") and (event == "socket.__new__" or (event == "socket.bind" and words[1][0] in ("127.0.0.1", "::1"))):
        return
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{event} {words[1:]}\\n")
    raise OSError(101, "no network here")

sys.addaudithook(guard)
'''
SCRIPT = """
import json, os, sys
from pathlib import Path
from noisebench.cli import main
codes, sockets, notes = {}, {}, Path(os.environ["NOTES"])
for line in json.loads(sys.argv[1]):
    notes.write_text("")
    codes[line] = main(line.split())
    print(codes[line], line, file=sys.stderr)
    sockets[line] = notes.read_text().splitlines()
print("\\n" + json.dumps([codes, sockets]))
"""
NEEDS_NOTHING = (
    "list datasets", "list losses", "corrupt cifar10 --asym 0.3", "corrupt digits --sym 0.4", "list manifests",
    "train digits --sym 0.4 --epochs 1 --precision fp32", "report",
)  # fmt: skip
NOR_DO_THESE = (
    "list models timm",
    "evaluate digits-sym0.4-s0_mlp_ce",
    "run tiny --jobs 2",
    "report -o report.html",
)
CANNOT_BE_HAD = (
    "train cifar10 --sym 0.4", "train mnist --sym 0.4", "corrupt fashionmnist --idn 0.2", "corrupt cifar10 --human worse",
    "corrupt hfds:someone/table --sym 0.4",
)  # fmt: skip
PRETRAINED = (
    "train digits --sym 0.4 --model timm:test_resnet --init-weights pretrained",
)  # imports timm


@dataclass
class Done:
    """Of each line its exit code and the sockets that it asked for."""

    codes: dict[str, int]
    sockets: dict[str, list[str]]
    stderr: str

    @property
    def opened(self) -> list[str]:
        return [f"{line}: {note}" for line, notes in self.sockets.items() for note in notes]


def run(place: Path, lines: tuple[str, ...], **environment: str) -> Done:
    """The commands one after the other in a new process, guarded as all that it starts."""
    (place / "guard").mkdir(exist_ok=True)
    (place / "guard" / "sitecustomize.py").write_text(GUARD)
    if not (place / "space").exists():
        workspace(place / "space", epochs=1)
    paths = os.pathsep.join([str(place / "guard"), str(Path(__file__).parents[2])])
    outside = {
        "PYTHONPATH": paths,
        "NOTES": str(place / "notes"),
        "HF_HOME": str(place / "hub"),
        "NOISEBENCH_DATA": str(place / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(lines)],
        cwd=place / "space", env=os.environ | outside | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Done(*json.loads(done.stdout.splitlines()[-1]), done.stderr)


def offline(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"--offline {line}" for line in lines)


def test_commands_that_need_nothing_from_outside_open_no_socket_nor_do_any_offline(
    tmp_path: Path,
) -> None:
    pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    done = run(tmp_path, NEEDS_NOTHING + offline(NEEDS_NOTHING[-3:]) + offline(CANNOT_BE_HAD))
    assert done.opened == [], done.stderr
    assert done.codes == dict.fromkeys(
        NEEDS_NOTHING + offline(NEEDS_NOTHING[-3:]), 0
    ) | dict.fromkeys(offline(CANNOT_BE_HAD), 2), done.stderr


@pytest.mark.soak
def test_commands_that_take_longer_open_no_socket_either(tmp_path: Path) -> None:
    lines, refused = NEEDS_NOTHING[3:6] + NOR_DO_THESE + offline(NOR_DO_THESE), offline(PRETRAINED)
    done = run(tmp_path, lines + refused)
    assert (done.codes, done.opened) == (dict.fromkeys(lines, 0) | dict.fromkeys(refused, 2), []), (
        done.stderr
    )


@pytest.mark.soak
def test_offline_a_table_in_a_folder_or_in_the_hubs_cache_is_read_without_a_socket(
    tmp_path: Path,
) -> None:
    table(tmp_path)
    lines = (
        "--offline train hfds:table --sym 0.4 --epochs 1 --model mlp --workers 1 --img-size 8",
        "--offline corrupt hfds:someone/table --sym 0.2",
    )
    done = run(tmp_path, lines)
    assert (done.codes, done.opened) == (dict.fromkeys(lines, 0), []), done.stderr


def table(place: Path) -> None:
    """A folder of parquet files, and the same in the cache of Hugging Face's datasets under a hub's
    name.
    """
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.support.hosting import png

    folder = workspace(place / "space", epochs=1) / "table"
    folder.mkdir()
    for part, n in (("train", 32), ("test", 8)):
        pq.write_table(pa.table({"image": [{"bytes": png(i), "path": None} for i in range(n)], "label": [i % 4 for i in range(n)]}),
                       folder / f"{part}-0.parquet")  # fmt: skip
    cache = place / "hub" / "datasets"
    datasets.load_dataset(str(folder), cache_dir=str(cache))
    (cache / "table").rename(cache / "somebody___table")


def test_the_guard_sees_what_would_be_downloaded(tmp_path: Path, subtests: pytest.Subtests) -> None:
    # an extra
    tables = (
        ("corrupt hfds:someone/table --sym 0.4",) if importlib.util.find_spec("datasets") else ()
    )
    lines = ("train cifar10 --sym 0.4", "corrupt cifar10 --human worse", *tables)
    done = run(tmp_path, lines)
    for line in lines:
        with subtests.test(line=line):
            assert done.codes[line] == 2 and any(
                note.startswith("socket.getaddrinfo") for note in done.sockets[line]
            ), done.stderr


@pytest.mark.soak
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_offline_a_tracker_asks_nobody(tracker: str, tmp_path: Path) -> None:
    """urllib3 tries on being imported whether it could listen at ::1."""
    line = f"--offline train digits --sym 0.4 --epochs 1 --precision fp32 --log-to {tracker}"
    done = run(tmp_path, (line,), LISTENERS="1", WANDB_MODE="online", WANDB_API_KEY="0" * 40, MLFLOW_TRACKING_URI="http://127.0.0.1:9",
               TRACKIO_SERVER_URL="http://127.0.0.1:9")  # fmt: skip
    assert (done.codes, done.opened) == ({line: 0}, []), done.stderr
