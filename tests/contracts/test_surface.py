"""What users were promised: the options, the names from Python, and what pins the versions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

import noisebench as nb
from noisebench.cli.app import app
from noisebench.datasets import DATASETS, Labels
from noisebench.errors import DataError
from noisebench.experiments.backbones import BACKBONES
from noisebench.labels.build import DatasetInputs, apply_noise
from noisebench.losses import LOSSES, build_loss, cost_of
from noisebench.noise import NOISES, build_noise, noise_options, normal_noise, sample
from noisebench.strategies import STRATEGIES
from tests.conftest import Case

GLOBAL = "--install-completion --show-completion --data-dir --help --offline --plugin --quiet --verbose --version --workspace"
NOISE = (
    "--asym --bernoulli --convention --human --idn --inclusive --labels --map --matrix --noise "
    "--noise-seed --openset --pair --predictions "
    "--source --subset --sym --test --trusted --val-fraction --val-split"
)
OPTIONS = {
    "corrupt": f"{NOISE} --drop --force --help --json --manifest --out --relabel --suspects",
    "train": f"{NOISE} --accumulate --scale --batch-size --budget --crop-pct --clip --crop --device "
    "--dry-run --epochs --feature-weights --features --fit --hflip "
    "--force --freeze --help --img-size --init-weights --json --layer-decay --log-to --loss --lr "
    "--manifest --method --model --momentum --nesterov "
    "--no-hflip --no-nesterov --no-resume --precision --recipe --schedule --seed --strategy "
    "--sync-bn --weight-decay --workers",
    "evaluate": (
        "--device --eval-on --cv-folds --help --json --manifest --predictions "
        "--verify "
        "--score --suspects --test --workers"
    ),
    "export": "--force --help --json --out",
    "predict": "--device --help --json --out --top",
    "report": "--compare-to --allow-missing --alpha --baseline --budget --check --cols --epoch "
    "--figure --format --help --json --loss "
    "--metric --out --published --ranks --rows --save-baseline --tolerance --filter",
    "run": "--address --batch-size --budget --clip --cpus-per-run --crop --dataset --detach "
    "--device --dry-run --epochs --executor --feature-weights --features "
    "--fail-fast --fit --hflip --freeze --gpus-per-run --help --img-size --init-weights --jobs --json "
    "--completed --layer-decay --log-to --lr --time-limit --scale --crop-pct "
    "--model --momentum --nesterov --no-hflip --no-nesterov --no-resume --recipe --rerun "
    "--schedule --seeds --shard --slurm "
    "--test --weight-decay --filter --workers",
    "audit": "--device --epochs --feature-weights --features --help --img-size --json --labels "
    "--manifest --methods --out --seed --test",
    "list": "--help --json",
}


def long_options(command: object) -> set[str]:
    names = {
        name
        for p in command.params
        for name in [*p.opts, *p.secondary_opts]
        if name.startswith("--")
    }  # type: ignore[attr-defined]
    return names | {"--help"}


def test_the_commands_and_options_are_the_promised_ones() -> None:
    group = typer.main.get_command(app)
    # of plugins that other tests have loaded
    added = {
        f"--{name}"
        for name, entry in noise_options().items()
        if not entry.build.__module__.startswith("noisebench.")
    }
    assert {name: long_options(command) - added for name, command in group.commands.items()} == {  # type: ignore[attr-defined]
        name: set(options.split()) for name, options in OPTIONS.items()
    }
    assert long_options(group) == set(GLOBAL.split())


def test_the_names_of_the_language_are_the_promised_ones() -> None:
    ours = [entry for entry in LOSSES if entry.build.__module__.startswith("noisebench.")]
    assert {entry.signature for entry in ours} == {
        "ce", "mae", "rce(A=-9.21)", "sce(alpha=0.1, beta=1.0, A=-9.21)", "gce(q=0.7, k=None)", "el(eps=auto)",
        "focal(gamma=2.0, detach=False)",
        "agce(a=0.6, q=0.6)", "aul(a=5.5, q=3.0)", "ael(a=2.5)", "taylor(t=2)", "phuber(tau=10.0)", "js(pi=0.5)", "nnce(pmin=1e-07)",
        "amse(a=30.0)", "ldr_kl(lam=1.0, margin=0.1, normalize=True)", ("logitclip(loss, tau=1.0, "
                                                                       "rescale=False)"),
        "bitempered(t1=0.8, t2=1.2)", "eps_softmax(loss, m=100000.0, floor=1e-08)",
        "lsr(loss, alpha=0.1)", "forward(loss, T=auto)", "backward(loss, T=auto)", "normalized(loss)", "l1(weight)",
    }  # fmt: skip
    assert all(name in LOSSES for name in ("sl", "nce", "nfl"))
    assert {entry.name for entry in NOISES} >= {"symmetric", "asymmetric", "pairflip"}
    assert {entry.name for entry in STRATEGIES} >= {
        "standard", "bootstrap", "logistic", "decoupling", "coteaching", "coteaching_plus", "mentornet", "d2l", "joint", "cleannet", "distill",
        "forward_estimated", "backward_estimated", "elr", "mixup", "gmm_split", "dividemix", "elr_plus", "sop", "sop_plus", "gjs",
        "volminnet", "forward_revision", "dmi", "jocor", "peer", "cores2", "nlnl", "curriculum",
    }  # fmt: skip
    assert set(BACKBONES) == {
        "knn",
        "linear",
        "mlp",
        "cnn4",
        "cnn8",
        "resnet44",
        "resnet18",
        "resnet34",
        "preact_resnet18",
    }


def test_the_library_answers_as_promised() -> None:
    labels = np.arange(1000) % 10
    noisy = nb.corrupt(labels, "symmetric(rate=0.4)", num_classes=10, seed=0)
    assert (noisy != labels).mean() == 0.4
    assert nb.transition("asymmetric(rate=0.3, map='cifar10')", num_classes=10)[
        9, 1
    ] == pytest.approx(0.3)
    loss, logits = nb.loss("el(eps=0.4)"), torch.randn(8, 10, requires_grad=True)
    loss(logits, torch.arange(8)).backward()
    assert (
        isinstance(loss, torch.nn.Module)
        and logits.grad is not None
        and logits.grad.isfinite().all()
    )
    assert callable(nb.results) and callable(nb.report), "a submodule must not take a promised name"
    assert {"losses", "read_manifest", "report", "results", "register_loss"} <= set(dir(nb))


def test_corrupt_refuses_labels_out_of_range() -> None:
    with pytest.raises(DataError, match="out of range"):
        nb.corrupt(np.array([0, 10]), "symmetric(rate=0.4)", num_classes=10)


# Checksums of what each component does at its version. A change of values is a new version:
# finished runs must not pass for new ones.
T = "[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]"
LOSS_TEXTS = {"el": "el(eps=0.4)", "forward": f"forward(ce, T={T})", "backward": f"backward(ce, T={T})", "lsr": "lsr(ce)",
              "normalized": "normalized(ce)", "logitclip": "logitclip(ce)", "eps_softmax": "eps_softmax(ce, m=3)"}  # fmt: skip
GOLDEN_LOSSES: dict[str, tuple[int, list[float]]] = {
    "lsr": (1, [0.336513, 2.136513, 3.036513]),
    "forward": (1, [0.370113, 1.715151, 2.044793]),
    "backward": (1, [-0.544440, 2.312703, 3.741275]),
    "normalized": (1, [0.030828, 0.393834, 0.575338]),
    "logitclip": (1, [0.512978, 1.407405, 1.854619]),
    "ce": (1, [0.169846, 2.169846, 3.169846]),
    "mae": (1, [0.312411, 1.771610, 1.915980]),
    "gce": (1, [0.160138, 1.115780, 1.273244]),
    "rce": (1, [1.438651, 8.158262, 8.823088]),
    "sce": (1, [1.455635, 8.375247, 9.140072]),
    "el": (1, [0.165627, 1.402274, 1.614053]),
    "focal": (1, [0.004144, 1.702570, 2.909109]),
    "agce": (1, [0.132083, 0.847756, 0.932098]),
    "aul": (1, [3.274227, 21.700151, 23.822210]),
    "ael": (1, [0.713539, 0.955349, 0.983336]),
    "taylor": (1, [0.168405, 1.278130, 1.416862]),
    "phuber": (1, [0.169846, 2.169846, 2.882484]),
    "js": (1, [0.165763, 1.468704, 1.746020]),
    "bitempered": (1, [0.159964, 1.463347, 1.878745]),
    "eps_softmax": (2, [0.039834, 3.556140, 4.556140]),
    "nnce": (1, [0.627766, 0.674447, 0.697787]),
    "ldr_kl": (2, [-0.710145, 0.714497, 1.083435]),
    "amse": (1, [283.366364, 297.958344, 299.402069]),
}
GOLDEN_NOISES: dict[str, tuple[int, str]] = {
    "symmetric(rate=0.4)": (1, "dc3a869a3e132411"),
    "symmetric(rate=0.4, inclusive=True, exact=False)": (1, "7864ed324050aae3"),
    "asymmetric(rate=0.3, map='cifar10')": (1, "b9d9a3bae63c43a5"),
    "asymmetric(rate=0.3, map='digits', exact=False)": (1, "0f30a3b64811e1a6"),
    "pairflip(rate=0.45)": (1, "d0f272f8e9915e20"),
    "symmetric(rate=0.4, exact_over='set')": (1, "15d0b35795a1a935"),
    "symmetric(rate=0.4, exact_over='pair')": (1, "8f9847fd9cca7ce7"),
    "asymmetric(rate=0.3, map='cifar10', flip_back=True)": (1, "f816a80a3aa4433c"),
    "asymmetric(rate=0.3, map='next')": (1, "f2d84f7ff13c291b"),
    "matrix(file='T.csv')": (1, "00eb7121e9f76e66"),
}
GOLDEN_BY_EXAMPLE: dict[str, tuple[int, str]] = {
    "pdn(rate=0.4)": (1, "3dee12da52232a5d"),
    "pdn(rate=0.4, pixels='bytes')": (1, "916a89601a15f51e"),
    "dependent(rate=0.4)": (1, "c4c3b9fe59ab2d93"),
    "plc(predictions='teacher.npy', kind='I', rate=0.35)": (1, "39795571efc29544"),
    "plc(predictions='teacher.npy', kind='II', rate=0.35)": (1, "9bcd85890220e5bf"),
    "plc(predictions='teacher.npy', kind='III', rate=0.35)": (1, "f2b2851bbcbb2335"),
    "openset(rate=0.3, source='fashionmnist')": (1, "eda8b7b7f250e8f8"),
    "openset(symmetric(rate=0.2), rate=0.3, source='fashionmnist')": (1, "4ccdaa3f65d14393"),
}


def test_a_loss_has_the_values_of_its_version(case: Case) -> None:
    for name, (version, values) in GOLDEN_LOSSES.items():
        with case(loss=name):
            cost = cost_of(
                build_loss(LOSS_TEXTS.get(name, name)), torch.tensor([[2.0, 0.0, -1.0]])
            )[0]
            assert LOSSES[name].version == version
            torch.testing.assert_close(cost, torch.tensor(values), rtol=1e-5, atol=1e-6)


def hashed(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()[
        :16
    ]


@pytest.fixture
def noise_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pinned noises read, here: a matrix, and a teacher that is right about seven times in
    ten.
    """
    monkeypatch.chdir(tmp_path)
    counts = 1 + np.arange(100).reshape(10, 10) * 7 % 11 + 40 * np.eye(10)
    np.savetxt("T.csv", counts / counts.sum(1, keepdims=True), "%.18e", ",")
    i, k = np.ogrid[:1297, :10]
    scores = (i * 37 + k * k * 11) % 97 + 1 + np.where(k == i % 10, i * 13 % 200, 0)
    np.save("teacher.npy", scores / scores.sum(1, keepdims=True))


def test_a_noise_has_the_labels_of_its_version(noise_files: None, case: Case) -> None:
    for text, pinned in GOLDEN_NOISES.items():
        with case(noise=text):
            model = build_noise(text, 10)
            recorded = sample(
                np.arange(1000) % 10,
                model.transition,
                0,
                exact=model.exact,
                exact_over=model.exact_over,
                rate=model.rate or 0,
            )
            version = NOISES[text.partition("(")[0]].version
            assert (version, hashed(recorded)) == pinned


def test_a_noise_by_example_has_the_labels_and_images_of_its_version(
    noise_files: None, tmp_path: Path, case: Case
) -> None:
    for text, pinned in GOLDEN_BY_EXAMPLE.items():
        with case(noise=text):
            data = Labels(DATASETS["digits"], np.arange(1297) % 10)
            made = apply_noise(
                normal_noise(text),
                data,
                0,
                DatasetInputs(data, tmp_path, True, DATASETS.__getitem__),
            )
            arrays = [made.labels] if made.source is None else [made.labels, made.source]
            assert (NOISES[text.partition("(")[0]].version, hashed(*arrays)) == pinned


def test_every_component_is_pinned() -> None:
    ours = {entry.name for entry in LOSSES if entry.build.__module__.startswith("noisebench.")}
    assert {*GOLDEN_LOSSES, "l1"} == ours
    drawn = {
        entry.name
        for entry in NOISES
        if entry.facts.get("drawn", True) and entry.build.__module__.startswith("noisebench.")
    }
    assert {text.partition("(")[0] for text in (*GOLDEN_NOISES, *GOLDEN_BY_EXAMPLE)} == drawn
