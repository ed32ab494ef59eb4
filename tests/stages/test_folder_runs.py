"""Runs on folders of images: flat or in classes, with damaged files, and with hostile names."""

import csv
import html.parser
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fgjax.run import main
from fgjax.runs.maps import MapStore, load_maps


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def damaged(folder, picture) -> set[str]:
    """Files that cannot be used; their names."""
    picture(0).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("this is no image")
    Image.new("RGB", (1, 1)).save(folder / "one_pixel.png")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb = header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    (folder / "empty.png").write_bytes(b"")
    os.symlink(folder / "nowhere.png", folder / "dangling.png")
    return {"truncated.jpg", "text.jpg", "one_pixel.png", "bomb.png", "empty.png", "dangling.png"}


def unusual(folder, picture) -> set[str]:
    """Files of unusual kinds that can be used; their names."""
    picture(1).save(folder / "plain.png")
    picture(2).convert("L").save(folder / "grey.png")
    picture(3).convert("CMYK").save(folder / "cmyk.jpg")
    picture(4).convert("RGBA").save(folder / "alpha.png")
    deep = np.asarray(picture(5).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    return {"plain.png", "grey.png", "cmyk.jpg", "alpha.png", "deep.png"}


@pytest.mark.slow
def test_damaged_images_are_listed_and_the_rest_is_done(
    tmp_path, folder_words, picture, trained, capsys
):
    data = tmp_path / "data"
    data.mkdir()
    good, bad = unusual(data, picture), damaged(data, picture)
    assert main(folder_words(data, tmp_path / "run")) == 1
    captured = capsys.readouterr()
    assert "6 images failed" in captured.out and "failures.csv" in captured.out
    assert "Traceback" not in captured.out + captured.err
    failures = rows(tmp_path / "run" / "failures.csv")
    assert {row["name"] for row in failures} == bad
    assert {row["stage"] for row in failures} == {"explain"}
    reasons = {row["name"]: row["reason"] for row in failures}
    assert all(str(data / name) in reason for name, reason in reasons.items())
    assert "60000" in reasons["bomb.png"] and "1×1" in reasons["one_pixel.png"]

    results = rows(tmp_path / "run" / "results.csv")
    assert {row["name"] for row in results} == good
    heat = load_maps(tmp_path / "run")["heatmap"]
    order = sorted(good | bad)
    for row in results:
        assert order[int(row["index"])] == row["name"]
        assert row["label"] == "" and row["correct"] == ""
        assert row["target"] == row["predicted"]  # without labels the prediction is explained
    done = np.isfinite(heat).all((1, 2))
    assert [name for name, d in zip(order, done, strict=True) if d] == sorted(good)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in good | bad)

    # Again: what failed is tried again, what is done is not.
    (data / "text.jpg").unlink()
    assert main(folder_words(data, tmp_path / "run")) == 2  # other images than before
    assert "images" in capsys.readouterr().err
    assert {row["name"] for row in rows(tmp_path / "run" / "results.csv")} == good


def test_no_image_can_be_read(tmp_path, folder_words, picture, trained, capsys):
    data = tmp_path / "data"
    data.mkdir()
    bad = damaged(data, picture)
    assert main(folder_words(data, tmp_path / "run")) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert {row["name"] for row in rows(tmp_path / "run" / "failures.csv")} == bad
    assert rows(tmp_path / "run" / "results.csv") == []
    assert (tmp_path / "run" / "report.html").is_file()


def class_folders(folder, picture, names=("spotted", "striped"), each=4):
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture(place + 5 * i).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
def test_class_folders_with_masks_and_a_label_csv(tmp_path, folder_words, picture, trained, capsys):
    data = class_folders(tmp_path / "images", picture)
    for path in data.rglob("*.png"):
        mask = tmp_path / "masks" / path.relative_to(data)
        mask.parent.mkdir(parents=True, exist_ok=True)
        inside = np.zeros((48, 40), np.uint8)
        inside[12:36, 10:30] = 255
        Image.fromarray(inside).save(mask)
    labels = tmp_path / "labels.csv"
    labels.write_text("class_name,model_index\nspotted,7\nstriped,\n")
    given = (f"model.labels={labels}", f"data.masks={tmp_path / 'masks'}", "data.limit=3")
    assert main(folder_words(data, tmp_path / "run", *given)) == 0
    results = rows(tmp_path / "run" / "results.csv")
    assert len(results) == 3
    targets = MapStore(tmp_path / "run" / "maps.zarr", 3).targets()
    for row in results:
        if row["label"] == "spotted":
            assert row["target"] == "spotted" and targets[int(row["index"])] == 7
        else:  # the model does not know it: its prediction is explained, and nothing is right
            assert row["target"] == row["predicted"] and row["correct"] == ""
        assert 0 <= float(row["iou_mask"]) <= 1 and row["iou_box"] == "nan"
    out = capsys.readouterr().out
    assert "right on" in out and "no output is named for 1 of 2 classes (striped)" in out


def test_data_that_changed_on_disk_are_refused(tmp_path, folder_words, picture, trained, capsys):
    data = tmp_path / "data"
    data.mkdir()
    picture(1).save(data / "a.png")
    picture(2).save(data / "b.png")
    words = folder_words(data, tmp_path / "run", "stages=explain")
    assert main(words) == 0
    before = load_maps(tmp_path / "run")["heatmap"]
    picture(3).resize((64, 64)).save(data / "b.png")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "images" in err and "changed" in err and "run_dir" in err
    np.testing.assert_array_equal(load_maps(tmp_path / "run")["heatmap"], before)


def test_damaged_maps_are_told(tmp_path, folder_words, picture, trained, capsys):
    data = tmp_path / "data"
    data.mkdir()
    picture(1).save(data / "a.png")
    words = folder_words(data, tmp_path / "run", "stages=explain")
    assert main(words) == 0
    (tmp_path / "run" / "maps.zarr" / "target" / "zarr.json").write_text("{")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "maps.zarr" in err and "explain again" in err


class Tags(html.parser.HTMLParser):
    """Collects every tag and attribute name."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def tags(page) -> Tags:
    parser = Tags()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.mark.slow
def test_names_from_files_stay_names(tmp_path, folder_words, picture, trained):
    """Class folders and files named like HTML, in a nested folder so that </script> is whole."""
    hostile, plain = tmp_path / "hostile", tmp_path / "plain"
    names = ["<script>alert(1)<", '"><img src=x onerror=alert(2)>']
    for folder, classes, inner in ((hostile, names, "script>"), (plain, ("a", "b"), "c")):
        for place, name in enumerate(classes):
            (folder / name / inner).mkdir(parents=True)
            for i in range(2):
                file = f"'\"{i}<b>.png" if folder is hostile else f"{i}.png"
                picture(place + 3 * i).save(folder / name / inner / file)
    for data in (hostile, plain):
        labels = tmp_path / f"{data.name}.csv"
        with labels.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["class_name", "model_index"])
            writer.writerows([name, i] for i, name in enumerate(sorted(os.listdir(data))))
        run = tmp_path / f"run_{data.name}"
        assert main(folder_words(data, run, f"model.labels={labels}", "explain.target=label")) == 0
    attacked, calm = (tags(tmp_path / f"run_{n}" / "report.html") for n in ("hostile", "plain"))
    for tag in ("script", "img", "b", "iframe"):
        assert attacked.tags.count(tag) == calm.tags.count(tag), tag
    assert "onerror" not in attacked.attributes
    assert attacked.attributes == calm.attributes
    page = (tmp_path / "run_hostile" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;" in page  # shown, as text
    run = tmp_path / "run_hostile"
    figures = list((run / "figures").iterdir())
    assert len(figures) == 2 and all(f.is_file() and f.suffix == ".png" for f in figures)
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "run.json", "maps.zarr", "results.csv", "failures.csv", "metrics.json",
        "figures", "report.html",
    }  # fmt: skip
