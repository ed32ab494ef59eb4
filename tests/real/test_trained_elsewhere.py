"""Real photographs and weights that were trained elsewhere, through the command."""

import csv
import json

import pytest

from fgjax.run import main


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("data", "weights", "least", "images"),
    [("birds", "inat_birds", 0.80, 588), ("butterflies", "inat_insects", 0.85, 216)],
)
def test_classifiers_trained_elsewhere_are_right(shared, tmp_path, data, weights, least, images):
    """The iNaturalist MobileNetV2s on CUB's test birds and on the butterflies they know."""
    words = {
        "birds": ["config=fido_cub", f"data.path={shared / 'data' / 'birds'}"],
        "butterflies": ["config=fido_folder", "data.test_share=1",
                        f"data.path={shared / 'data' / 'butterflies' / 'images'}"],
    }[data]  # fmt: skip
    model = (f"model.weights={shared / 'weights' / f'mobilenetv2_{weights}.safetensors'}",
             f"model.labels={shared / 'data' / data / 'model_classes.csv'}")  # fmt: skip
    assert main([*words, *model, "stages=test", f"run_dir={tmp_path / 'run'}"]) == 0
    about = json.loads((tmp_path / "run" / "test.json").read_text())
    assert about["images"] == images
    assert about["metrics"]["accuracy"]["mean"] >= least


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("kind", "labels"), [("birds", "model_classes.csv"), ("butterflies", "labels.txt")]
)
def test_real_images_and_a_trained_classifier(tmp_path, shared, capsys, kind, labels):
    name = {"birds": "inat_birds", "butterflies": "inat_insects"}[kind]
    config = {"birds": "fido_cub", "butterflies": "fido_folder"}[kind]
    file = shared / "weights" / f"mobilenetv2_{name}.labels.txt"
    if labels.endswith("csv"):
        file = shared / "data" / kind / labels
    run = tmp_path / "run"
    words = [f"config={config}", f"data.path={shared / 'data' / kind}", f"run_dir={run}",
             f"model.weights={shared / 'weights' / f'mobilenetv2_{name}.safetensors'}",
             f"model.labels={file}", "data.limit=2", "explain.method=grad_cam"]  # fmt: skip
    assert main(words) == 0
    results = list(csv.DictReader((run / "results.csv").read_text(encoding="utf-8").splitlines()))
    # Where the label file does not know a class, that is said.
    known = [row["correct"] for row in results if row["correct"]]
    assert len(results) == 2 and known.count("1") == len(known) > 0
    out = capsys.readouterr().out
    assert len(known) == 2 or "no output is named for" in out
