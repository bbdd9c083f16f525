"""What `auto` stands for: bf16 where the machine multiplies it, and never a guess."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisebench.core import hardware
from noisebench.errors import ConfigError
from noisebench.experiments.resolve import RunRequest, resolve_run
from tests.conftest import Case
from tests.unit.test_runner import Desk


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def has(flags: set[str], capability: int | None = None) -> None:
        monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
        monkeypatch.setattr(hardware, "_capability", lambda number: capability)

    return has


def test_auto_is_what_the_device_multiplies(machine, case: Case) -> None:
    for flags, capability, device, expected in [
        ({"avx2", "avx512f"}, None, "auto", "fp32"),
        ({"avx512_bf16"}, None, "auto", "bf16"),
        ({"amx_bf16"}, None, "cpu", "bf16"),
        ({"bf16"}, None, "cpu", "bf16"),
        (set(), 9, "auto", "bf16"),
        (set(), 8, "cuda:1", "bf16"),
        ({"avx512_bf16"}, 7, "auto", "fp32"),
        ({"avx512_bf16"}, 7, "cpu", "bf16"),
        (set(), 9, "cpu", "fp32"),
        ({"avx512_bf16"}, None, "mps", "fp32"),
    ]:
        with case(flags=flags, capability=capability, device=device, expected=expected):
            machine(flags, capability)
            assert hardware.resolve_precision("auto", device) == expected


def test_what_is_asked_for_is_taken(machine, case: Case) -> None:
    for name in ["fp32", "bf16"]:
        with case(name=name):
            machine({"avx512_bf16"}, 9)
            assert hardware.resolve_precision(name, "auto") == name


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision must be one of auto, fp32, bf16, got 'half'"):
        hardware.resolve_precision("half", "auto")


def test_this_processor_is_read_as_torch_reads_it() -> None:
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("no /proc/cpuinfo: auto is fp32 on the processor here")
    known: bool = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2", "AVX512"):
        assert bool(hardware._CPU_FLAGS & hardware._cpu_flags()) == known


def test_the_key_holds_what_auto_was(tmp_path: Path, machine) -> None:
    desk = Desk(tmp_path)
    machine({"avx512_bf16"})
    manifest = desk.plan().manifest
    run = resolve_run(RunRequest(), desk.dataset, manifest, desk.images.fingerprint)
    assert run.precision == run.config["precision"] == "bf16"
    assert (
        run.key
        == resolve_run(
            RunRequest(precision="bf16"), desk.dataset, manifest, desk.images.fingerprint
        ).key
    )
