import pytest
import torch

from core.errors import DeviceError
from core.network.device import bf16_units, choose_device, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_precision_is_chosen_by_the_device_with_a_reason() -> None:
    chosen = choose_precision("auto", CPU)

    assert chosen.name == ("fp32" if bf16_units() is None else "bf16")
    assert chosen.reason
    assert choose_precision("auto", GPU).name == "fp16"


@pytest.mark.parametrize(
    ("matrices", "vectors", "name", "reason"),
    [
        (True, True, "bf16", "AMX"),
        (False, True, "bf16", "AVX512-BF16"),
        (False, False, "fp32", "no units"),
    ],
)
def test_a_processor_computes_in_bf16_where_it_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, *, matrices: bool, vectors: bool, name: str, reason: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrices)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)

    chosen = choose_precision("auto", CPU)

    assert (chosen.name, reason in chosen.reason) == (name, True)


def test_what_is_asked_for_is_what_one_gets() -> None:
    assert choose_precision("fp32", GPU).name == "fp32"
    assert choose_precision("bf16", CPU).dtype == torch.bfloat16


def test_a_format_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(DeviceError, match="fp16 is not for a cpu"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize(("name", "sentence"), [("cuda:99", "is not there"), ("tpu", "no device named")])
def test_a_device_that_is_not_there_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        choose_device(name)


def test_the_processor_is_always_there() -> None:
    assert choose_device("cpu") == CPU
