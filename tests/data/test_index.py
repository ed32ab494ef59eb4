import numpy as np
import pytest

from fgjax.data.index import inclusive_box, inside, label_of
from fgjax.data.types import DataError


@pytest.mark.parametrize("path", ["a/b.jpg", "a b/c..d.jpg", "..a/.../x", "ab:c.jpg", "a\\b.jpg"])
def test_paths_that_stay(path):
    assert inside("here", path, "images/") == path


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/..", "a/../b", "a\n/../b", "a\\..\\b", "/x", "\\x", "C:\\x", "c:x"]
)
def test_paths_that_lead_out(path):
    with pytest.raises(DataError, match=r"here leads out of the folder images/; it is refused"):
        inside("here", path, "images/")


def test_inclusive_box():
    # The first pixel alone reaches from 0 to 1.
    np.testing.assert_array_equal(inclusive_box("here", [1.0, 1.0, 1.0, 1.0]), [0, 0, 1, 1])
    np.testing.assert_array_equal(inclusive_box("here", [3.0, 5.0, 10.0, 20.0]), [2, 4, 10, 20])


def test_classes_count_from_one():
    assert label_of("here", 1) == 0 and label_of("here", 3.0, 3) == 2
    for number in (0, -1, 2.5, "2", 4):
        with pytest.raises(DataError, match=rf"here: class {number} is out of range"):
            label_of("here", number, 3)
