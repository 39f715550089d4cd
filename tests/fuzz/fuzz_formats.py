"""The formats that are fuzzed: files as they should be, how they are changed, and who reads them.

A reader gets the content of a changed file. What it returns without an error it has to have read right: where
more can be said of that than "no exception", it is asserted.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import fuzz_mutations as change
import numpy as np

from ofa_tvm.estimators.base import SubnetEstimator
from ofa_tvm.files import data_dir
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.space import Space

_ROWS = 6
_KEY = "k" * 32


@dataclass(frozen=True)
class Subject:
    """Files as they should be, and what is done with changed ones."""

    seeds: Sequence[bytes]
    mutate: change.Mutation
    read: Callable[[bytes], object]


FORMATS: dict[str, Callable[[Path], Subject]] = {}
"""By name: makes a subject that keeps its files in a folder."""


def _format(make: Callable[[Path], Subject]) -> Callable[[Path], Subject]:
    FORMATS[make.__name__.strip("_")] = make
    return make


def _space() -> Space:
    return get_space("ofa_digits")


def _archs(n: int = _ROWS) -> list[Arch]:
    space = _space()
    return space.decode(space.sample_genes(np.random.default_rng(0), n))


def _written(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def written(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return written


# ---- descriptors, projects, settings ----


@_format
def _descriptor(folder: Path) -> Subject:
    from ofa_tvm.targets import get_target

    names = ("x86-64-v3", "cortex-a72", "cuda-sm90", "mali-g52")
    files = [data_dir("targets") / f"{name}.yaml" for name in names]

    def read(path: Path) -> None:
        get_target(path).to_json()

    seeds = [file.read_bytes() for file in files if file.is_file()]
    return Subject(seeds, change.mutate_yaml, _written(folder / "t.yaml", read))


@_format
def _device(folder: Path) -> Subject:
    from ofa_tvm.targets.devices import load_device

    files = sorted((data_dir("targets") / "devices").glob("*.yaml"))[:4]
    return Subject(
        [f.read_bytes() for f in files], change.mutate_yaml, _written(folder / "d.yaml", load_device)
    )


@_format
def _project(folder: Path) -> Subject:
    from ofa_tvm.workflow.project import Project, find_project

    file = Project(folder, "ofa_digits", Path("w.pt"), "digits", resolutions=(32, 40)).save()

    def read(path: Path) -> None:
        project = find_project(path.parent)
        project.save()
        assert find_project(path.parent) == project

    return Subject([file.read_bytes()], change.mutate_yaml, _written(file, read))


@_format
def _training_settings(folder: Path) -> Subject:
    from ofa_tvm.training.config import CONFIG_SCHEMA, TrainingConfig
    from ofa_tvm.training.defaults import digits_config
    from ofa_tvm.yamlfile import read_yaml, write_yaml

    def read(path: Path) -> None:
        config = TrainingConfig.from_dict(read_yaml(path, CONFIG_SCHEMA))
        assert TrainingConfig.from_dict(config.to_dict()) == config

    seed = write_yaml(digits_config().to_dict()).encode()
    return Subject([seed], change.mutate_yaml, _written(folder / "c.yaml", read))


@_format
def _assignments(folder: Path) -> Subject:
    from ofa_tvm.training.defaults import digits_config

    base = digits_config()
    seeds = [b"batch_size=256", b"phases.full.epochs=10", b"resolutions=[32, 40]", b"mixed_precision=true"]

    def read(content: bytes) -> None:
        base.with_settings([content.decode("utf-8", "surrogateescape")])

    return Subject(seeds[:3], change.mutate_bytes, read)


# ---- logs, tables, caches ----


def _log_lines() -> list[bytes]:
    text = lzma.decompress((data_dir("tuning_logs") / "x86-64-v3" / "tuning.jsonl.xz").read_bytes())
    return text.splitlines(keepends=True)[:_ROWS]


def _mutate_log(rng: Random, data: bytes) -> bytes:
    """Half of the changed records get a checksum that fits, as if ofa-tvm had written them."""
    if rng.random() < 0.5:
        return change.mutate_bytes(rng, data)
    from ofa_tvm.logs.record import _SEAL_LENGTH, _seal

    lines = data.splitlines()
    at = rng.randrange(len(lines))
    value = change.mutate_value(rng, json.loads(lines[at]))
    body = json.dumps(value, separators=(",", ":"))
    if isinstance(value, dict) and "crc" in value and at:
        body = body[:-_SEAL_LENGTH]
        body += _seal(body)
    lines[at] = body.encode()
    return b"\n".join(lines) + b"\n"


def _read_log(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        from ofa_tvm.logs import read_folder

        table = read_folder(path.parent, path.parent.name)
        assert all(len(note.replace(str(path.parent), "")) < 300 for note in table.notes)
        for key, records in table.records.items():
            assert records == sorted(records, key=lambda record: record.cost)
            assert table.best(key) is records[0] and 0 < records[0].cost < float("inf")

    return read


@_format
def _tuning_log(folder: Path) -> Subject:
    from ofa_tvm.logs import Header, LogWriter, Record, Signature
    from ofa_tvm.targets import get_target

    path = folder / "x86-64-v3" / "tuning.jsonl"
    path.parent.mkdir()
    lines = _log_lines()
    header = Header.from_line(lines[0].decode())
    record = Record("new", Signature(("matmul",), ((4, 4),)), [[], []], (1.0,))
    target, reads = get_target("x86-64-v3"), _read_log("tuning")

    def read(path: Path) -> None:
        reads(path)
        with LogWriter(folder, target, header) as writer:
            writer.append(record)
        from ofa_tvm.logs import read_folder

        assert read_folder(path.parent, path.parent.name).best("new") == record
        for other in path.parent.glob("tuning-*.jsonl"):
            other.unlink()

    return Subject([b"".join(lines)], _mutate_log, _written(path, read))


@_format
def _packed_log(folder: Path) -> Subject:
    path = folder / "x86-64-v3" / "tuning.jsonl.gz"
    path.parent.mkdir()
    text = b"".join(_log_lines())
    xz = path.with_suffix(".xz")

    def read(content: bytes) -> None:
        packed = path if content[:2] == b"\x1f\x8b" else xz
        packed.write_bytes(content)
        _read_log("packed")(packed)
        packed.unlink()

    return Subject([gzip.compress(text), lzma.compress(text)], change.mutate_bytes, read)


def _table(folder: Path) -> tuple[Path, Path, dict[Arch, float]]:
    from ofa_tvm.latency.dataset import Column
    from ofa_tvm.latency.writer import LatencyWriter

    path = folder / "lat.csv"
    truth = {arch: 1.5 + i / 8 for i, arch in enumerate(_archs())}
    with LatencyWriter(path, _space(), Column("x86")) as writer:
        for arch, value in truth.items():
            writer.append(arch, value, n_classes=10, mad_ms=0.01)
    return path, path.with_name("lat.meta.jsonl"), truth


def _read_and_extend(path: Path) -> None:
    from ofa_tvm.latency.dataset import Column, read_table
    from ofa_tvm.latency.writer import LatencyWriter

    space = _space()
    table = read_table(path, space)
    assert (
        np.isfinite(table.values).all() and (table.values > 0).all() and len(set(table.archs)) == len(table)
    )
    packed = path.read_bytes()[:2] == b"\x1f\x8b"
    if (
        not packed
        and [column.name for column in table.columns] == ["x86_ms"]
        and space.min_arch(40) not in table.archs
    ):
        with LatencyWriter(path, space, Column("x86")) as writer:
            writer.append(space.min_arch(40), float(np.median(table.values)))
        assert len(read_table(path, space)) == len(table) + 1


@_format
def _latency_table(folder: Path) -> Subject:
    path, meta, _ = _table(folder)
    notes = meta.read_bytes()

    def read(content: bytes) -> None:
        meta.write_bytes(notes)
        path.write_bytes(content)
        _read_and_extend(path)

    return Subject([path.read_bytes()], change.mutate_bytes, read)


@_format
def _own_table(folder: Path) -> Subject:
    path, meta, _ = _table(folder)
    meta.unlink()
    rows = path.read_bytes()

    def read(content: bytes) -> None:
        meta.unlink(missing_ok=True)
        path.write_bytes(content)
        _read_and_extend(path)

    return Subject([rows, gzip.compress(rows), b"\xef\xbb\xbf" + rows], change.mutate_bytes, read)


@_format
def _table_notes(folder: Path) -> Subject:
    path, meta, truth = _table(folder)
    rows = path.read_bytes()

    def read(content: bytes) -> None:
        from ofa_tvm.latency.dataset import read_table

        path.write_bytes(rows)
        meta.write_bytes(content)
        table = read_table(path, _space())
        assert dict(zip(table.archs, table.values[:, 0].tolist(), strict=True)) == truth
        _read_and_extend(path)

    return Subject([meta.read_bytes()], change.mutate_json_lines, read)


@_format
def _lookup_table(folder: Path) -> Subject:
    from ofa_tvm.latency.lookup_table import LookupTable, table_entries, write_tables
    from ofa_tvm.spaces.blocks import block_structure

    space = _space()
    tables = block_structure(space).tables(lambda layers: 1e-3 * len(layers), 0.1)
    seeds = [
        write_tables(table_entries(space, tables, (32,)), folder, kind)[0].read_bytes()
        for kind in ("json", "yaml")
    ]
    genes = space.sample_genes(np.random.default_rng(0), 8, [32])

    def read(content: bytes) -> None:
        as_json = content.lstrip()[:1] == b"{"
        path = folder / f"32_lookup_table.{'json' if as_json else 'yaml'}"
        path.write_bytes(content)
        values = LookupTable.read(path, space)(genes)
        assert not np.isnan(values).any() and (values > 0).all()

    def mutate(rng: Random, data: bytes) -> bytes:
        return (change.mutate_json if data[:1] == b"{" else change.mutate_yaml)(rng, data)

    return Subject(seeds, mutate, read)


@_format
def _accuracies(folder: Path) -> Subject:
    from ofa_tvm.accuracy.cache import AccuracyCache

    known = {arch: 0.5 + i / 100 for i, arch in enumerate(_archs())}
    lines = [{"key": _KEY, "arch": arch.to_dict(), "accuracy": value} for arch, value in known.items()]
    seed = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read(path: Path) -> None:
        found = AccuracyCache(path, _KEY).known
        assert all(0 <= value <= 1 for value in found.values())

    return Subject([seed], change.mutate_json_lines, _written(folder / "accuracy.jsonl", read))


@_format
def _metrics(folder: Path) -> Subject:
    from ofa_tvm.report.collect import _training
    from ofa_tvm.workflow.project import Project

    lines = [
        {"phase": "full", "phase_index": 0, "step": i, "loss": 1 / (i + 1), "accuracies": {"32": 0.5}}
        for i in range(5)
    ]
    seed = "".join(json.dumps(line) + "\n" for line in lines).encode()
    project = Project(folder, checkpoint=Path("w.pt"))
    read = _written(folder / "metrics.jsonl", lambda path: _training(project))
    return Subject([seed], change.mutate_json_lines, read)


# ---- architectures and networks as text ----


@_format
def _architectures(folder: Path) -> Subject:
    from ofa_tvm.spaces.archs_file import read_archs

    space = _space()
    seed = "".join(arch.to_json() + "\n" for arch in _archs()).encode()

    def read(path: Path) -> None:
        for arch in read_archs(path, space):
            assert space.parse(arch.to_json()) == arch
            space.macs(arch)

    return Subject([seed], change.mutate_json_lines, _written(folder / "archs.jsonl", read))


@_format
def _operators(folder: Path) -> Subject:
    from ofa_tvm.spaces import get_layered_space

    space = get_layered_space("fbnet")
    seed = space.max_arch().to_json().encode()  # type: ignore[attr-defined]
    return Subject(
        [seed], change.mutate_json, lambda content: space.parse(content.decode("utf-8", "replace"))
    )


def _conv(**more: Any) -> dict[str, Any]:
    return {
        "name": "ConvLayer", "kernel_size": 3, "stride": 1, "dilation": 1, "groups": 1, "bias": False,
        "has_shuffle": False, "use_bn": True, "act_func": "relu6", "dropout_rate": 0,
        "ops_order": "weight_bn_act", **more,
    }  # fmt: skip


@_format
def _net_config(folder: Path) -> Subject:
    from ofa_tvm.export import load_net_config

    block = {
        "name": "MBInvertedConvLayer", "in_channels": 16, "out_channels": 16, "kernel_size": 3, "stride": 1,
        "expand_ratio": 4, "mid_channels": None, "act_func": "relu6", "use_se": False,
    }  # fmt: skip
    config = {
        "name": "ProxylessNASNets",
        "bn": {"momentum": 0.1, "eps": 1e-5},
        "first_conv": _conv(in_channels=3, out_channels=16, stride=2),
        "blocks": [
            {"mobile_inverted_conv": block, "shortcut": None},
            {"mobile_inverted_conv": block, "shortcut": {"name": "IdentityLayer"}},
        ],
        "feature_mix_layer": _conv(in_channels=16, out_channels=32, kernel_size=1),
        "classifier": {"name": "LinearLayer", "in_features": 32, "out_features": 10, "bias": True},
    }  # fmt: skip
    (folder / "run.config").write_text('{"image_size": 32}')
    read = _written(folder / "net.config", load_net_config)
    return Subject([json.dumps(config).encode()], change.mutate_json, read)


# ---- fitted models ----


def _model(folder: Path, predictor: SubnetEstimator) -> Subject:
    space = _space()
    genes = space.sample_genes(np.random.default_rng(0), 24)
    values = space.macs_batch(genes) / float(space.macs_batch(genes).max())
    predictor.fit(genes, values).save(folder / "x.model")
    more = space.sample_genes(np.random.default_rng(1), 200)

    def read(path: Path) -> None:
        assert np.isfinite(type(predictor).load(path)(more)).all()

    return Subject(
        [(folder / "x.model").read_bytes()], change.mutate_archive, _written(folder / "x.model", read)
    )


@_format
def _accuracy_model(folder: Path) -> Subject:
    from ofa_tvm.accuracy.predictor import AccuracyPredictor

    return _model(folder, AccuracyPredictor(_space()))


@_format
def _mlp_model(folder: Path) -> Subject:
    from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor

    return _model(folder, MLPAccuracyPredictor(_space()))


@_format
def _latency_model(folder: Path) -> Subject:
    from ofa_tvm.latency.regression import LatencyRegressor

    return _model(folder, LatencyRegressor(_space(), n_classes=10))


@_format
def _generalized_model(folder: Path) -> Subject:
    import ofa_tvm.latency.generalized as generalized
    from ofa_tvm.targets import get_target
    from ofa_tvm.targets.devices import Platform

    seed = (Path(generalized.__file__).parent / "data" / "generalized.model").read_bytes()
    space, platform = get_space("ofa_mbv3_w1.0"), Platform.of(get_target("cuda-sm90"))
    genes = space.sample_genes(np.random.default_rng(0), 20)

    def read(path: Path) -> None:
        model = generalized.GeneralizedLatency.load(path)
        assert np.isfinite(model.zero_shot(space, platform)(genes)).all()

    return Subject([seed], change.mutate_archive, _written(folder / "g.model", read))


# ---- pictures and arrays ----


@_format
def _picture(folder: Path) -> Subject:
    from PIL import Image

    from ofa_tvm.images import Preprocessing, open_image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    seeds = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        seeds.append(buffer.getvalue())
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 16)

    def read(path: Path) -> None:
        x = preprocessing.apply(open_image(path))
        assert x.shape == (1, 3, 16, 16) and np.isfinite(x).all()

    return Subject(seeds, change.mutate_bytes, _written(folder / "picture", read))


@_format
def _array(folder: Path) -> Subject:
    from ofa_tvm.cli.run import _read_npy

    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 3, 4, 4), np.float32))
    return Subject([buffer.getvalue()], change.mutate_bytes, _written(folder / "x.npy", _read_npy))


@_format
def _preprocessing(folder: Path) -> Subject:
    from ofa_tvm.errors import UserError
    from ofa_tvm.images import Preprocessing
    from ofa_tvm.jsonfile import parse_json

    data = {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "resolution": 16,
        "interpolation": "bilinear",
        "crop": 0.875,
    }

    def read(content: bytes) -> None:
        try:
            value = parse_json(content)
        except ValueError as error:
            raise UserError(str(error)) from None
        assert np.isfinite(
            Preprocessing.from_dict(value).normalise(np.full((1, 2, 2, 3), 255, np.uint8))
        ).all()

    return Subject([json.dumps(data).encode()], change.mutate_json, read)


# ---- weights ----


@_format
def _checkpoint(folder: Path) -> Subject:
    import torch

    from ofa_tvm.supernet import build_supernet
    from ofa_tvm.supernet.checkpoint import write_checkpoint

    net = build_supernet("ofa_digits", n_classes=10)
    write_checkpoint({"state_dict": net.state_dict()}, folder / "own.pt")
    torch.save({"state_dict": net.state_dict()}, folder / "other.pt")
    seeds = [(folder / name).read_bytes() for name in ("own.pt", "other.pt")]

    def read(path: Path) -> None:
        net.load_checkpoint(path)
        assert all(torch.isfinite(parameter).all() for parameter in net.parameters())

    return Subject(seeds, change.mutate_tensors, _written(folder / "w.pt", read))


@_format
def _damaged_checkpoint(folder: Path) -> Subject:
    import torch

    from ofa_tvm.supernet import build_supernet
    from ofa_tvm.supernet.checkpoint import write_checkpoint

    net = build_supernet("ofa_digits", n_classes=10)
    truth = {name: value.clone() for name, value in net.state_dict().items()}
    write_checkpoint({"state_dict": truth}, folder / "w.pt")

    def read(path: Path) -> None:
        net.load_checkpoint(path)
        assert all(torch.equal(value, truth[name]) for name, value in net.state_dict().items()), (
            "other weights"
        )

    seed = (folder / "w.pt").read_bytes()
    return Subject([seed], change.mutate_bytes, _written(folder / "w.pt", read))


@_format
def _training_state(folder: Path) -> Subject:
    import torch

    from ofa_tvm.training.checkpoint import CheckpointFolder

    states = CheckpointFolder(folder / "states")
    truth = {"step": 2, "net": {"w": torch.arange(64.0)}}
    states.save(0, 1, {"step": 1, "net": {"w": torch.zeros(64)}})
    path = states.save(0, 2, truth)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        state = CheckpointFolder(folder / "states").load_last(("step", "net"))
        assert state is not None and state["step"] in (1, 2)
        assert torch.equal(state["net"]["w"], truth["net"]["w"] if state["step"] == 2 else torch.zeros(64))

    return Subject([path.read_bytes()], change.mutate_bytes, read)


@_format
def _published_predictor(folder: Path) -> Subject:
    import torch

    from ofa_tvm.accuracy.official import load_official

    space = get_space("ofa_mbv3_w1.0")
    rng, sizes = np.random.default_rng(0), (128, 8, 8, 8, 1)
    state: dict[str, Any] = {"base_acc": torch.zeros(1)}
    for i, (a, b) in enumerate(pairwise(sizes)):
        state[f"layers.{i}.weight"] = torch.from_numpy(rng.standard_normal((b, a)).astype(np.float32))
        state[f"layers.{i}.bias"] = torch.zeros(b)
    buffer = io.BytesIO()
    torch.save({"state_dict": state}, buffer)
    genes = space.sample_genes(rng, 8, [160, 192])

    def read(path: Path) -> None:
        assert np.isfinite(load_official(path, space)(genes)).all()

    return Subject([buffer.getvalue()], change.mutate_tensors, _written(folder / "p.pth", read))


# ---- modules ----


@dataclass(frozen=True)
class _Small:
    """The small network, compiled, and what it answers."""

    folder: Path
    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)


def _small(folder: Path) -> _Small:
    from small_module import SIZE, build_small_module, write_small_onnx

    import ofa_tvm
    from ofa_tvm.targets import get_target

    onnx_path = write_small_onnx(folder / "small.onnx")
    build_small_module(onnx_path, folder / "small.so", get_target("x86"))
    x = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    return _Small(folder, x, np.asarray(ofa_tvm.load(folder / "small.so")(x)))


@_format
def _module(folder: Path) -> Subject:
    import ofa_tvm

    small = _small(folder)

    def read(path: Path) -> None:
        np.testing.assert_array_equal(ofa_tvm.load(path)(small.x), small.y)

    return Subject([(folder / "small.so").read_bytes()], change.mutate_bytes, _written(folder / "m.so", read))


@_format
def _manifest(folder: Path) -> Subject:
    from PIL import Image

    from ofa_tvm.deploy import Artefact, Manifest, write_artefact
    from ofa_tvm.deploy.manifest import (
        CandidateEntry,
        CheckEntry,
        KernelEntry,
        LatencyEntry,
        SearchEntry,
        TargetEntry,
    )
    from ofa_tvm.measurement import Measurement
    from ofa_tvm.targets import get_target

    _small(folder)
    arch = _archs(1)[0]
    manifest = Manifest(
        TargetEntry.of(get_target("x86")),
        "ofa_digits",
        arch,
        latency=LatencyEntry(0.2, None, 0.1, "ms", Measurement.emulated(1, "cortex-a72", "none")),
        search=SearchEntry(1, (CandidateEntry(arch, 1, 0.5, None, 0.1, 0.1, 0.0, True),)),
        kernels=(KernelEntry("relu 4->4", 1, "tuned", None),),
        check=CheckEntry("float32", "onnxruntime", 0.0, 0.0, {"random": 0.0}, 0.5),
    )
    deploy = write_artefact(folder / "deploy", folder / "small.so", folder / "small.onnx", manifest).folder
    Image.new("RGB", (20, 20)).save(folder / "p.png")

    def read(path: Path) -> None:
        (best,) = Artefact.open(deploy).classify([folder / "p.png"])
        assert np.isfinite(best[0].probability)

    path = deploy / "manifest.yaml"
    return Subject([path.read_bytes()], change.mutate_yaml, _written(path, read))


@_format
def _onnx_model(folder: Path) -> Subject:
    import onnx
    from onnx import helper, numpy_helper
    from small_module import SIZE, write_small_onnx

    from ofa_tvm.targets import get_target

    target = get_target("x86")
    small = write_small_onnx(folder / "small.onnx").read_bytes()
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Softmax", ["c"], ["d"], axis=-1),
        helper.make_node("Slice", ["d", "starts", "ends", "axes"], ["e"]),
        helper.make_node("Concat", ["e", "e"], ["f"], axis=1),
        helper.make_node("ReduceSum", ["f", "axes"], ["g"], keepdims=0),  # of nothing, a mean may be anything
        helper.make_node("Clip", ["g", "low"], ["y"]),
    ]
    weights = {
        "shape": np.array([1, 4, 8], np.int64), "w": rng.standard_normal((4, 6)).astype(np.float32),
        "starts": np.array([1], np.int64), "ends": np.array([7], np.int64), "axes": np.array([1], np.int64),
        "low": np.array(0.01, np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2, 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert SIZE
    return Subject(
        [small, model.SerializeToString()], change.mutate_onnx, _written(folder / "m.onnx", _compiled(target))
    )


def _compiled(target: Any) -> Callable[[Path], object]:
    """Compile, run, and compare with ONNX Runtime where that gives finite numbers."""

    def read(path: Path) -> None:
        import onnxruntime

        import ofa_tvm

        so = path.with_suffix(".so")
        ofa_tvm.compile(path, target, so)
        runner = ofa_tvm.load(so)
        rng = np.random.default_rng(0)
        arrays = [
            rng.standard_normal(spec.shape).astype(spec.dtype)
            if np.dtype(spec.dtype).kind == "f"
            else np.ones(spec.shape, spec.dtype)
            for spec in runner.inputs
        ]
        answer = runner(*arrays)
        actual = answer if isinstance(answer, tuple) else (answer,)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            expected = session.run(
                None, {spec.name: x for spec, x in zip(runner.inputs, arrays, strict=True)}
            )
        except Exception:
            return  # nothing to compare with
        assert [y.shape for y in actual] == [y.shape for y in expected]
        for y, truth in zip(actual, expected, strict=True):
            if truth.size and np.isfinite(truth).all() and np.abs(truth).max() < 1e6:
                np.testing.assert_allclose(y, truth, rtol=1e-3, atol=1e-3 * float(np.abs(truth).max()) + 1e-6)

    return read
