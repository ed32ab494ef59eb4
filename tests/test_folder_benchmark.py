"""`benchmarks/train_folder.py`: what its trainings see, and what its tables say of them."""

import numpy as np
import pytest
from test_benchmarks import load

from fgjax.data.sets.folder import FolderSource
from fgjax.models.classifier import create_model
from fgjax.options.resolve import resolve


@pytest.fixture
def six_a_class(tmp_path):
    """Two classes with six training and two test images, which are empty files."""
    train, test = (
        {name: [tmp_path / f"{split}_{name}_{i}.png" for i in range(count)] for name in "ab"}
        for split, count in (("train", 6), ("test", 2))
    )
    for path in (path for part in (train, test) for every in part.values() for path in every):
        path.touch()
    return load("train_folder").Files(train, test)


def test_which_images_are_trained_on_follows_the_seed_and_more_hold_the_fewer(
    six_a_class, tmp_path
):
    folder = load("train_folder")

    def drawn(each, seed):
        root = tmp_path / f"{each}_{seed}"
        folder.lay_out(six_a_class, each, seed, root)
        records = FolderSource(root).records
        return {split: {r.name for r in records if r.split == split} for split in ("train", "test")}

    few, more, other = drawn("2", 0), drawn("5", 0), drawn("2", 1)
    assert len(few["train"]) == 4 and len(more["train"]) == 10 and few["train"] < more["train"]
    assert few["train"] != other["train"]
    assert len(few["test"]) == 4 and few["test"] == more["test"] == other["test"]
    assert folder.counts("uneven", 3) == [5, 25, 5]
    with pytest.raises(ValueError, match="a has 6 training images, not 7"):
        drawn("7", 0)


def test_halves_of_the_birds_share_no_species(tmp_path):
    folder, names = load("train_folder"), ["001.A", "002.B", "003.C", "004.D"]
    files = {"images.txt": [], "image_class_labels.txt": [], "train_test_split.txt": [],
             "bounding_boxes.txt": [], "classes.txt": [], "parts/parts.txt": ["1 tail"],
             "parts/part_locs.txt": []}  # fmt: skip
    for label, name in enumerate(names, 1):
        files["classes.txt"].append(f"{label} {name}")
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            number = 3 * label + i
            files["images.txt"].append(f"{number} {name}/{number}.jpg")
            files["image_class_labels.txt"].append(f"{number} {label}")
            files["train_test_split.txt"].append(f"{number} {int(i < 2)}")
            files["bounding_boxes.txt"].append(f"{number} 0 0 1 1")
            files["parts/part_locs.txt"].append(f"{number} 1 0 0 0")
            (tmp_path / "images" / name / f"{number}.jpg").touch()
    halves = folder.FIRST, folder.LAST
    (tmp_path / "parts").mkdir()
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    first, last = (folder.find_files(half, tmp_path, tmp_path) for half in halves)
    assert [*first.train, *last.train] == names
    for part in (first, last):
        assert [len(paths) for paths in part.train.values()] == [2, 2]
        assert [len(paths) for paths in part.test.values()] == [1, 1]
        assert all(path.parent.name == name for name, every in part.test.items() for path in every)


@pytest.mark.slow
def test_statistics_that_are_given_back_are_those_of_the_images_and_change_nothing(key):
    folder = load("train_folder")
    model = create_model("toys:MICRO", 3, size=32, key=key)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 32, 32, 3), np.uint8)
    live, x = folder.with_statistics(model, images), images.astype(np.float32) / 255
    np.testing.assert_allclose(live(x), model(x), rtol=1e-4, atol=1e-5)
    # By its own statistics the batch is normalised as by those that were noted.
    by_batch, _ = live.network.apply(
        live.variables, live.normalise(x), train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(by_batch, model(x), rtol=1e-3, atol=1e-4)
    other, _ = model.network.apply(
        model.variables, model.normalise(x), train=True, mutable=["batch_stats"]
    )
    assert np.abs(other - model(x)).max() > 0.01


def test_train_folder_is_what_was_chosen():
    folder = load("train_folder")
    words = [f"train.{name}={value}" for name, value in folder.CHOSEN.items()]
    chosen = resolve(["config=train_folder", "data.path=images", *words])[1]
    assert resolve(["config=train_folder", "data.path=images"])[1].train == chosen.train


def test_trainings_that_are_done_stay_and_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    folder, out, made = load("train_folder"), tmp_path / "rows.csv", []

    class Bench:
        def __init__(self, *given):
            pass

        def row(self, job):
            made.append(job)
            about = {"accuracy": 0.5, "cpu_seconds": 1.0, "settings": folder.told(job, 32)}
            return {**job._asdict(), **about}

    monkeypatch.setattr(folder, "Bench", Bench)
    paths = ["--birds", "b", "--butterflies", "b", "--weights", "w", "--out", str(out)]
    words = [*paths, "--size", "32", "--steps", "uneven"]
    assert folder.main([*words, "--arms", folder.AS_IT_IS]) == 0 and len(made) == 2
    assert folder.main(words) == 0
    assert [(job.arm, job.seed) for job in made[2:]] == [
        (arm, seed) for seed in (0, 1) for arm in list(folder.BALANCE)[1:]
    ]
    with pytest.raises(SystemExit):
        folder.main([*words[:-3], "64", *words[-2:]])
    assert "data.size=32" in capsys.readouterr().err and len(made) == 6


def test_differences_are_between_the_same_test_images(tmp_path):
    from tables.training import folder_choice_table, folder_table

    rows = ["step,data,each,arm,seed,accuracy,cpu_seconds,right"]
    for step in ("report", "rest"):
        plain = "before" if step == "report" else "as it is"
        for arm, seed, right in (
            (plain, 0, "1100"), (plain, 1, "1000"), ("other", 0, "1111"), ("other", 1, "1100"),
            ("other", 2, "0000"),
        ):  # fmt: skip
            share = right.count("1") / 4
            rows.append(f"{step},birds,10,{arm},{seed},{share},60,{right}")
    (tmp_path / "train_folder.csv").write_text("\n".join(rows) + "\n")
    cells = lambda table: [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]
    ]
    # Of the two seeds that both have, image by image: 0, .5, .5, .5; t of three is 3.182.
    gain = "+37.5 (-2.3 to +77.3)"
    before, other = cells(folder_table(tmp_path))
    assert before == ["before", "37.5 ± 17.7", ""]
    assert other == ["other", "50.0 ± 50.0", gain]
    plain, other = cells(folder_choice_table(tmp_path))
    assert plain == ["rest", "10", "as it is", "37.5 ± 17.7", "", "60", "2"]
    assert other == ["rest", "10", "other", "50.0 ± 50.0", gain, "60", "3"]
