"""Which images are worth a look, and the tables for field work."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fgjax.data.exif import Taken
from fgjax.data.megadetector import Detection
from fgjax.options.judging import LookConfig
from fgjax.run import main
from fgjax.runs.maps import load_maps
from fgjax.stages.look.reasons import (
    BACKGROUND,
    SAME,
    UNSURE,
    WRONG,
    Seen,
    most_alike,
    reasons_of,
    worth,
)
from fgjax.stages.look.tables import Line, detections_json, field_csv
from megadetector_format import breaches


@pytest.mark.parametrize(
    ("seen", "reasons"),
    [
        (Seen(np.array([0.9, 0.1]), 0), ()),
        (Seen(np.array([0.9, 0.1]), 1), (WRONG,)),
        (Seen(np.array([0.9, 0.1])), ()),  # nobody knows
        (Seen(np.array([0.7, 0.3]), 1), ()),  # wrong, and not sure
        (Seen(np.array([0.45, 0.55]), 1), (UNSURE,)),
        (Seen(np.array([1.0]), 0), ()),
        (Seen(np.array([0.9, 0.1]), 0, inside=0.1), (BACKGROUND,)),
        (Seen(np.array([0.9, 0.1]), 0, inside=0.3), ()),
        (Seen(np.array([0.9, 0.1]), 1, 0.0, 0.99, "a"), (WRONG, SAME, BACKGROUND)),
    ],
)
def test_reasons_to_look(seen, reasons):
    assert reasons_of(seen, LookConfig()) == reasons


def test_the_worst_comes_first():
    sure, less, unsure = (Seen(np.array([p, 1 - p]), 1) for p in (0.95, 0.85, 0.55))
    keys = [worth(s, reasons_of(s, LookConfig())) for s in (unsure, less, sure)]
    assert sorted(keys) == keys[::-1]


def test_the_most_alike():
    places, cosine = most_alike(np.array([[1.0, 0], [3, 4]]), np.array([[0, 2.0], [5, 0]]))
    assert places.tolist() == [1, 0]
    np.testing.assert_allclose(cosine, [1, 0.8])
    assert np.isnan(most_alike(np.ones((2, 3)), np.zeros((0, 3)))[1]).all()


def test_tables_of_field_work():
    p = np.array([0.2, 0.5, 0.1, 0.2])
    region = np.array([0.25, 0.5, 0.75, 1.0])
    lines = [
        Line("a/1.jpg", "robin", p, region, None, (WRONG, UNSURE), "b.jpg", 0.99),
        Line("a/2.jpg", "", p, None),
        Line("a/3.jpg", "", p, region, Detection(np.array([0.0, 0, 0.5, 0.5]), 0.9)),
    ]
    outputs = ["robin", "wren", "jay", "tit"]
    rows = list(csv.DictReader(field_csv(lines, outputs, {"c.jpg": "damaged"}).splitlines()))
    first = rows[0]
    assert [first[k] for k in ("path", "class", "predicted", "p")] == [
        "a/1.jpg", "robin", "wren", "0.5000"]  # fmt: skip
    assert [first[f"predicted_{i}"] for i in (2, 3)] == ["robin", "tit"]
    assert [float(first[k]) for k in ("x", "y", "width", "height")] == [0.25, 0.5, 0.5, 0.5]
    assert first["reasons"] == f"{WRONG}; {UNSURE}" and first["like"] == "b.jpg"
    assert rows[1]["x"] == "" and rows[3]["failure"] == "damaged" and rows[3]["p"] == ""
    assert "date" not in first  # as places of rare species are not everybody's
    dated = [Line("a/1.jpg", "", p, None, taken=Taken("2026-05-17 04:31:08", "-2.5", "29.0"))]
    (row,) = csv.DictReader(field_csv(dated, outputs, {}).splitlines())
    assert [row[k] for k in ("date", "latitude", "longitude")] == list(dated[0].taken)
    said = json.loads(detections_json(lines, outputs, {"c.jpg": "damaged"}, "fgjax, fido"))
    assert breaches(said) == []
    (box,), (cut,) = (said["images"][i]["detections"] for i in (0, 2))
    assert box["bbox"] == [0.25, 0.5, 0.5, 0.5] and box["conf"] == 0.5
    assert cut["bbox"] == [0, 0, 0.5, 0.5] and cut["conf"] == 0.9
    assert said["images"][1]["detections"] == [] and said["images"][3]["failure"] == "damaged"


def rows_of(table):
    return list(csv.DictReader(table.read_text("utf-8").splitlines()))


def test_a_run_is_looked_at(run, words):
    """Training images that are the tests' own, so that every reason can be met."""
    assert main(words(run, "stages=look", "look.margin=1", "look.same=0.5")) == 0
    rows, results = rows_of(run / "field.csv"), rows_of(run / "results.csv")
    assert [r["path"] for r in rows] == [r["name"] for r in results]
    assert [r["predicted"] for r in rows] == [r["predicted"] for r in results]
    for row, result, heat in zip(rows, results, load_maps(run)["heatmap"], strict=True):
        right = row["class"] == row["predicted"]
        p = float(row["p"])
        assert (float(result["p_full"]) == pytest.approx(p, abs=1e-3)) or not right
        assert UNSURE in row["reasons"] and 0.5 < float(row["likeness"]) <= 1.0001
        y, x = np.nonzero(heat > 0.5)
        if len(x):
            wanted = [x.min() / 32, y.min() / 32, (np.ptp(x) + 1) / 32, (np.ptp(y) + 1) / 32]
            found = [float(row[k]) for k in ("x", "y", "width", "height")]
            np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert breaches(json.loads((run / "megadetector.json").read_text("utf-8"))) == []
    page = (run / "look.html").read_text("utf-8")
    assert "look at these" in page and SAME in page and "most alike in training" in page


def test_a_page_without_a_reason_says_what_is_one(run, words):
    no = ("look.margin=0", "look.same=1", "look.background=0", "look.sure=1")
    assert main(words(run, "stages=look", *no)) == 0
    page = (run / "look.html").read_text("utf-8")
    assert (
        "0 of 3 images are worth a look" in page and "unsure by less than 0 (look.margin)" in page
    )
    assert "No image was explained" not in page


@pytest.mark.slow
def test_animals_are_cut_out_before_they_are_classified(tmp_path, picture, folder_words, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for i in range(2):
        picture(i).resize((120, 90)).save(data / f"{i}.png")
    shutil.copy(data / "0.png", tmp_path / "whole.png")
    found = [{"category": "1", "conf": 0.9, "bbox": [0.5, 0.5, 0.25, 0.25]}]
    document = {"info": {"format_version": "1.6"}, "detection_categories": {"1": "animal"},
                "images": [{"file": "0.png", "detections": found}]}  # fmt: skip
    (tmp_path / "md.json").write_text(json.dumps(document))
    boxed = (f"data.boxes={tmp_path / 'md.json'}", "stages=explain,evaluate,report,look")
    assert main(folder_words(data, run, *boxed)) == 0
    assert "an animal in 1 of 2 images" in capsys.readouterr().out
    said = json.loads((run / "megadetector.json").read_text("utf-8"))
    assert said["images"][0]["detections"][0]["bbox"] == [0.5, 0.5, 0.25, 0.25]
    assert said["images"][0]["detections"][0]["conf"] == 0.9
    # The same image, cut by hand, gets the same probabilities.
    x, y, side = 60, 45, int(np.ceil(30 / 0.875))
    left, top = round(60 + 15 - side / 2), round(45 + 11.25 - side / 2)
    assert x < left + side and y < top + side
    (tmp_path / "cut").mkdir()
    with Image.open(tmp_path / "whole.png") as whole:
        cut = whole.crop((left, top, left + side, top + side))
    cut.save(tmp_path / "cut" / "0.png")
    again = tmp_path / "again"
    assert main(folder_words(tmp_path / "cut", again, boxed[1])) == 0
    p = [rows_of(r / "field.csv")[0]["p"] for r in (run, again)]
    assert p[0] == p[1]


def test_boxes_need_a_folder(words, tmp_path, capsys):
    assert main(words(tmp_path / "run", "data.boxes=nothing.json", "stages=explain")) == 2
    assert "data.boxes cuts photographs of data.source=folder" in capsys.readouterr().err
