"""A comparison of a few methods on a tiny run: its numbers, its table, and going on with it."""

import csv
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import fgjax
import fgjax.stages.compare.comparison
import fgjax.stages.compare.measure
import fgjax.stages.compare.stage
from fgjax.data.species.source import SpeciesSource
from fgjax.report.comparison import Column, Row, Table
from fgjax.run import main
from fgjax.runs.maps import read_maps
from fgjax.stages.compare.table import shown_metrics
from fgjax.stages.compare.words import to_markdown

pytestmark = pytest.mark.slow  # whole runs; CI has them

CONTROLS = ("center", "random", "constant", "zero", "flipped")
METHODS = ("gradient", "grad_cam", "glas", *CONTROLS)
VARIANTS = ("glas: light", "glas: shadow")
SMALL = (
    "compare.steps=4",
    "compare.sensitivity=1",
    "compare.randomised=1",
    "compare.glas.grid=3",
    "compare.again=30",
    "compare.infills=[patches]",
    f"compare.methods=[{','.join(METHODS)}]",
    "stages=compare",
)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(tmp_path_factory, words, trained):
    """A finished comparison, and its words. Not to be written to."""
    run = tmp_path_factory.mktemp("compared") / "run"
    given = words(run, *SMALL, f"model.checkpoint={trained}/checkpoint")
    assert main(given) == 0
    return run, given


def test_the_numbers_are_those_of_the_maps(compared):
    run, given = compared
    config = json.loads((run / "compare.json").read_text())
    assert set(config["methods"]) == {*METHODS, *VARIANTS} and config["images"] == 3
    size = int(next(w for w in given if w.startswith("data.size")).partition("=")[2])
    count = int(next(w for w in given if w.startswith("data.test_images")).partition("=")[2])
    source = SpeciesSource(size, train=40, test=count)
    records = {r.name: r for r in source.records}
    for method in METHODS:
        scores = rows(run / "compare" / method / "scores.csv")
        assert [int(row["index"]) for row in scores] == [0, 1, 2]
        for row in scores:
            heat = read_maps(run / "compare" / method / "maps.zarr", int(row["index"]))["heatmap"]
            heat = heat.astype(np.float64)
            example = source.load(records[row["name"]])
            share = heat[example.mask].sum() / heat.sum() if heat.any() else example.mask.mean()
            assert float(row["energy_in_object"]) == pytest.approx(share, rel=2e-3)
            assert 0 <= float(row["insertion"]) <= 1 and 0 <= float(row["deletion"]) <= 1
            assert 0 <= float(row["insertion_patches"]) <= 1 and "dimmed_drop" in row
            assert row["max_sensitivity"] != "" and row["blank"] != ""
            assert (row["randomisation_ssim"] != "") == (row["index"] == "0")
        means = config["methods"][method]["metrics"]
        values = [float(row["energy_in_object"]) for row in scores]
        assert means["energy_in_object"]["mean"] == pytest.approx(np.mean(values), rel=1e-4)
        assert "object mask" in means["energy_in_object"]["protocol"]
        assert config["methods"][method]["seconds_per_image"] > 0
    assert config["methods"]["glas"]["forward_passes"] == 1 + 2 * 9
    assert config["methods"]["center"]["mean_rank"] is None
    assert config["methods"]["glas"]["mean_rank"] >= 1
    assert config["methods"]["glas"]["blank"]["maps"] == 3


def test_no_control_wins_a_column_that_ranks(compared):
    """The table is tried with maps that know nothing, and one turned around."""
    run, _ = compared
    config = json.loads((run / "compare.json").read_text())
    maps = run / "compare"
    assert (read_maps(maps / "constant" / "maps.zarr", 0)["heatmap"] == 1).all()
    assert not read_maps(maps / "zero" / "maps.zarr", 0)["heatmap"].any()
    assert config["flipped"] == "gradient"  # one pass
    turned, whole = (
        read_maps(maps / m / "maps.zarr", 1)["heatmap"].astype(np.float32)
        for m in ("flipped", "gradient")
    )
    np.testing.assert_allclose(turned, 1 - whole, atol=2e-3)
    ranked = {metric for group in config["ranked"]["questions"] for metric in group}
    assert ranked and not ranked & set(config["ranked"]["not_ranked"])
    assert "max_sensitivity" not in ranked  # a constant map does not change
    page = (run / "compare.md").read_text()
    for metric in ranked:
        values = {
            method: config["methods"][method]["metrics"].get(metric, {}).get("mean")
            for method in METHODS
        }
        sign = -1 if metric.startswith(("deletion", "random")) else 1
        median = np.median([sign * values[m] for m in METHODS if m not in CONTROLS])
        assert all(
            v is None or sign * v <= median + 1e-6 for m, v in values.items() if m in CONTROLS
        )
    assert "max-sensitivity ranks nothing: " in page and "controls: maps that know nothing" in page


def test_p_full_is_asked_for_once(compared, words, trained, tmp_path, monkeypatch):
    """Whole images are shown to the network once in all, whatever is measured of however many
    maps: parts and curves take what is known."""
    run, given = compared
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for file in (again / "compare").glob("*/scores*.csv"):
        file.unlink()
    source = SpeciesSource(32, train=40, test=8)
    names = {row["name"] for row in rows(run / "compare" / "glas" / "scores.csv")}
    records = [r for r in source.records if r.name in names]
    images = [source.load(r).image for r in records]
    hidden = sum(
        np.array_equal(drawn, image)
        for record, image in zip(records, images, strict=True)
        for drawn in source.without_parts(record).images
    )
    asked, real = [], fgjax.stages.compare.measure.compiled

    def counting(model):
        ask = real(model)

        def call(x):
            asked.extend(
                any(np.array_equal(np.round(255 * np.asarray(row)), image) for image in images)
                for row in x
            )
            return ask(x)

        return call

    monkeypatch.setattr(fgjax.stages.compare.measure, "compiled", counting)
    words_again = [w if not w.startswith("run_dir") else f"run_dir={again}" for w in given]
    assert main([*words_again, "compare.road=false", "compare.again=0"]) == 0
    # Each image once, for what its parts cost; drawn without a part that is not seen; and where a
    # map of zeros dims nothing.
    assert len(asked) > 300 and sum(asked) <= 3 + hidden + 3


def test_the_table_is_written_in_every_form(compared):
    run, _ = compared
    long = rows(run / "compare.csv")
    assert {row["method"] for row in long} == {*METHODS, *VARIANTS}
    assert all(row["protocol"] for row in long)
    text = (run / "compare.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows_ = [line.split("|")[1].strip() for line in lines[1:]]
    assert set(rows_) == {*METHODS, *VARIANTS} and rows_[-5:] == list(CONTROLS)
    place = rows_.index("glas")
    assert rows_[place + 1 : place + 3] == list(VARIANTS)
    assert len({line.count("|") for line in lines}) == 1
    page = (run / "compare.html").read_text()
    assert page.count("data:image/webp") == 3 * (1 + len(METHODS) + len(VARIANTS))
    assert all(f">{method}<" in page for method in METHODS)


def test_it_goes_on_where_it_stopped_and_takes_another_method(
    compared, tmp_path, words, trained, monkeypatch, capsys
):
    run, _ = compared
    real, made = fgjax.stages.compare.stage._timed, []

    def stops(task, method, places):
        made.append((method, *places))
        if len(made) == 5:
            raise KeyboardInterrupt
        return real(task, method, places)

    given = words(tmp_path / "run", *SMALL, f"model.checkpoint={trained}/checkpoint")
    monkeypatch.setattr(fgjax.stages.compare.stage, "_timed", stops)
    assert main(given) == 130
    assert made == [("gradient", 0), ("gradient", 1), ("gradient", 2), ("grad_cam", 0),
                    ("grad_cam", 1)]  # fmt: skip
    assert main(given) == 0
    assert made[5:7] == [("grad_cam", 1), ("grad_cam", 2)]  # what was done is not done again
    for method in METHODS:
        ours, whole = (
            rows(folder / "compare" / method / "scores.csv") for folder in (tmp_path / "run", run)
        )
        assert ours == whole

    del made[:]
    more = [w for w in given if not w.startswith("compare.methods")]
    more += ["compare.methods=[gradient,occlusion]", "compare.occlusion.stride=40"]
    assert main(more) == 0
    assert {method for method, _ in made} == {"occlusion"}
    del made[:]
    assert (
        main([*more, "compare.images_per_call=2", "compare.methods=[rise]", "compare.rise.masks=6"])
        == 0
    )
    assert made == [("rise", 0, 1), ("rise", 2)]
    capsys.readouterr()
    assert main([*more, "compare.occlusion.window=60"]) == 2
    assert "compare.occlusion.window (was 48, is 60)" in capsys.readouterr().err


def test_a_method_the_model_cannot_serve_is_left_out_and_said(
    tmp_path, words, trained, monkeypatch, capsys
):
    def cannot(model, images, targets, *, key, config):
        raise ValueError("grad_cam needs features(images) and head(features)")

    monkeypatch.setitem(fgjax.stages.compare.methods.METHODS, "grad_cam", cannot)
    few = [w for w in SMALL if not w.startswith("compare.methods")]
    given = words(tmp_path / "run", *few, f"model.checkpoint={trained}/checkpoint")
    assert main([*given, "compare.methods=[gradient,grad_cam]", "data.limit=1"]) == 0
    assert "grad_cam is left out: grad_cam needs features" in capsys.readouterr().out
    about = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert set(about["methods"]) == {"gradient"} and set(about["left_out"]) == {"grad_cam"}


def test_methods_are_asked_in_bf16_and_judged_in_f32(tmp_path, words, trained, monkeypatch, capsys):
    """The same network, folded, in every call of the method: for its map, a changed image, and
    randomised weights."""
    seen, judged = [], []
    real, insertion = fgjax.gradient, fgjax.stages.compare.measure.compiled

    def noted(model, *asked, **how):
        seen.append((model.network.dtype, [*model.variables["params"]["stem_norm"]["norm"]]))
        return real(model, *asked, **how)

    monkeypatch.setitem(fgjax.stages.compare.comparison.METHODS, "gradient", noted)
    monkeypatch.setattr(
        fgjax.stages.compare.measure,
        "compiled",
        lambda model: judged.append(model.network.dtype) or insertion(model),
    )
    few = [w for w in SMALL if not w.startswith("compare.methods")]
    given = words(tmp_path / "run", *few, f"model.checkpoint={trained}/checkpoint")
    more = ("compare.methods=[gradient]", "data.limit=1", "explain.precision=bf16")
    assert main([*given, *more]) == 0
    assert len(seen) > 3 and all(of == (jnp.bfloat16, ["bias"]) for of in seen)
    assert set(judged) == {jnp.float32}


def test_a_box_counts_only_where_there_is_no_mask():
    one = lambda **names: {"rise": {name: np.array([0.5]) for name in names}}
    both = one(energy_in_object=1, energy_in_box=1, pointing_box=1)
    assert shown_metrics(both) == ["energy_in_object", "pointing_box"]
    assert shown_metrics(one(energy_in_box=1)) == ["energy_in_box"]


def test_blank_maps_have_a_column_where_a_method_has_some():
    none = {"rise": {"blank": np.zeros(2)}, "zero": {"blank": np.ones(2)}}
    assert shown_metrics(none) == []
    assert shown_metrics(none | {"glas": {"blank": np.array([0.0, 1])}}) == ["blank"]


def test_markdown_marks_the_best_and_says_how():
    column = Column("deletion", "deletion", False, "how it is measured")
    cost = {"forward_passes": 7, "backward_passes": 0, "seconds_per_image": 0.5,
            "peak_bytes": 2**30}  # fmt: skip
    made = [Row("rise", 1.0, ((0.1, 0.05, 0.2, 5),), cost), Row("glas", 2.0, (None,), cost),
            Row("glas: light", 1.5, ((0.2, 0.1, 0.3, 3),), cost, "light"),
            Row("random", None, ((0.01, 0.0, 0.1, 5),), cost)]  # fmt: skip
    text = to_markdown(Table("t", (column,), tuple(made), 5))
    assert "| rise | 1.0 | **0.100 (0.05 to 0.20)** | 7 | 0.5 | 1.00 |" in text
    assert "| glas | 2.0 | – | 7 | 0.5 | 1.00 |" in text
    assert "| random | – | 0.010 (0.00 to 0.10) |" in text
    assert "| glas: light | 1.5 | 0.200 (0.10 to 0.30) n = 3 |  |  |  |" in text
    assert "- deletion: how it is measured" in text and "5 images" in text and "deletion ↓" in text
    won = Column("deletion", "deletion", False, "how", "random beats the median method")
    text = to_markdown(Table("t", (won,), tuple(made), 5, ("deletion ranks nothing.",)))
    assert "deletion (↓)" in text and "**" not in text and "deletion ranks nothing.\n" in text
