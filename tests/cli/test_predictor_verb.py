"""ofa-tvm predictor fit, eval and predict on tables whose truth is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from verbs import Verbs

from ofa_tvm.latency.dataset import Column
from ofa_tvm.latency.generalized import shipped_model
from ofa_tvm.latency.lookup_table import LookupTable
from ofa_tvm.latency.writer import LatencyWriter
from ofa_tvm.spaces import get_layered_space, get_space
from ofa_tvm.spaces.blocks import block_structure

SPACE = get_space("ofa_digits")
TRUTH = block_structure(SPACE, 10).tables(lambda layers: sum(la.macs for la in layers) / 1e8 + 0.001)


def write_table(path: Path, n: int, seed: int) -> Path:
    genes = SPACE.sample_genes(np.random.default_rng(seed), n)
    writer = LatencyWriter(path, SPACE, Column("x86"))
    for arch, value in zip(SPACE.decode(genes), TRUTH(genes), strict=True):
        if arch not in writer.measured:
            writer.append(arch, float(value), n_classes=10)
    return path


@pytest.fixture
def folder(tmp_path: Path, ofa: Verbs) -> Path:
    write_table(tmp_path / "train.csv", 60, seed=0)
    write_table(tmp_path / "test.csv", 40, seed=1)
    done = ofa(tmp_path, "predictor", "fit", "--data", "train.csv", "-o", "p.model")
    assert done.code == 0, done.err
    assert "column x86_ms" in done.err and "10 classes" in done.err
    return tmp_path


def test_eval_gives_an_object_a_target(ofa: Verbs, folder: Path) -> None:
    done = ofa(folder, "predictor", "eval", "--model", "p.model", "--data", "test.csv", "--json")
    assert done.code == 0, done.err
    scores = json.loads(done.out)["x86"]
    assert scores["n"] == 40
    assert {"mae_ms", "rmse_ms", "mape", "spearman", "kendall", "within5", "within10"} < scores.keys()
    assert scores["mape"] < 0.05 and scores["spearman"] > 0.98 and 0.9 < scores["kendall"] <= 1.0
    assert scores["within5"] <= scores["within10"] == 1.0
    assert scores["mae_ms"] <= scores["rmse_ms"]
    own = ofa(folder, "predictor", "eval", "--model", "p.model", "--data", "train.csv")
    assert own.code == 0 and "60 of them are among those that it was fitted to" in own.err


def test_a_column_is_picked_by_name(ofa: Verbs, folder: Path) -> None:
    rows = (folder / "test.csv").read_text().splitlines()
    table = [f"{rows[0]},other_ms", *(f"{row},{1.5 * float(row.rpartition(',')[2])}" for row in rows[1:])]
    (folder / "two.csv").write_text("\n".join(table) + "\n")
    evaluate = ("predictor", "eval", "--model", "p.model", "--data", "two.csv", "--json")
    assert "x86" in json.loads(ofa(folder, *evaluate).out), "the column of the model's own target"
    other = json.loads(ofa(folder, *evaluate, "--target-column", "other_ms").out)["other"]
    assert other["mape"] == pytest.approx(1 / 3, abs=0.05)
    fit = ("predictor", "fit", "--data", "two.csv", "--space", "ofa_digits", "-o", "q.model")
    assert "no descriptor claims the column 'other'" in ofa(folder, *fit).error(1)
    assert ofa(folder, *fit, "--target-column", "other").code == 0
    assert "has no column third" in ofa(folder, *fit, "--target-column", "third").error(2)


def test_predict(ofa: Verbs, folder: Path) -> None:
    archs = SPACE.decode(SPACE.sample_genes(np.random.default_rng(2), 3))
    (folder / "archs.jsonl").write_text("\n".join(arch.to_json() for arch in archs) + "\n")
    predict = ("predictor", "predict", "--model", "p.model", "--archs", "archs.jsonl")
    answers = json.loads(ofa(folder, *predict, "--json").out)["predictions"]
    values = np.array([answer["predicted_ms"] for answer in answers])
    assert np.allclose(values, TRUTH(SPACE.encode(archs)), rtol=0.1)
    assert all(answer["deviation_ms"] > 0 for answer in answers)
    assert ofa(folder, *predict).out.count("\n") == 4
    with (folder / "archs.jsonl").open("a") as file:
        file.write('{"ks": [3]}\n')
    assert "archs.jsonl, line 4: " in ofa(folder, *predict).error(1)
    (folder / "archs.jsonl").write_text("")
    assert "holds no architectures" in ofa(folder, *predict).error(1)


def test_bad_files(ofa: Verbs, folder: Path) -> None:
    fit = ("predictor", "fit", "-o", "q.model", "--data")
    assert "cannot read none.csv" in ofa(folder, *fit, "none.csv").error(1)
    (folder / "bad.csv").write_text("arch,x86_ms\n" + '"{""ks"":[3]}",1.0\n')
    assert "does not say which space" in ofa(folder, *fit, "bad.csv").error(2)
    assert "row 2" in ofa(folder, *fit, "bad.csv", "--space", "ofa_digits").error(1)
    assert not (folder / "q.model").exists()
    (folder / "no.model").write_bytes(b"nothing")
    broken = ("predictor", "eval", "--model", "no.model", "--data", "test.csv")
    assert "is not a model file" in ofa(folder, *broken).error(1)


def test_bad_rows_end_in_a_sentence_with_their_numbers(ofa: Verbs, folder: Path) -> None:
    rows = (folder / "train.csv").read_text().splitlines()

    def fit(lines: list[str], *options: str) -> tuple[str, ...]:
        (folder / "bad.csv").write_text("".join(f"{line}\n" for line in lines))
        return ("predictor", "fit", "--data", "bad.csv", "-o", "q.model", "--space", "ofa_digits", *options)

    def changed(row: int, value: str) -> list[str]:
        return [*rows[: row - 1], f"{rows[row - 1].rpartition(',')[0]},{value}", *rows[row:]]

    for value, says in (("-1", "above 0"), ("0", "above 0"), ("nan", "NaN"), ("1e9", "absurd")):
        error = ofa(folder, *fit(changed(5, value))).error(1)
        assert "row 5" in error and says in error
    assert "row 62 repeats the architecture of row 2" in ofa(folder, *fit([*rows, rows[1]])).error(1)
    assert "is empty" in ofa(folder, *fit([])).error(1)
    assert "has a heading but no rows" in ofa(folder, *fit(rows[:1])).error(1)
    # What is said of a file of another space, and of an emulated row in a real table, says its name or row.
    (folder / "other.csv").write_text((folder / "train.csv").read_text())
    (folder / "other.meta.jsonl").write_text('{"space": "ofa_mbv3_w1.0"}\n')
    other = ("predictor", "fit", "--data", "other.csv", "-o", "q.model")
    assert "measured in the space ofa_mbv3_w1.0" in ofa(folder, *other, "--space", "ofa_digits").error(1)
    assert "row 2" in ofa(folder, *other).error(1)
    assert not (folder / "q.model").exists()
    # One row is enough, and nothing is claimed about its error.
    assert "one subnet says nothing about the error" in ofa(folder, *fit(rows[:2])).out
    assert json.loads(ofa(folder, *fit(rows[:2], "--json")).out)["leave_one_out"] == {}


def test_several_columns_make_a_generalized_model(ofa: Verbs, folder: Path) -> None:
    (folder / "targets").mkdir()
    for name, speed in (("one", 1.0), ("two", 2.0), ("three", 4.0)):
        (folder / "targets" / "devices").mkdir(exist_ok=True)
        (folder / "targets" / "devices" / f"{name}.yaml").write_text(
            f"name: {name}\nkind: arm\nsummary: made up\n"
            f"hardware: {{peak_gflops: {50 * speed}, bandwidth_gb_s: {10 * speed}}}\ncolumns: [{name}]\n"
        )
    rows = (folder / "train.csv").read_text().splitlines()

    def table(path: str, **speeds: float) -> None:
        lines = [",".join(["arch", *(f"{name}_ms" for name in speeds)])]
        for row in rows[1:]:
            arch, _, value = row.rpartition(",")
            lines.append(",".join([arch, *(str(float(value) / speed) for speed in speeds.values())]))
        (folder / path).write_text("\n".join(lines) + "\n")

    table("two.csv", one=1.0, two=2.0)
    table("three.csv", three=4.0)
    space = ("--space", "ofa_digits", "--targets-dir", "targets")
    done = ofa(folder, "predictor", "fit", "--data", "two.csv", *space, "-o", "g.model", "--json")
    assert done.code == 0, done.err
    left_out = json.loads(done.out)["leave_one_device_out"]
    assert set(left_out) == {"ofa_digits/two/one", "ofa_digits/two/two"}
    model = ("--model", "g.model", *space)
    own = json.loads(ofa(folder, "predictor", "eval", *model, "--data", "two.csv", "--json").out)
    assert set(own) == {"one", "two"} and all(scores["mape"] < 0.01 for scores in own.values())
    scores = json.loads(ofa(folder, "predictor", "eval", *model, "--data", "three.csv", "--json").out)
    assert scores["three"]["spearman"] > 0.9
    # Six of the measured subnets adapt it.
    (folder / "few.csv").write_text("\n".join((folder / "three.csv").read_text().splitlines()[:7]) + "\n")
    done = ofa(folder, "predictor", "adapt", *model, "--data", "few.csv", "-o", "a.model")
    assert done.code == 0, done.err
    adapted = ("predictor", "eval", "--model", "a.model", "--data", "three.csv", *space[:2], "--json")
    assert json.loads(ofa(folder, *adapted).out)["three"]["mape"] < 0.05
    done = ofa(folder, "predictor", "suggest", *model, "--target", "three", "-n", 4, "-o", "next.jsonl")
    assert done.code == 0, done.err
    assert len(set((folder / "next.jsonl").read_text().splitlines())) == 4
    predict = ("predictor", "predict", *model, "--archs", "next.jsonl", "--json")
    answers = json.loads(ofa(folder, *predict, "--target", "three").out)["predictions"]
    assert all(answer["predicted_ms"] > 0 and answer["deviation_ms"] > 0 for answer in answers)
    assert "needs --target" in ofa(folder, *predict).error(2)
    assert "no descriptor claims the column 'none'" in ofa(folder, *predict, "--target", "none").error(1)
    table("minstr.csv", one=1.0)
    text = (folder / "minstr.csv").read_text().replace("one_ms", "one_minstr")
    (folder / "minstr.csv").write_text(text)
    fit = ("predictor", "fit", "--data", "two.csv", "--data", "minstr.csv", *space, "-o", "q.model")
    assert "counts instructions of an emulator" in ofa(folder, *fit).error(2)


def test_a_predictor_of_another_target_is_adapted(ofa: Verbs, folder: Path) -> None:
    rows = (folder / "test.csv").read_text().splitlines()
    few = [f"{row.rpartition(',')[0]},{1.7 * float(row.rpartition(',')[2])}" for row in rows[1:4]]
    (folder / "few.csv").write_text("\n".join(["arch,other_ms", *few]) + "\n")
    done = ofa(folder, "predictor", "adapt", "--model", "p.model", "--data", "few.csv", "-o", "o.model")
    assert done.code == 0, done.err
    scaled = [f"{row.rpartition(',')[0]},{1.7 * float(row.rpartition(',')[2])}" for row in rows[1:]]
    (folder / "all.csv").write_text("\n".join(["arch,other_ms", *scaled]) + "\n")
    evaluate = ("predictor", "eval", "--model", "o.model", "--data", "all.csv", "--json")
    assert json.loads(ofa(folder, *evaluate).out)["other"]["mape"] < 0.05
    wrong = ("predictor", "adapt", "--model", "p.model", "--data", "few.csv", "--space", "fbnet")
    assert "belongs to another space" in ofa(folder, *wrong, "-o", "x.model").error(1)


@pytest.mark.slow
def test_half_precision_is_a_column_of_its_own(ofa: Verbs, folder: Path) -> None:
    """A model adapts to it; hardware, whose peaks are of float32, does not predict it."""
    rows = (folder / "test.csv").read_text().splitlines()
    half = [f"{row.rpartition(',')[0]},{0.6 * float(row.rpartition(',')[2])}" for row in rows[1:]]
    (folder / "half.csv").write_text("\n".join(["arch,x86_float16_ms", *half]) + "\n")
    space = ("--space", "ofa_digits")
    adapt = ("predictor", "adapt", "--model", "p.model", "--data", "half.csv", "-o", "h.model")
    assert ofa(folder, *adapt).code == 0
    evaluate = ("predictor", "eval", "--model", "h.model", "--data", "half.csv", "--json")
    assert json.loads(ofa(folder, *evaluate).out)["x86_float16"]["mape"] < 0.02
    fit = ("predictor", "fit", "--data", "half.csv", *space, "-o", "q.model")
    assert "is of float16 networks" in ofa(folder, *fit, "--model", "generalized").error(2)
    table = ("predictor", "table", *space, "-o", "tables", "--data", "half.csv")
    assert "add --dtype float16" in ofa(folder, *table).error(2)
    # The log that ships is of float32 kernels: a kernel sum of them would be of other networks.
    log = ("--model", "kernel-sum", "--target", "x86-64-v3")
    assert "no record of any of the space's kernels" in ofa(folder, *fit, *log).error(1)


def test_the_shipped_model_needs_only_a_device(ofa: Verbs, tmp_path: Path) -> None:
    archs = get_space("ofa_mbv3_w1.0").decode(
        get_space("ofa_mbv3_w1.0").sample_genes(np.random.default_rng(0), 3)
    )
    (tmp_path / "archs.jsonl").write_text("".join(f"{arch.to_json()}\n" for arch in archs))
    predict = ("predictor", "predict", "--archs", "archs.jsonl", "--space", "ofa_mbv3_w1.0", "--json")

    def answers(target: str, batch: int) -> list[float]:
        done = ofa(tmp_path, *predict, "--target", target, "--batch", batch)
        assert done.code == 0, done.err
        return [answer["predicted_ms"] for answer in json.loads(done.out)["predictions"]]

    t4, a100 = answers("t4", 64), answers("a100", 64)
    assert all(1 < slow / fast < 30 for slow, fast in zip(t4, a100, strict=True))
    assert all(0.1 < value < 1000 for value in t4)


@pytest.mark.slow
def test_tables_for_the_official_tools_come_from_the_log(ofa: Verbs, tmp_path: Path) -> None:
    table = ("predictor", "table", "--target", "x86-64-v4", "--space", "ofa_digits", "--resolutions", "32")
    done = ofa(tmp_path, *table, "-o", "tables", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["files"] == ["tables/32_lookup_table.yaml"]
    assert result["kernels"] > 50 and result["kernels_timed_on_this_device"] == 0, "the log that ships"
    remark = "no kernel was timed on this x86-64-v4; the times are another device's"
    assert remark in done.err and "tune --retime --target x86-64-v4 --space ofa_digits" in done.err
    assert (tmp_path / "tables" / "32_lookup_table.yaml").read_text().startswith(f"# {remark}")
    lut = LookupTable.read(tmp_path / "tables", SPACE)
    ends = SPACE.encode([SPACE.min_arch(32), SPACE.max_arch(32)])
    small, large = lut(ends)
    assert 0 < 2 * small < large


FBNET = get_layered_space("fbnet")


def fbnet_table(path: Path, column: str, n: int, seed: int) -> Path:
    """Rows of a made-up device, a tenth slower than the Titan Xp of the model that ships, without notes."""
    titan = next(r for r in shipped_model().references if (r.name, r.space) == ("titanxp_64", "fbnet"))
    genes = FBNET.sample_genes(np.random.default_rng(seed), n)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ops", column])
        for arch, ms in zip(FBNET.decode(genes), 1.1 * titan.tables(genes), strict=True):
            writer.writerow([arch.to_json(), ms])
    return path


@pytest.mark.slow
def test_a_table_without_notes_reaches_the_references_of_its_space(ofa: Verbs, tmp_path: Path) -> None:
    fbnet_table(tmp_path / "few.csv", "v100_b64_ms", 10, 0)
    fbnet_table(tmp_path / "test.csv", "v100_64_ms", 200, 1)
    adapt = ("predictor", "adapt", "--data", "few.csv", "-o", "a.model")
    done = ofa(tmp_path, *adapt)
    assert done.code == 0, done.err
    assert "100 classes (not noted" in done.err and "20 columns of fbnet" in done.err
    assert "not from 12 columns of other spaces (ofa_mbv3_w1.0, ofa_mbv3_w1.2)" in done.err
    evaluate = ("predictor", "eval", "--model", "a.model", "--data", "test.csv", "--json")
    scores = json.loads(ofa(tmp_path, *evaluate).out)["v100_64"]
    assert scores["mape"] < 0.02 and scores["spearman"] > 0.99 and scores["within95"] > 0.9
    # The classifier is a small part of a network: another number of classes changes little.
    done = ofa(tmp_path, *adapt, "--classes", 1000)
    assert done.code == 0 and "1000 classes, into" in done.err and "20 columns of fbnet" in done.err
    assert json.loads(ofa(tmp_path, *evaluate).out)["v100_64"]["mape"] < 0.02


def test_sources_are_listed_chosen_and_refused(ofa: Verbs, tmp_path: Path) -> None:
    listed = json.loads(ofa(tmp_path, "predictor", "sources", "--json").out)["sources"]
    assert listed["help-fbnet"]["spaces"] == ["fbnet"] and len(listed["help-fbnet"]["columns"]) == 20
    assert listed["help"]["batches"] == [1, 32, 64] and listed["help"]["levels"]["gpu"] > 1
    space = get_space("ofa_mbv3_w1.0")
    rows = [arch.to_json() for arch in space.decode(space.sample_genes(np.random.default_rng(0), 3))]
    (tmp_path / "archs.jsonl").write_text("\n".join(rows))
    predict = ("predictor", "predict", "--target", "v100", "--batch", 64, "--archs", "archs.jsonl", "--json")

    def answer(*more: str) -> tuple[list[float], list[float], str]:
        done = ofa(tmp_path, *predict, *more)
        assert done.code == 0, done.err
        found = json.loads(done.out)["predictions"]
        return [p["predicted_ms"] for p in found], [p["deviation_ms"] for p in found], done.err

    chosen, unsure, said = answer()
    named, surer, _ = answer("--source", "help")
    assert chosen == named, "the data set of the same space"
    assert all(wide > narrow for wide, narrow in zip(unsure, surer, strict=True)), "it may be another's"
    assert "as help measures (the likeliest" in said and "3 columns of GPUs that were left out" in said
    unknown = ofa(tmp_path, *predict, "--source", "mine").error(2)
    assert "no source 'mine'" in unknown and "arxiv-2101.00732 or" in unknown
    assert "not in ofa_mbv3_w1.0; choose help" in ofa(tmp_path, *predict, "--source", "help-fbnet").error(2)


def test_the_only_name_that_a_column_may_have_is_enough(ofa: Verbs, tmp_path: Path) -> None:
    table = fbnet_table(tmp_path / "t.csv", "v100_64_ms", 3, 0)
    fit = ("predictor", "fit", "--data", "t.csv", "-o", "m.model", "--target-column")
    for name in ("v100_b64", "v100_64", "v100_b64_ms", "v100"):
        assert ofa(tmp_path, *fit, name).code == 0, name
    rows = table.read_text().splitlines()
    (tmp_path / "t.csv").write_text(
        "\n".join([f"{rows[0]},v100_1_ms", *(f"{row},{row.rpartition(',')[2]}" for row in rows[1:])])
    )
    said = ofa(tmp_path, *fit, "v100").error(2)
    assert "has 2 columns that v100 may mean: choose one of v100_64_ms, v100_1_ms" in said
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("v100_1_ms", "v100_b64_ms"))
    assert "v100_64_ms and v100_b64_ms are one column" in ofa(tmp_path, *fit, "v100_64").error(1)


def test_an_accuracy_predictor_from_a_table(ofa: Verbs, tmp_path: Path) -> None:
    genes = SPACE.sample_genes(np.random.default_rng(0), 80)
    macs = SPACE.macs_batch(genes, 10)
    top1 = 60 + 30 * (macs - macs.min()) / np.ptp(macs)
    for name, part in (("train", slice(0, 50)), ("test", slice(50, None))):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["arch", "macs", "top1_percent"])
            cells = zip(SPACE.decode(genes[part]), macs[part], top1[part], strict=True)
            writer.writerows([arch.to_json(), *values] for arch, *values in cells)
    fit = ("predictor", "fit-accuracy", "--data", "train.csv", "--space", "ofa_digits", "-o", "acc.model")
    done = ofa(tmp_path, *fit, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["column"] == "top1_percent" and json.loads(done.out)["subnets"] == 50
    evaluate = ("predictor", "eval-accuracy", "--model", "acc.model", "--data", "test.csv", "--json")
    scores = json.loads(ofa(tmp_path, *evaluate).out)
    assert scores["n"] == 30 and scores["rmse"] < 0.02 and scores["spearman"] > 0.95
    assert abs(scores["bias"]) < 0.01 and scores["within95"] > 0.8
    assert "has no column none: choose one of macs, top1_percent" in ofa(
        tmp_path, *fit, "--column", "none"
    ).error(2)
    text = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*text, text[1].rpartition(",")[0] + ",many"]))
    assert "row 52: 'many' is not a number" in ofa(tmp_path, *fit).error(1)
