"""Stage "parts": its figures against a recomputation, its page, and runs that go on."""

import csv
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fgjax
from fgjax.data.pipeline import load_batch
from fgjax.options.resolve import resolve
from fgjax.run import main
from fgjax.stages.images import make_source

pytestmark = pytest.mark.slow  # whole runs; CI has them

WORDS = ("config=parts_species", "data.size=48", "data.train_images=40", "data.test_images=20",
         "train.epochs=1", "train.batch_size=16", "parts.number=3", "parts.gallery=4",
         "parts.backbone=toys:MICRO")  # fmt: skip


def read(run):
    return json.loads((run / "parts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a moment. Not to be written to."""
    run = tmp_path_factory.mktemp("parts") / "run"
    assert main([*WORDS, f"run_dir={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def batches():
    """All images of the run, training and test."""
    source = make_source(resolve(list(WORDS))[1])
    split = lambda name: [r for r in source.records if r.split == name]
    return [load_batch(source, split(name)) for name in ("train", "test")]


def test_the_figures_are_those_of_the_network(trained, batches):
    found, model = read(trained), fgjax.load_classifier(trained)
    train, test = batches
    regions = [model.regions(jnp.asarray(b.images, jnp.float32) / 255) for b in batches]
    right = np.asarray(regions[1].logits).argmax(1) == test.labels
    assert found["accuracy"]["mean"] == pytest.approx(right.mean())
    centers = []
    for each in regions:
        q = np.asarray(each.assignment, np.float64)
        grid = np.stack(np.meshgrid(*[2 * np.arange(1, 25)] * 2), -1)  # x, y; 1-based, times 2
        centers.append(np.einsum("nhwk,hwc->nkc", q, grid) / q.sum((1, 2))[..., None])
    errors = fgjax.landmark_error(
        centers[0], train.landmarks.astype(float), centers[1], test.landmarks.astype(float),
        fit_boxes=train.boxes.astype(float), boxes=test.boxes.astype(float),
    )  # fmt: skip
    visible = (test.landmarks[..., 2] > 0).sum(1)
    wanted = 100 * (np.where(visible > 0, errors, 0) * visible).sum() / visible.sum()
    assert found["landmark_error"]["mean"] == pytest.approx(wanted, rel=1e-3)
    assert sum(v["visible"] for v in found["landmark_error"]["landmarks"].values()) == visible.sum()
    for label, name in enumerate(found["attention"]):
        own = np.asarray(regions[1].attention)[test.labels == label].mean(0)
        np.testing.assert_allclose(found["attention"][name], own, atol=1e-4)
    assert 0 <= found["pointing_error"]["mean"] <= 1 and found["fitted_on"] == 40
    assert len(found["occurrence"]["parts"]) == 3


def test_known_parts_and_factors_beside_it(trained, batches, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    assert read(run)["factorisation"] is None
    assert main([*WORDS, f"run_dir={run}", "parts.factors=10", "parts.gallery=1"]) == 0
    found, model = read(run), fgjax.load_classifier(run)
    source = make_source(resolve(list(WORDS))[1])
    known = np.stack([source.load(r).part_map for r in source.records if r.split == "test"])
    q = model.regions(jnp.asarray(batches[1].images, jnp.float32) / 255).assignment
    grouped = np.asarray(q).argmax(-1).repeat(2, 1).repeat(2, 2)  # 24 x 24 cells of 2 px
    own, every = grouped.ravel(), known.ravel()
    shares = [(own == k).mean() for k in range(3)]
    np.testing.assert_allclose(found["agreement"]["share_of_pixels"], shares, atol=1e-4)
    on_bird = [(every[own == k] > 0).mean() for k in range(3) if (own == k).any()]
    told = [v for v in found["agreement"]["share_on_the_animal"] if v is not None]
    np.testing.assert_allclose(told, on_bird, atol=1e-4)
    beside = found["factorisation"]
    assert beside["landmark_error"]["without"] == found["landmark_error"]["without"]
    assert 0 < beside["landmark_error"]["mean"] != found["landmark_error"]["mean"]
    assert 0 < beside["agreement"]["nmi_image"] < 1
    page = (run / "parts.html").read_text(encoding="utf-8")
    assert "agreement with the known parts" in page and "landmark error of DFF" in page
    assert main([*WORDS, f"run_dir={run}", "parts.fitted_on=validation"]) == 2
    assert "data.source=species sets no images aside" in capsys.readouterr().err


def test_the_files(trained):
    with (trained / "parts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and rows[0]["label"] == "Reedwing/spire-crested"
    for row in rows:
        assert sum(float(row[f"attention_{k}"]) for k in (1, 2, 3)) == pytest.approx(1, abs=1e-3)
        assert all(0 < float(row[f"x_{k}"]) < 48 for k in (1, 2, 3))
    page = (trained / "parts.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4 and "Emberquill/arrow-tailed" in page
    assert page.count("data:image/webp") == 12 and "http" not in page.replace("http-equiv", "")


def test_it_goes_on_and_says_other_settings(trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "parts.html").stat().st_mtime_ns
    assert main([*WORDS, f"run_dir={run}"]) == 0
    assert (run / "parts.html").stat().st_mtime_ns == before
    # Another gallery is made anew; nothing is trained again.
    assert main([*WORDS, f"run_dir={run}", "parts.gallery=2"]) == 0
    assert (run / "parts.html").read_text(encoding="utf-8").count("<figure>") == 2
    assert main([*WORDS, f"run_dir={run}", "parts.weight=0"]) == 2
    assert "parts.weight (was 0.5, is 0.0)" in capsys.readouterr().err


def test_wrong_options_are_told(tmp_path, capsys):
    for word, message in {
        "parts.backbone=resnet51": "parts.backbone=resnet51: one of resnet_tiny",
        "parts.number=0": "parts.number=0: must be above 0",
        "parts.weight=-1": "parts.weight=-1.0: must not be negative",
        "parts.beta=0": "parts.beta=0.0: must be above 0",
        "parts.view=all": "parts.view=all: wants one of crop, whole",
        "model.name=resnet_tiny": "resnet_tiny groups no pixels into parts",
        "data.attribute=all": "only data.source=celeba has attributes",
        "data.attribute=all data.source=celeba stages=[train,test]": "are judged by parts",
    }.items():
        words = [*WORDS, f"run_dir={tmp_path / 'run'}", *word.split()]
        assert main(words) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_its_attribution_is_compared(trained, tmp_path):
    words = ["config=compare_species", "data.size=48", "data.test_images=20", "data.limit=2",
             f"model.checkpoint={trained}/checkpoint", "compare.road=false",
             "compare.sensitivity=0", "compare.steps=2", "compare.randomised=0",
             f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    methods = "compare.methods=[region_attention,grad_cam]"
    assert main([*words, methods]) == 0
    about = json.loads((tmp_path / "run" / "compare.json").read_text(encoding="utf-8"))
    assert set(about["methods"]) == {"region_attention", "grad_cam"} and not about["left_out"]


@pytest.fixture
def faces(tmp_path):
    """Twelve faces of 48 × 64 whose eyes are dark squares, in CelebA's layout."""
    root, rng = tmp_path / "celeba", np.random.default_rng(0)
    (root / "img_align_celeba").mkdir(parents=True)
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "
    attributes = ["12", "Smiling Young"]
    landmarks, parts = ["12", points + "rightmouth_x rightmouth_y"], []
    for i in range(12):
        dx, dy = rng.integers(-6, 7, 2)
        image = rng.integers(120, 200, (64, 48, 3)).astype(np.uint8)
        marks = np.array([[16, 24], [32, 24], [24, 32], [18, 40], [30, 40]]) + [dx, dy]
        for x, y in marks:
            image[y - 2 : y + 2, x - 2 : x + 2] = (0, 0, 255 * (i % 2))
        Image.fromarray(image).save(root / f"img_align_celeba/{i}.png")
        attributes.append(f"{i}.png {1 if i % 2 else -1} {-1 if i % 3 else 1}")
        landmarks.append(f"{i}.png " + " ".join(map(str, marks.reshape(-1))))
        parts.append(f"{i}.png {0 if i < 7 else 2}")
    for name, rows in {"attr": attributes, "landmarks_align": landmarks}.items():
        name = f"list_{name}_celeba.txt"
        (root / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n", encoding="utf-8")
    return root


def test_attributes_need_a_head_each(faces, tmp_path, capsys):
    words = ["config=train_species", "data.source=celeba", "data.attribute=all", "stages=train",
             f"data.path={faces}", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    assert main(words) == 2
    assert "only model.name=region_grouping has an output for each" in capsys.readouterr().err


@pytest.mark.slow
def test_attributes_from_training_to_the_page(faces, tmp_path):
    """Shared parts, a head an attribute; landmarks by one regression, between the eyes."""
    words = ["config=parts_celeba", f"data.path={faces}", "data.size=48", "train.epochs=1",
             "model.pretrained=null", "parts.backbone=toys:MICRO", "parts.number=3",
             "train.batch_size=4", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    assert main(words) == 0
    found = read(tmp_path / "run")
    assert set(found["attributes"]) == {"Smiling", "Young"} == set(found["attention"])
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(list(found["attributes"].values())))
    assert "the eyes" in found["landmark_error"]["protocol"]
    assert set(found["landmark_error"]["landmarks"]) >= {"lefteye", "nose"}
    model = fgjax.load_classifier(tmp_path / "run")
    assert model.classes == ("Smiling", "Young") and model.network.attributes


def test_the_original_photographs_of_celeba(faces):
    shutil.copytree(faces / "img_align_celeba", faces / "img_celeba")
    marks = (faces / "list_landmarks_align_celeba.txt").read_text(encoding="utf-8")
    (faces / "list_landmarks_celeba.txt").write_text(marks, encoding="utf-8")
    boxes = ["12", "image_id x_1 y_1 width height", *(f"{i}.png 4 8 40 48" for i in range(12))]
    (faces / "list_bbox_celeba.txt").write_text("\n".join(boxes) + "\n", encoding="utf-8")
    words = ["config=parts_celeba", f"data.path={faces}", "data.size=48"]
    for aligned in (True, False):
        _, config, _ = resolve([*words, f"data.aligned={str(aligned).lower()}"])
        source = make_source(config, whole=True)
        example = source.load(source.records[0])
        assert example.image.shape == (64, 48, 3) and (example.box is None) == aligned


@pytest.mark.slow
def test_whole_images_of_several_shapes(trained, tmp_path, picture):
    """The network is fully convolutional: shapes come in batches of their own."""
    folder = tmp_path / "birds"
    names = fgjax.load_classifier(trained).classes[:2]
    for k, name in enumerate(names):
        (folder / "test" / name.replace("/", "-")).mkdir(parents=True)
        (folder / "train" / name.replace("/", "-")).mkdir(parents=True)
        for i, size in enumerate([(60, 48), (48, 70), (60, 48), (100, 50)]):
            image = picture(4 * k + i).resize(size)
            image.save(folder / "test" / name.replace("/", "-") / f"{i}.png")
    words = ["config=parts_folder", f"data.path={folder}", "data.size=48", "data.crop=1",
             "stages=parts", "parts.view=whole", "explain.target=predicted",
             f"model.checkpoint={trained}/checkpoint", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    assert main(words) == 0
    found = read(tmp_path / "run")
    assert found["images"] == 8 and found["landmark_error"] is None
    assert found["pointing_error"] is None and "fully convolutional" in found["view"]
    with (tmp_path / "run" / "parts.csv").open(encoding="utf-8", newline="") as file:
        places = {row["name"]: float(row["x_1"]) for row in csv.DictReader(file)}
    assert len(places) == 8
