import numpy as np
import pytest
from PIL import Image

from fgjax.report.contents import Entry
from fgjax.report.figures import safe_name, write_figures


def entry(name: str) -> Entry:
    heat = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    return Entry(name, np.zeros((8, 8, 3), np.uint8), {"heatmap": heat}, label="a", predicted="b")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("species/0001.jpg", "species_0001"),
        ("../../etc/passwd", "etc_passwd"),
        ("/abs/x.PNG", "abs_x"),
        ("..", "image"),
        ("", "image"),
        ("日本/é\u2028.jpeg", "image"),
        ("a b\0c\nd", "a_b_c_d"),
        ("C:\\x\\y.jpg", "C_x_y"),
        (".hidden", "hidden"),
        ("x" * 500, "x" * 100),
    ],
)
def test_safe_name(name, stem):
    assert safe_name(name) == stem


def test_figures_stay_in_their_folder_and_never_collide(tmp_path):
    names = ["../../up.jpg", "..", "", "a/b.jpg", "a_b.png", "A_B", "a_b-2", "\ud800/x\0.jpg"]
    files = write_figures(tmp_path / "new" / "figures", (entry(n) for n in names), cell=32)
    assert len({str(f).lower() for f in files}) == len(names)
    assert sorted(files) == sorted((tmp_path / "new" / "figures").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    with Image.open(files[3]) as picture:
        assert picture.format == "PNG" and picture.width == 3 * (32 + 6) + 6
