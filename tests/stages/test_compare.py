"""A comparison of a few methods on a tiny run: its numbers, its table, and going on with it."""

import csv
import json

import numpy as np
import pytest

import fgjax.stages.compare.stage
from fgjax.data.species.source import SpeciesSource
from fgjax.evaluation import Summary
from fgjax.report.comparison import Column, Row, Table
from fgjax.run import main
from fgjax.runs.maps import read_maps
from fgjax.stages.compare.table import mean_ranks, shown_metrics, to_markdown

METHODS = ("gradient", "grad_cam", "glas", "center", "random")
SMALL = (
    "compare.steps=4",
    "compare.sensitivity=1",
    "compare.randomised=1",
    "compare.glas.grid=3",
    "compare.again=30",
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
    assert set(config["methods"]) == set(METHODS) and config["images"] == 3
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
            share = heat[example.mask].sum() / heat.sum()
            assert float(row["energy_in_object"]) == pytest.approx(share, rel=2e-3)
            assert 0 <= float(row["insertion"]) <= 1 and 0 <= float(row["deletion"]) <= 1
            again = method in ("gradient", "grad_cam", "glas")
            assert ("max_sensitivity" in row and row["max_sensitivity"] != "") == again
            assert (row.get("randomisation_ssim", "") != "") == (again and row["index"] == "0")
        means = config["methods"][method]["metrics"]
        values = [float(row["energy_in_object"]) for row in scores]
        assert means["energy_in_object"]["mean"] == pytest.approx(np.mean(values), rel=1e-4)
        assert "object mask" in means["energy_in_object"]["protocol"]
        assert config["methods"][method]["seconds_per_image"] > 0
    assert config["methods"]["glas"]["forward_passes"] == 1 + 2 * 9
    assert config["methods"]["center"]["mean_rank"] is None
    assert config["methods"]["glas"]["mean_rank"] >= 1


def test_the_table_is_written_in_every_form(compared):
    run, _ = compared
    long = rows(run / "compare.csv")
    assert {row["method"] for row in long} == set(METHODS)
    assert all(row["protocol"] for row in long)
    text = (run / "compare.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.split(" | ")[0].strip("| ") for line in lines[1:]} == set(METHODS)
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["center", "random"]
    page = (run / "compare.html").read_text()
    assert page.count("data:image/webp") == 3 * (1 + len(METHODS))
    assert all(f">{method}<" in page for method in METHODS)


def test_it_goes_on_where_it_stopped_and_takes_another_method(
    compared, tmp_path, words, trained, monkeypatch, capsys
):
    run, _ = compared
    real, made = fgjax.stages.compare.stage._timed, []

    def stops(task, method, one):
        made.append((method, one.start))
        if len(made) == 5:
            raise KeyboardInterrupt
        return real(task, method, one)

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
    capsys.readouterr()
    assert main([*more, "compare.occlusion.window=60"]) == 2
    assert "compare.occlusion.window (was 48, is 60)" in capsys.readouterr().err


def test_a_method_the_model_cannot_serve_is_left_out_and_said(
    tmp_path, words, trained, monkeypatch, capsys
):
    def cannot(model, images, targets, *, key, config):
        raise ValueError("grad_cam needs features(images) and head(features)")

    monkeypatch.setitem(fgjax.stages.compare.stage.METHODS, "grad_cam", cannot)
    few = [w for w in SMALL if not w.startswith("compare.methods")]
    given = words(tmp_path / "run", *few, f"model.checkpoint={trained}/checkpoint")
    assert main([*given, "compare.methods=[gradient,grad_cam]", "data.limit=1"]) == 0
    assert "grad_cam is left out: grad_cam needs features" in capsys.readouterr().out
    about = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert set(about["methods"]) == {"gradient"} and set(about["left_out"]) == {"grad_cam"}


def values(**means):
    return {name: Summary(mean, mean - 0.1, mean + 0.1, 5, 5) for name, mean in means.items()}


def test_mean_ranks_by_hand():
    scores = {
        "rise": values(insertion=0.6, deletion=0.2, energy_in_object=0.5, gini=0.9),
        "glas": values(insertion=0.6, deletion=0.1, energy_in_object=0.4, gini=0.1),
        "fido": values(insertion=0.8, deletion=0.3, energy_in_object=0.3, max_sensitivity=0.1),
        "random": values(insertion=0.9, deletion=0.0, energy_in_object=0.9),
    }
    # insertion: fido 1, rise and glas 2.5; deletion: glas 1, rise 2, fido 3; energy: 1, 2, 3.
    # Gini has no direction, and max-sensitivity not all have.
    assert mean_ranks(scores) == {
        "rise": pytest.approx((2.5 + 2 + 1) / 3),
        "glas": pytest.approx((2.5 + 1 + 2) / 3),
        "fido": pytest.approx((1 + 3 + 3) / 3),
    }


def test_a_box_counts_only_where_there_is_no_mask():
    both = {"rise": values(energy_in_object=0.5, energy_in_box=0.6, pointing_box=1.0)}
    assert shown_metrics(both) == ["energy_in_object", "pointing_box"]
    assert shown_metrics({"rise": values(energy_in_box=0.6)}) == ["energy_in_box"]


def test_markdown_marks_the_best_and_says_how():
    column = Column("deletion", "deletion", False, "how it is measured")
    cost = {"forward_passes": 7, "backward_passes": 0, "seconds_per_image": 0.5,
            "peak_bytes": 2**30}  # fmt: skip
    made = [Row("rise", 1.0, ((0.1, 0.05, 0.2),), cost), Row("glas", 2.0, (None,), cost),
            Row("random", None, ((0.01, 0.0, 0.1),), cost)]  # fmt: skip
    text = to_markdown(Table("t", (column,), tuple(made), 5))
    assert "| rise | 1.0 | **0.100 (0.05 to 0.20)** | 7 | 0.5 | 1.00 |" in text
    assert "| glas | 2.0 | – | 7 | 0.5 | 1.00 |" in text
    assert "| random | – | 0.010 (0.00 to 0.10) |" in text
    assert "- deletion: how it is measured" in text and "5 images" in text
