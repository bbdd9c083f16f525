"""Training that begins from trained weights: whose they are, bit for bit, what does not fit, and
what a run's key and record say.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from noisebench.cli import main
from noisebench.datasets import DATASETS, Images
from noisebench.errors import ConfigError, DataError
from noisebench.experiments.backbones import find_file, find_pretrained, initial_of
from noisebench.experiments.resolve import RunRequest, resolve_run
from noisebench.experiments.suite import read_suites
from noisebench.labels.build import LabelRequest
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.queue import plan_suite
from noisebench.runs.session import fold_trainer
from noisebench.runs.session import make_trainer as trainer_of
from noisebench.runs.workspace import Workspace, rebuild
from noisebench.training.networks import make_network
from noisebench.training.networks.factory import InitialState, NetworkFactory, adapted, weights_of
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import Trainer
from tests.conftest import CPU

DIGITS = (8, 8, 1)
TINY = "timm:test_resnet"


def state_of(
    model: str = "mlp", classes: int = 10, shape: tuple[int, int, int] = DIGITS, seed: int = 9
) -> dict[str, Tensor]:
    """Weights that no test's own seed makes."""
    return make_network(model, classes, shape, seed).state_dict()


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def begun(
    path: Path,
    model: str = "mlp",
    classes: int = 10,
    shape: tuple[int, int, int] = DIGITS,
    networks: int = 1,
) -> list:
    beginning = NetworkFactory(
        model, classes, shape, weights_of(initial_of(path.name, path)), networks
    )
    return [beginning.network(number, number) for number in range(networks)]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def parts(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(prefix)}


KINDS: dict[str, Callable[[Path, dict[str, Tensor]], Path]] = {
    "safetensors": lambda place, state: (
        save_file(state, place / "w.safetensors") or place / "w.safetensors"
    ),
    "state dict": lambda place, state: saved(place / "w.pt", state),
    "wrapped": lambda place, state: saved(
        place / "w.pth", {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}
    ),
    "of data parallel": lambda place, state: saved(
        place / "w.pt", {"model": {f"module.{name}": value for name, value in state.items()}}
    ),
    "compiled": lambda place, state: saved(
        place / "w.pt", {f"_orig_mod.{name}": value for name, value in state.items()}
    ),
    "of a run": lambda place, state: (
        save_file({f"network0.{n}": v for n, v in state.items()}, place / "model.safetensors")
        or find_file(str(place), place)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_these_weights_bit_for_bit_under_one_hash(
    kind: str, tmp_path: Path
) -> None:
    state = state_of("cnn4", shape=(28, 28, 1))
    path = KINDS[kind](tmp_path, state)
    ((network, said),) = begun(path, "cnn4", shape=(28, 28, 1))
    assert equal(network.state_dict(), state) and said == ()
    assert initial_of("", path).sha256 == initial_of("", saved(tmp_path / "plain.pt", state)).sha256


def test_one_changed_bit_is_another_hash_and_a_file_that_changed_is_said(tmp_path: Path) -> None:
    state = state_of()
    initial = initial_of("w.pt", saved(tmp_path / "w.pt", state))
    state["head.bias"][3] = torch.nextafter(state["head.bias"][3], torch.tensor(9.0))
    saved(tmp_path / "w.pt", state)
    with pytest.raises(DataError, match="have changed"):
        weights_of(initial)
    assert initial_of("w.pt", tmp_path / "w.pt").sha256 != initial.sha256


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil",)


def test_no_pickles_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Evil(), {"state_dict": state_of(), "args": Evil()}):
        with pytest.raises(DataError, match="pickled code is never run"):
            initial_of("w.pt", saved(tmp_path / "w.pt", content))
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="pickled code is never run"):
        initial_of("raw.pt", tmp_path / "raw.pt")
    assert not (tmp_path / "evil").exists()


def test_a_classifier_of_other_classes_is_left_as_freshly_made(tmp_path: Path) -> None:
    state = state_of(classes=7)
    ((network, said),) = begun(saved(tmp_path / "w.pt", state))
    assert equal(parts(network.state_dict(), "body."), parts(state, "body."))
    assert equal(parts(network.state_dict(), "head."), parts(state_of(seed=0), "head."))
    assert said == ("its classifier has 7 classes, not 10: random classifier",)


def test_weights_without_a_classifier_are_welcome(tmp_path: Path) -> None:
    state = parts(state_of(), "body.")
    ((network, said),) = begun(saved(tmp_path / "w.pt", state))
    assert equal(parts(network.state_dict(), "body."), state) and said[0].startswith(
        "it has no classifier"
    )


def test_two_networks_that_begin_from_one_have_classifiers_of_their_own(tmp_path: Path) -> None:
    state = state_of()
    found = [
        network.state_dict() for network, _ in begun(saved(tmp_path / "w.pt", state), networks=2)
    ]
    for number, own in enumerate(found):
        assert equal(parts(own, "body."), parts(state, "body."))
        assert equal(parts(own, "head."), parts(state_of(seed=number), "head."))


def test_each_of_two_networks_gets_its_own_of_two_and_a_single_one_the_first(
    tmp_path: Path,
) -> None:
    states = state_of(seed=1), state_of(seed=2)
    path = tmp_path / "model.safetensors"
    save_file(
        {
            f"network{n}.{name}": value
            for n, state in enumerate(states)
            for name, value in state.items()
        },
        path,
    )
    assert [
        equal(network.state_dict(), state)
        for (network, _), state in zip(begun(path, networks=2), states, strict=True)
    ] == [True, True]
    ((network, said),) = begun(path)
    assert equal(network.state_dict(), states[0]) and said == (
        "the first of its 2 networks is used",
    )
    with pytest.raises(DataError, match="weights of 2 networks, and this run trains more"):
        begun(path, networks=3)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_a_first_convolution_is_adapted_as_timm_adapts_it(channels: int) -> None:
    weight = torch.randn(8, 3, 7, 7)
    assert torch.equal(adapted(weight, channels), timm.models.adapt_input_conv(channels, weight))


def test_grey_weights_see_a_grey_picture_in_colour_as_they_did(tmp_path: Path) -> None:
    state = state_of("cnn4", shape=(32, 32, 1))
    ((network, said),) = begun(saved(tmp_path / "w.pt", state), "cnn4", shape=(32, 32, 3))
    before, grey = make_network("cnn4", 10, (32, 32, 1), 0), torch.randn(4, 1, 32, 32)
    before.load_state_dict(state)
    torch.testing.assert_close(
        network.eval()(grey.expand(-1, 3, -1, -1)), before.eval()(grey), rtol=1e-4, atol=1e-5
    )
    assert said == ("its body.0.weight has 1 input channels and is adapted to 3",)


def test_what_does_not_fit_names_the_first_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", state_of("cnn4", shape=(28, 28, 1)))
    with pytest.raises(DataError) as caught:
        begun(path)
    assert (
        "does not fit mlp here: missing body.3.weight, body.3.bias; unexpected body.0.bias, "
        "body.0.weight and 17 more"
    ) in str(caught.value)
    with pytest.raises(
        DataError,
        match=r"cnn4 here: of another shape body.9.weight \(128, 3136\) "
        r"for \(128, 4096\)",
    ):
        begun(path, "cnn4", shape=(32, 32, 1))
    partial = state_of()
    del partial["body.3.bias"], partial["head.bias"]
    with pytest.raises(
        DataError,
        match=r"does not fit mlp here: missing body\.3\.bias, "
        r"head\.bias$",
    ):
        begun(saved(tmp_path / "w.pt", partial))


NO_WEIGHTS = [
    ("w.pt", [1, 2], "is not a state dict"),
    ("w.pt", {"state_dict": {"a": 1}}, "is not a state dict"),
    ("w.pt", {}, "is not a state dict"),
    ("w.safetensors", b"junk", "is damaged or not a .safetensors"),
    ("w.safetensors", b"\x02\0\0\0\0\0\0\0{}", "contains no tensors"),
    ("w.pt", b"junk", "is damaged or contains more than tensors"),
]


def test_files_that_hold_no_weights_are_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, content, said in NO_WEIGHTS:
        with subtests.test(name=name, said=said):
            path = tmp_path / name
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                torch.save(content, path)
            with pytest.raises(DataError, match=said) as caught:
                initial_of(name, path)
            assert "\n" not in str(caught.value)


def test_names_that_lead_to_no_weights_say_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "w.zip").touch()
    (tmp_path / "runs" / "a_seed0__12345678").mkdir(parents=True)
    (tmp_path / "runs" / "a_seed1__12999999").mkdir(parents=True)
    (tmp_path / "runs" / "a_seed1__34567890").mkdir(parents=True)
    cases = {"nowhere": "no such file, and no run matches 'nowhere'", "12": ("runs that begin with it: "
                                                                    "a_seed0__12345678, "
                                                                    "a_seed1__12999999"),
             "1": "no run", "12345": "no run", "a": "3 runs match 'a': ", "a_se": "no run", "a_seed": "no run",
             "123456": "so it is not a finished run", "a_seed0": "so it is not a finished run", "a_seed1": "2 runs match",
             "1234567890": "no run",
             str(tmp_path / "w.zip"): "expected a .safetensors file or a state dict", " ": "init must be a run directory"}  # fmt: skip
    for text, said in cases.items():
        with pytest.raises((DataError, ConfigError), match=said):
            find_file(text, tmp_path)


# timm's networks


def test_weights_of_timm_keep_its_stem_and_images_are_enlarged(tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = timm.create_model("test_resnet").eval()
    path = saved(tmp_path / "w.pt", theirs.state_dict())
    ((network, said),) = begun(path, TINY, 1000, (16, 16, 3))
    images = torch.randn(2, 3, 16, 16)
    larger = torch.nn.functional.interpolate(images, scale_factor=4, mode="bilinear")
    assert torch.equal(network.eval()(images), theirs(larger)) and "enlarged 4 times" in said[0]
    ((large, said),) = begun(path, TINY, 1000, (96, 96, 3))
    assert equal(large.state_dict(), theirs.state_dict()) and said == ()


def test_weights_of_a_run_keep_the_stem_of_the_run(tmp_path: Path) -> None:
    for enlarged in (False, True):
        own = make_network(TINY, 10, (16, 16, 3), 3, enlarged=enlarged).state_dict()
        save_file(
            {f"network0.{name}": value for name, value in own.items()},
            tmp_path / "model.safetensors",
        )
        ((network, said),) = begun(tmp_path / "model.safetensors", TINY, 10, (16, 16, 3))
        assert equal(network.state_dict(), own) and bool(said) == enlarged
    # of large images nothing is enlarged
    ((network, _),) = begun(tmp_path / "model.safetensors", TINY, 10, (96, 96, 3))
    assert equal(
        network.state_dict(),
        {name: value for name, value in own.items() if name != "enlarge.times"},
    )


def test_positions_of_other_images_are_brought_here_as_timm_does(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = saved(tmp_path / "w.pt", timm.create_model("test_vit").state_dict())
    ((network, _),) = begun(path, "timm:test_vit", 1000, (24, 24, 3))
    reference = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"file": str(path)}, img_size=96
    )
    state = network.state_dict()
    del state["enlarge.times"]
    assert equal(state, reference.state_dict())


def cache(home: Path, repository: str, state: dict[str, Tensor]) -> None:
    """The hub's own layout."""
    place = home / "hub" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    (place / "snapshots" / ("a" * 40)).mkdir(parents=True)
    save_file(state, place / "snapshots" / ("a" * 40) / "model.safetensors")


def test_pretrained_is_found_in_the_cache_of_the_hub_and_is_the_run_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    torch.manual_seed(5)
    state = timm.create_model("test_resnet").state_dict()
    cache(tmp_path / "home", "timm/test_resnet.r160_in1k", state)
    save_file(state, tmp_path / "same.safetensors")
    planned = []
    for init in ("pretrained", str(tmp_path / "same.safetensors")):
        words = [
            "train",
            "digits",
            "--sym",
            "0.4",
            "--model",
            TINY,
            "--init-weights",
            init,
            "--dry-run",
            "--json",
        ]
        assert main(["--offline", "-C", str(tmp_path), *words]) == 0
        planned.append(json.loads(capsys.readouterr().out))
    assert planned[0]["key"] == planned[1]["key"]
    assert planned[0]["init"] == initial_of("", tmp_path / "same.safetensors").sha256


def test_pretrained_weights_that_cannot_be_had_are_said_in_one_line_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        find_pretrained(TINY, offline=True)
    assert "--offline forbids" in str(caught.value) and "\n" not in str(caught.value)
    assert (
        "test_resnet.r160_in1k/resolve/main/model.safetensors on another machine and give "
        "--init-weights FILE, or use --init-weights none"
    ) in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="cannot be reached"):
        find_pretrained(TINY, offline=False)


def test_a_download_that_breaks_off_is_not_a_hub_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(repository: str, name: str) -> str:
        raise LocalEntryNotFoundError(
            "An error happened while trying to locate the file on the Hub"
        )

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("noisebench.experiments.backbones.unreachable", lambda endpoint: "")
    with pytest.raises(
        DataError,
        match=r"the download failed \(An error happened while trying "
        r"to locate",
    ):
        find_pretrained(TINY, offline=False)


@pytest.mark.parametrize("right", [True, False])
def test_weights_from_the_hub_are_those_it_names_by_their_sha256(
    right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights"
    blob = tmp_path / "blobs" / hashlib.sha256(content if right else b"others").hexdigest()

    def fetch(repository: str, name: str) -> str:
        blob.parent.mkdir()
        blob.write_bytes(content)
        (tmp_path / name).symlink_to(blob)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr("noisebench.experiments.backbones.unreachable", lambda endpoint: "")
    if right:
        assert find_pretrained(TINY, offline=False)[1].read_bytes() == content
    else:
        with pytest.raises(
            DataError,
            match=r"the downloaded file does not have the sha256 "
            r"that the Hub states",
        ):
            find_pretrained(TINY, offline=False)
    assert blob.exists() == right


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("cnn8", "has no pretrained weights, only timm's"),
        ("timm:resnet50d.nobody", "unknown weights of timm"),
    ],
)
def test_pretrained_is_refused_where_there_are_no_such_weights(model: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        find_pretrained(model, offline=True)


# runs


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def planned(space: Workspace, **wish: object):
    manifest, _ = space.make(DATASETS["digits"], LabelRequest("symmetric(rate=0.4)"))
    return resolve_run(
        RunRequest(**{"precision": "fp32", "changes": {"epochs": 4}, **wish}),
        DATASETS["digits"],
        manifest,
        "data",
    )


def test_keys_without_initial_weights_are_what_they_were(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    golden = {
        "--sym 0.4 --method el": "90a3be45153553e5",
        "--asym 0.3 --map digits --method coteaching --recipe apl --epochs 3 --crop 1": "7f21e21222c4afc5",
        "--sym 0.4 --method el --init-weights none --freeze 0 --layer-decay 1": "90a3be45153553e5",
    }
    for words, key in golden.items():
        assert (
            main(
                [
                    "-C",
                    str(tmp_path),
                    "train",
                    "digits",
                    *words.split(),
                    "--precision",
                    "fp32",
                    "--dry-run",
                    "--json",
                ]
            )
            == 0
        )
        assert json.loads(capsys.readouterr().out)["key"].startswith(key), words


def test_the_key_holds_the_tensors_and_no_path(space: Workspace, tmp_path: Path) -> None:
    state = state_of()
    first, second = (
        saved(tmp_path / "a.pt", state),
        saved(tmp_path / "b.pth", {"state_dict": state}),
    )
    runs = [planned(space, init=space.initial(str(path), "mlp")) for path in (first, second)]
    assert runs[0].key == runs[1].key != planned(space).key
    assert (
        runs[0].config["init"] == initial_of("", first).sha256
        and "init" not in planned(space).config
    )


def test_what_begins_anew_and_what_estimates_first_begin_from_the_same_weights(
    space: Workspace, digits: Images, tmp_path: Path
) -> None:
    state = state_of(classes=3)
    init = space.initial(str(saved(tmp_path / "w.pt", state)), "mlp")
    run = planned(space, loss="el(eps=estimated)", init=init)
    trainer = trainer_of(run, digits, "cpu")
    fresh = {name: value.clone() for name, value in trainer.networks[0].state_dict().items()}
    trainer.run_epoch()
    trainer.restart()
    again = trainer.networks[0].state_dict()
    for found in (fresh, again, fold_trainer(run, digits, 1, CPU).networks[0].state_dict()):
        assert equal(parts(found, "body."), parts(state, "body."))
    assert not torch.equal(again["head.weight"], fresh["head.weight"])


def test_runs_of_other_beginnings_train_in_one_pack(make_trainer: Callable[..., Trainer]) -> None:
    states = [state_of(seed=seed) for seed in (5, 6)]
    tasks = [
        replace(make_trainer(seed=n).task, init=InitialState((state,), False, "w"))
        for n, state in enumerate(states)
    ]
    trainers = [Trainer(task, CPU) for task in tasks]
    pack, alone = PackedTrainer(trainers, 2), [Trainer(task, CPU) for task in tasks]
    assert all(
        equal(t.networks[0].state_dict(), state) for t, state in zip(trainers, states, strict=True)
    )
    for _ in range(2):
        pack.run_epoch()
    for mine, reference in zip(trainers, alone, strict=True):
        for _ in range(2):
            reference.run_epoch()
        for name, value in mine.networks[0].state_dict().items():
            torch.testing.assert_close(
                value, reference.networks[0].state_dict()[name], rtol=1e-3, atol=1e-4
            )


def train(place: Path, *words: str) -> int:
    return main(
        [
            "-q",
            "-C",
            str(place),
            "train",
            "digits",
            "--sym",
            "0.4",
            "--epochs",
            "1",
            "--precision",
            "fp32",
            *words,
        ]
    )


@pytest.fixture
def tuned(tmp_path: Path) -> RunFolder:
    """A run from the weights of a file that is no longer there."""
    path = saved(tmp_path / "warm.pt", state_of(classes=3))
    assert train(tmp_path, "--init-weights", str(path), "--recipe", "finetune") == 0
    path.rename(tmp_path / "elsewhere.pt")
    return run_folders([tmp_path])[0]


def test_a_record_says_what_a_run_began_from(tuned: RunFolder, tmp_path: Path) -> None:
    init = tuned.record()["init"]
    assert init == {
        "text": str(tmp_path / "warm.pt"), "sha256": initial_of("", tmp_path / "elsewhere.pt").sha256,
        "adapted": ["its classifier has 3 classes, not 10: random classifier"],
    }  # fmt: skip
    assert f"mlp from warm {init['sha256'][:8]}, seed 0" in tuned.record()["title"]


def test_a_finished_run_needs_its_initial_weights_no_more(
    tuned: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tuned, Workspace(tmp_path)).key == tuned.record()["key"]
    assert main(["-C", str(tmp_path), "evaluate", str(tuned.path), "--verify"]) == 0
    assert main(["-C", str(tmp_path), "evaluate", str(tuned.path), "--eval-on", "digits"]) == 0
    capsys.readouterr()
    assert main(["-C", str(tmp_path), "evaluate", str(tuned.path), "--cv-folds", "2"]) == 2
    said = capsys.readouterr().err
    assert "are not available: restore the file" in said and said.count("\n") == 1
    (tmp_path / "elsewhere.pt").rename(tmp_path / "warm.pt")
    assert (
        main(["-q", "-C", str(tmp_path), "evaluate", str(tuned.path), "--cv-folds", "2", "--json"])
        == 0
    )


def test_other_weights_in_the_place_of_a_runs_are_noticed(
    tuned: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "warm.pt", state_of(seed=4))
    assert main(["-C", str(tmp_path), "evaluate", str(tuned.path), "--cv-folds", "2"]) == 2
    assert "have changed" in capsys.readouterr().err


def test_a_network_that_enlarges_is_asked_again_by_its_weights_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = saved(tmp_path / "w.pt", timm.create_model("test_resnet").state_dict())
    assert (
        train(
            tmp_path,
            "--subset",
            "100",
            "--model",
            TINY,
            "--init-weights",
            str(path),
            "--batch-size",
            "50",
        )
        == 0
    )
    path.unlink()
    (folder,) = run_folders([tmp_path])
    assert main(["-q", "-C", str(tmp_path), "evaluate", str(folder.path), "--verify"]) == 0


def test_a_run_begins_from_another_by_its_name(tmp_path: Path) -> None:
    assert train(tmp_path) == 0
    (first,) = run_folders([tmp_path])
    key = first.record()["key"]
    for name in (
        first.path.name,
        first.path.name[:-10],
        key[:6],
        key[:8],
        key,
        key[:20],
        first.path.name[:-10].rpartition("_seed")[0],
    ):
        assert (
            find_file(name, tmp_path) == first.weights
            and main(["-q", "-C", str(tmp_path), "evaluate", name]) == 0
        ), name
    for name in (
        key[0],
        key[:5],
        key[:20] + ("0" if key[20] != "0" else "1"),
        first.path.name[0],
        first.path.name[:-1],
    ):
        assert main(["-q", "-C", str(tmp_path), "evaluate", name]) == 2, name
        assert train(tmp_path, "--init-weights", name, "--lr", "0.01") == 2, name
    assert train(tmp_path, "--init-weights", first.path.name[-8:], "--lr", "0.01") == 0
    second = next(folder for folder in run_folders([tmp_path]) if folder.path != first.path)
    assert second.record()["init"]["sha256"] == initial_of("", first.weights).sha256


def test_no_cell_mixes_beginnings_and_an_axis_puts_them_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "warm.pt", state_of())
    for words in ((), ("--init-weights", str(path))):
        assert train(tmp_path, *words) == 0
    label = f"warm {initial_of('', path).sha256[:8]}"
    capsys.readouterr()
    assert main(["-C", str(tmp_path), "report", "--format", "json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell.get("init") for cell in cells] == [None, label] or [
        cell.get("init") for cell in cells
    ] == [label, None]
    assert main(["-C", str(tmp_path), "report", "--format", "md"]) == 0
    assert f"mlp, from {label}, digits" in capsys.readouterr().out
    assert main(["-C", str(tmp_path), "report", "--rows", "method,init", "--format", "md"]) == 0
    table = capsys.readouterr().out
    assert (
        "| ce, from scratch |" in table
        and f"| ce, from {label} |" in table
        and table.count("**digits") == 1
    )
    assert main(["-C", str(tmp_path), "report", "--save-baseline", str(tmp_path / "b.json")]) == 0
    assert (
        main(
            [
                "-q",
                "-C",
                str(tmp_path),
                "report",
                "--check",
                "--baseline",
                str(tmp_path / "b.json"),
                "--tolerance",
                "0",
            ]
        )
        == 0
    )


SUITE = """
version: 1
suites:
  tiny:
    defaults: {dataset: digits, epochs: 1, precision: fp32}
    matrix: {noise: [symmetric(rate=0.4)], method: [ce, gce], init: [none, warm.pt]}
    report: {rows: "method,init"}
"""


def suite_in(place: Path, text: str = SUITE) -> Path:
    saved(place / "warm.pt", state_of())
    (place / "s.yaml").write_text(text)
    return place / "s.yaml"


def test_a_suite_has_an_axis_of_beginnings_whose_runs_are_no_stale_ones(tmp_path: Path) -> None:
    path = suite_in(tmp_path)
    assert main(["-q", "-C", str(tmp_path), "run", str(path), "--jobs", "1"]) == 0
    items = plan_suite(Workspace(tmp_path), read_suites(path)["tiny"])
    assert [item.status for item in items] == ["done"] * 4 and [
        bool(item.run.init) for item in items
    ] == [False, True] * 2
    yaml_of = [yaml.safe_load((item.folder.path / "config.yaml").read_text()) for item in items]
    assert ["init" in config for config in yaml_of] == [False, True] * 2
    for item in items[:1]:
        item.folder.result.unlink()
        (item.folder.path / "config.yaml").unlink()
    assert plan_suite(Workspace(tmp_path), read_suites(path)["tiny"])[0].status == "run"


def test_weights_that_do_not_fit_a_suite_are_said_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite_in(tmp_path, SUITE.replace("epochs: 1", "epochs: 1, model: cnn4"))
    assert main(["-C", str(tmp_path), "run", str(path)]) == 2
    assert "does not fit cnn4 here: missing body.0.weight" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "manifests").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--init-weights", "none"], "the suite sets init in its matrix or an override"),
        (["--model", "nonet"], "unknown model 'nonet'"),
        (["--dataset", "nowhere"], "nowhere"),
    ],
)
def test_what_run_is_told_beside_the_suite_is_checked(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(tmp_path), "run", str(suite_in(tmp_path)), *words, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
