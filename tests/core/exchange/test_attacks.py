"""Models that are not what they say: each is refused with its sentence; nothing is run, and nothing written."""

import io
import json
import os
import pickle
import resource
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from core import pipeline
from core.domain.exchange import ImportOptions
from core.domain.progress import SilentObserver
from core.errors import DomainError
from tests.core.exchange.official import (
    Files,
    Said,
    checkpoint,
    drawn_weights,
    folder_of,
    lying,
    results,
    saved,
    zipped,
)
from tests.core.inference.conftest import DATASET, PLANS

TOP = folder_of("3d_fullres")
FIRST = "encoder.stages.0.0.convs.0.conv.weight"
MEMORY_KIB = 200_000
"""More than any refusal may take beyond what the tests took before."""

Attack = Callable[[Path], Path]
"""Writes an archive into a folder and returns its path."""


def with_checkpoint(content: bytes) -> Attack:
    return with_file(f"{TOP}/fold_0/checkpoint_final.pth", content)


def with_file(name: str, content: bytes) -> Attack:
    return lambda folder: zipped(folder / "model.zip", results(folds=[0]) | {name: content})


def with_plans(change: Callable[[dict[str, Any]], object]) -> Attack:
    plans = deepcopy(PLANS)
    change(plans)
    return with_file(f"{TOP}/plans.json", json.dumps(plans).encode())


def with_arguments(**changes: Any) -> Attack:
    return with_plans(
        lambda plans: plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(changes)
    )


def with_weights(change: Callable[[dict[str, Any]], object]) -> Attack:
    weights = drawn_weights("3d_fullres", 0)
    change(weights)
    return with_checkpoint(saved(checkpoint("3d_fullres", weights)))


class Payload:
    """Would write a file where it is loaded as any pickle is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("payload-has-run",))


def payload_anywhere(place: str) -> bytes:
    contents = checkpoint("3d_fullres", drawn_weights("3d_fullres", 0))
    return saved(contents | {place: Payload()})


def hostile_postprocessing(folder: Path) -> Path:
    name = f"{TOP}/crossval_results_folds_0/postprocessing.pkl"
    return zipped(folder / "model.zip", results(folds=[0]) | {name: pickle.dumps(([Payload()], [{}]))})


def crafted(member: Callable[[], zipfile.ZipInfo | str], content: bytes = b"x") -> Attack:
    def attack(folder: Path) -> Path:
        path = zipped(folder / "model.zip", results(folds=[0]))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(member(), content)
        return path

    return attack


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{TOP}/fold_0/weights")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def device() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{TOP}/fold_0/tty")
    member.external_attr = (stat.S_IFCHR | 0o666) << 16
    return member


def bomb(folder: Path) -> Path:
    return zipped(folder / "model.zip", results(folds=[0]) | {f"{TOP}/zeros.bin": bytes(40 * 2**20)})


def many(folder: Path) -> Path:
    return zipped(folder / "model.zip", {f"{TOP}/{number}": b"" for number in range(100_000)})


def nested(folder: Path) -> Path:
    inner = zipped(folder / "inner.zip", results(folds=[0])).read_bytes()
    (folder / "inner.zip").unlink()
    return zipped(folder / "model.zip", {"model.zip": inner})


def compressed_checkpoint() -> bytes:
    """A checkpoint of which a small part of the file becomes much."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"network_weights": {}}, 2))
        archive.writestr("archive/data/0", bytes(2**20))
    return stream.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def said(**changes: Any) -> bytes:
    """A checkpoint with one tensor, of which it says this while its file holds twelve numbers."""
    claimed: dict[str, Any] = {"count": 12, "shape": (3, 4), "strides": (4, 1)} | changes
    return lying({"network_weights": OrderedDict({FIRST: Said(**claimed)})})


def scaled(name: str, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda weights: weights[name].mul_(value)


def reshaped(weights: dict[str, Any]) -> None:
    weights[FIRST] = torch.zeros(4, 2, 3, 3, 5)


def without_first(weights: dict[str, Any]) -> None:
    del weights[FIRST]


def with_more(weights: dict[str, Any]) -> None:
    weights["encoder.backdoor.weight"] = torch.zeros(3)


def as_integers(weights: dict[str, Any]) -> None:
    weights[FIRST] = weights[FIRST].to(torch.int64)


def dataset(**changes: Any) -> Attack:
    return with_file(f"{TOP}/dataset.json", json.dumps({**DATASET, **changes}).encode())


ATTACKS: Mapping[str, tuple[Attack, str]] = {
    "payload among the weights": (
        with_checkpoint(payload_anywhere("network_weights")),
        r"checkpoint_final\.pth names posix\.mkdir, which could run code and is never loaded",
    ),
    "payload beside the weights": (
        with_checkpoint(payload_anywhere("logging")),
        r"names posix\.mkdir, which could run code and is never loaded",
    ),
    "payload as the whole checkpoint": (
        with_checkpoint(pickle.dumps(Payload())),
        r"checkpoint_final\.pth is no checkpoint that can be read",
    ),
    "payload in the postprocessing": (
        hostile_postprocessing,
        r"postprocessing\.pkl cannot be used: names posix\.mkdir",
    ),
    "memory asked for by a call": (
        with_checkpoint(lying({"network_weights": {}, "logging": bytearray(5)})),
        "names .*bytearray, which could run code",
    ),
    "path out of the folder": (crafted(lambda: f"{TOP}/../../../x"), "unsafe name"),
    "absolute path": (crafted(lambda: "/etc/x"), "unsafe name"),
    "path of another system": (crafted(lambda: "C:\\x"), "unsafe name"),
    "name of a device": (crafted(lambda: f"{TOP}/con.json"), "unsafe name"),
    "the same name twice": (crafted(lambda: f"{TOP}/Plans.json"), "twice"),
    "link": (crafted(link), "is a link or a device"),
    "device": (crafted(device), "is a link or a device"),
    "bomb": (bomb, "times its size; that looks like a bomb"),
    "100 000 members": (many, "holds more than 20000 files"),
    "zip in a zip": (nested, "holds no trained model"),
    "cut archive": (
        lambda folder: _cut(zipped(folder / "model.zip", results(folds=[0]))),
        "cut off|no end",
    ),
    "cut checkpoint": (
        with_checkpoint(cut(saved(checkpoint("3d_fullres", drawn_weights("3d_fullres", 0))))),
        "is no checkpoint that can be read",
    ),
    "compressed checkpoint": (
        with_checkpoint(compressed_checkpoint()),
        "it is compressed, which torch never does",
    ),
    "more values than there are": (
        with_checkpoint(said(count=10**12)),
        "says that it has 1000000000000 values, but its file holds 12",
    ),
    "fewer values than there are": (
        with_checkpoint(said(count=5)),
        "says that it has 5 values, but its file holds 12",
    ),
    "a shape of more values": (with_checkpoint(said(shape=(10**6, 10**6))), "needs more than its 12 values"),
    "strides of zero": (with_checkpoint(said(shape=(10**9,), strides=(0,))), "needs more than its 12 values"),
    "strides beyond the end": (with_checkpoint(said(strides=(9, 1))), "needs more than its 12 values"),
    "an offset beyond the end": (with_checkpoint(said(offset=1)), "needs more than its 12 values"),
    "a negative stride": (with_checkpoint(said(strides=(-4, 1))), "its shape is none"),
    "a negative shape": (with_checkpoint(said(shape=(-3, 4))), "its shape is none"),
    "a shape of no whole number": (with_checkpoint(said(shape=(3.0, 4))), "its shape is none"),
    "10^9 weights in the plan": (
        with_arguments(features_per_stage=[4096, 8192], n_conv_per_stage=[2, 2]),
        r"plans.json describes a network of \S+e\+09 weights in \d+ tensors, but fold_0/checkpoint_final.pth holds",
    ),
    "a million layers in the plan": (
        with_arguments(n_conv_per_stage=[1000, 1000], n_conv_per_stage_decoder=[1000]),
        "plans.json describes a network of",
    ),
    "another shape": (
        with_weights(reshaped),
        r"1 tensors have another shape, such as encoder.*: \[4, 2, 3, 3, 5\] instead of \[4, 2, 3, 3, 3\]",
    ),
    "a tensor less": (with_weights(without_first), f"1 tensors are missing, such as {FIRST}"),
    "a tensor more": (with_weights(with_more), r"1 tensors are unknown, such as encoder\.backdoor\.weight"),
    "integers as weights": (with_weights(as_integers), "holds torch.int64 instead of torch.float32"),
    "weights that are no number": (with_weights(scaled(FIRST, float("nan"))), f"are not finite in {FIRST}"),
    "weights without end": (
        with_weights(scaled("decoder.seg_layers.0.bias", float("inf"))),
        "another|not finite",
    ),
    "an unknown network": (
        with_plans(
            lambda plans: plans["configurations"]["3d_fullres"]["architecture"].update(
                network_class_name="os.system"
            )
        ),
        "there is no network architecture named 'system'; choose one of",
    ),
    "an unknown operator": (with_arguments(norm_op="subprocess.Popen"), "there is no operator named 'Popen'"),
    "an unknown reader": (
        with_plans(lambda plans: plans.update(image_reader_writer="evil.Reader")),
        "there is no reader named 'evil.Reader'; choose one of",
    ),
    "an unknown preprocessor": (
        with_plans(lambda plans: plans["configurations"]["3d_fullres"].update(preprocessor_name="Evil")),
        "there is only one preprocessor",
    ),
    "more labels than the network": (
        dataset(labels={"background": 0, "lesion": 1, "tumor": 2}),
        r"dataset\.json has 3 labels, background among them, but the network in .* tells 2 apart",
    ),
    "more channels than the network": (
        dataset(channel_names={"0": "T1", "1": "FLAIR", "2": "T2"}),
        r"normalization_schemes: has 2 entries, but the dataset has 3 channels",
    ),
    "labels that contradict themselves": (dataset(labels={"background": 1, "lesion": 1}), "background"),
    "no plans": (with_file(f"{TOP}/plans.json", b"[" * 100_000), "plans.json is not valid JSON"),
    "postprocessing of other labels": (
        with_file(
            f"{TOP}/crossval_results_folds_0/postprocessing.json",
            b'{"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"], '
            b'"postprocessing_kwargs": [{"labels_or_regions": 7}]}',
        ),
        "label 7, which dataset.json does not have",
    ),
    "postprocessing by another function": (
        with_file(
            f"{TOP}/crossval_results_folds_0/postprocessing.json",
            b'{"postprocessing_fns": ["os.system"], "postprocessing_kwargs": [{}]}',
        ),
        "names os.system, which is not known",
    ),
}


def _cut(path: Path) -> Path:
    path.write_bytes(cut(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, sentence = ATTACKS[name]
    source = attack(tmp_path)
    monkeypatch.chdir(tmp_path)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(DomainError, match=sentence) as refused:
        pipeline.import_model(source, tmp_path / "far" / "out", ImportOptions(), SilentObserver())

    assert "\n" not in refused.value.message
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY_KIB


def test_the_payload_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    torch.load(io.BytesIO(payload_anywhere("logging")), weights_only=False)

    assert (tmp_path / "payload-has-run").is_dir()


OWN: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "weights cut off": (
        lambda model: _cut(model / "fold_0/weights.safetensors"),
        r"fold_0/weights\.safetensors cannot be read",
    ),
    "other weights": (
        lambda model: save_file({"a": torch.zeros(3)}, model / "fold_0/weights.safetensors"),
        "they belong to different models",
    ),
    "weights that are no number": (
        lambda model: save_file(
            {name: tensor * float("nan") for name, tensor in drawn_weights("3d_fullres", 0).items()},
            model / "fold_0/weights.safetensors",
        ),
        "are not finite",
    ),
    "a newer record": (
        lambda model: (model / "model.json").write_text('{"version": 9, "configuration": "3d_fullres"}'),
        "has version 9",
    ),
    "axes that the patch lacks": (
        lambda model: (model / "model.json").write_text(
            '{"version": 1, "configuration": "3d_fullres", "mirror_axes": [5]}'
        ),
        r"mirrors axes \[5\], but the patch has only 3",
    ),
    "a record of a fold that is none": (
        lambda model: (model / "fold_0/fold.json").write_text("{}"),
        r"fold_0/fold\.json cannot be used",
    ),
    "members elsewhere": (
        lambda model: (model / "ensemble.json").write_text('{"version": 1, "members": ["../x"]}'),
        r"ensemble\.json cannot be used",
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_an_attack_in_our_own_format_is_refused(tmp_path: Path, model_folder: Path, name: str) -> None:
    attack, sentence = OWN[name]
    attack(model_folder)

    with pytest.raises(DomainError, match=sentence):
        pipeline.import_model(model_folder, tmp_path / "out", ImportOptions(), SilentObserver())

    assert not (tmp_path / "out").exists()


def test_files_that_nobody_asks_for_stay_in_the_archive(tmp_path: Path) -> None:
    files: Files = results(folds=[0]) | {f"{TOP}/setup.py": b"raise SystemExit", f"{TOP}/model.pkl": b"x"}

    pipeline.import_model(
        zipped(tmp_path / "model.zip", files), tmp_path / "out", ImportOptions(), SilentObserver()
    )

    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "dataset.json",
        "model.json",
        "origin.json",
        "plans.json",
        "weights.safetensors",
    ]
