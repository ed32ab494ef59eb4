import threading
import time
from collections import Counter

import numpy as np
import pytest

from fgjax.data.pipeline import (
    balanced_order,
    epoch_order,
    fingerprint,
    load_batch,
    load_examples,
    stack,
    take,
)
from fgjax.data.types import DataError, Example, Record


class Numbers:
    """Image i is filled with the number i; some fail, early ones are slow."""

    classes = ("even", "odd")
    landmark_names = ()

    def __init__(self, count=30):
        self.records = tuple(Record(f"{i}", i % 2, "train") for i in range(count))
        self.lock = threading.Lock()
        self.started = 0

    def load(self, record):
        with self.lock:
            self.started += 1
        number = int(record.name)
        if number < 4:
            time.sleep(0.02)
        if number == 5:
            raise DataError("5.jpg: the file is empty")
        if number == 7:
            raise KeyError("seven")
        return Example(np.full((16, 16, 3), number, np.uint8), record.label)


@pytest.mark.parametrize("workers", [1, 4, None])
def test_in_order_with_errors_in_their_place(workers):
    source = Numbers()
    loaded = list(load_examples(source, source.records, workers=workers))
    assert [position for position, _ in loaded] == list(range(30))
    for position, outcome in loaded:
        if position in (5, 7):
            assert isinstance(outcome, DataError)
        else:
            assert (outcome.image == position).all()
    assert str(loaded[5][1]) == "5.jpg: the file is empty"
    assert "7: could not be loaded: KeyError: 'seven'" in str(loaded[7][1])
    assert isinstance(loaded[7][1].__cause__, KeyError)


def test_raises_on_request():
    source = Numbers()
    loaded = load_examples(source, source.records, workers=2, on_error="raise")
    assert [next(loaded)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match=r"5.jpg: the file is empty"):
        next(loaded)


def test_decodes_in_parallel():
    barrier = threading.Barrier(3, timeout=10)  # opens when three threads are inside

    class Meeting(Numbers):
        def load(self, record):
            barrier.wait()
            return super().load(record)

    source = Meeting(3)
    assert len(list(load_examples(source, source.records, workers=3))) == 3
    assert not barrier.broken


def test_look_ahead_is_bounded_and_ends_with_the_reader():
    source = Numbers(1000)
    loaded = load_examples(source, source.records, workers=2)
    next(loaded)
    time.sleep(0.2)
    assert 2 <= source.started <= 4 * 2 + 1
    before = threading.active_count()
    loaded.close()
    assert source.started <= 4 * 2 + 1
    assert threading.active_count() < before


def test_nothing_to_load():
    assert list(load_examples(Numbers(), ())) == []


def test_failures_do_not_keep_images_alive():
    import gc
    import weakref

    class Failing(Numbers):
        def load(self, record):
            image = np.zeros((16, 16, 3), np.uint8)
            self.image = weakref.ref(image)
            raise DataError(f"the mask does not fit {image.shape}")

    source = Failing(1)
    failures = list(load_examples(source, source.records, workers=1))
    gc.collect()
    assert failures and source.image() is None


def full_example(number, size=16):
    flat = np.zeros((size, size), bool)
    flat[number, number] = True
    return Example(
        image=np.full((size, size, 3), number, np.uint8),
        label=number,
        box=np.array([0, 1, 2, number], np.float64),
        mask=flat,
        cue=~flat,
        landmarks=np.full((2, 3), number, np.float64),
    )


def test_stack():
    bare = Example(np.zeros((16, 16, 3), np.uint8))
    batch = stack([full_example(3), bare, full_example(4)])
    assert batch.images.shape == (3, 16, 16, 3) and batch.images.dtype == np.uint8
    assert batch.labels.tolist() == [3, -1, 4]
    assert batch.boxes.dtype == np.float32
    np.testing.assert_array_equal(batch.boxes, [[0, 1, 2, 3], [np.nan] * 4, [0, 1, 2, 4]])
    assert batch.has_mask.tolist() == [True, False, True] == batch.has_cue.tolist()
    assert batch.masks.sum(axis=(1, 2)).tolist() == [1, 0, 1]
    assert batch.cues.sum(axis=(1, 2)).tolist() == [255, 0, 255]
    assert batch.landmarks[:, 0, 2].tolist() == [3, 0, 4]


def test_stack_without_annotations():
    batch = stack([Example(np.zeros((16, 20, 3), np.uint8))] * 2)
    assert batch.masks.shape == (2, 16, 20) and not batch.has_mask.any()
    assert batch.landmarks.shape == (2, 0, 3) and np.isnan(batch.boxes).all()


def test_stack_refuses_what_does_not_fit_together():
    with pytest.raises(ValueError, match="one image size"):
        stack([full_example(1), full_example(1, size=20)])
    with pytest.raises(ValueError, match="one image size"):
        stack([])
    other = Example(full_example(1).image, landmarks=np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"one number of landmarks, not \[2, 5\]"):
        stack([full_example(1), other])


def test_load_batch():
    source = Numbers()
    batch = load_batch(source, source.records[8:12])
    assert batch.images[:, 0, 0, 0].tolist() == [8, 9, 10, 11]
    assert batch.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match="seven"):
        load_batch(source, source.records[6:9])


def test_balanced_order():
    labels = np.repeat([4, 7, 9], [50, 8, 3])
    seen = []
    for epoch in range(30):
        order = balanced_order(0, epoch, labels)
        assert len(order) == 61
        counts = [int((labels[order] == c).sum()) for c in (4, 7, 9)]
        assert sorted(counts) == [20, 20, 21]
        frequent = order[labels[order] == 4]
        assert len(set(frequent.tolist())) == len(frequent)  # none twice
        times = [int((order == i).sum()) for i in range(58, 61)]
        assert min(times) >= 6 and max(times) <= 7
        seen += frequent.tolist()
        np.testing.assert_array_equal(order, balanced_order(0, epoch, labels))
    assert len(set(seen)) == 50  # over the epochs all come up
    halves = labels[order][:30], labels[order][30:]
    assert all(np.unique(half).tolist() == [4, 7, 9] for half in halves)


def test_epoch_order():
    order = epoch_order(seed=3, epoch=5, n=1000)
    assert sorted(order) == list(range(1000))
    np.testing.assert_array_equal(order, epoch_order(3, 5, 1000))
    for other in (epoch_order(3, 6, 1000), epoch_order(4, 5, 1000), epoch_order(5, 3, 1000)):
        # Two independent orders agree in one place on average (Poisson).
        assert (order == other).sum() < 10
    assert epoch_order(0, 0, 0).shape == (0,)
    # Written down: a run must resume in the same order on another machine.
    assert epoch_order(0, 0, 8).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_every_order_is_equally_likely():
    counts = Counter(tuple(epoch_order(0, epoch, 3).tolist()) for epoch in range(3000))
    assert len(counts) == 6
    chi_square = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi_square < 20.5  # 0.1 % for 5 degrees of freedom


def test_take():
    records = [
        Record(f"{label}/{split}/{i}", label, split)
        for label, count in ((0, 5), (1, 1), (2, 5))
        for split in ("train", "test")
        for i in range(count)
    ]
    kept = take(records, 4)
    assert [record.name for record in kept if record.split == "train"] == [
        "0/train/0",
        "0/train/1",
        "1/train/0",
        "2/train/0",
    ]
    assert sum(record.split == "test" for record in kept) == 4
    assert sorted(kept, key=records.index) == list(kept)
    assert take(records, None) == tuple(records) == take(records, 100)
    with pytest.raises(ValueError, match="at least 1"):
        take(records, 0)


def test_fingerprint(tmp_path):
    class Files(Numbers):
        def file(self, record):
            return tmp_path / record.name

    def of(source, **changes):
        for name, value in changes.items():
            setattr(source, name, value)
        return fingerprint(source)

    (tmp_path / "0").write_bytes(b"abc")
    base = of(Files(3))
    assert base == of(Files(3))
    records = Files(3).records
    renamed = (Record("other", 0, "train"), *records[1:])
    moved = (Record("0", 0, "test"), *records[1:])
    relabelled = (Record("0", 1, "train"), *records[1:])
    others = [
        of(Files(3), records=renamed),
        of(Files(3), records=moved),
        of(Files(3), records=relabelled),
        of(Files(3), records=records[:2]),
        of(Files(3), classes=("even", "uneven")),
        of(Files(3), landmark_names=("beak",)),
        of(Numbers(3)),
    ]
    (tmp_path / "0").write_bytes(b"abcd")
    others.append(of(Files(3)))
    assert len({base, *others}) == 1 + len(others)
