"""Maps in a notebook: what is drawn, and what is kept."""

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

import fgjax
from fgjax.report.overlay import overlay


@pytest.fixture(autouse=True)
def closed():
    matplotlib.use("agg")
    yield
    pyplot.close("all")


def result(n=2, side=16):
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, side), (n, side, side))
    maps = {"sdr": ramp, "ssr": ramp.transpose(0, 2, 1), "signed": 2 * ramp - 1}
    return fgjax.Attribution(ramp**2, maps, {"p_kept": jnp.ones((n, 3)) / 2})


IMAGES = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)


def test_a_row_an_image_and_a_column_a_map():
    figure = fgjax.show(IMAGES, result(), titles=["robin", "wren"], colormap="viridis")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:3] == ["robin", "SSR", "SDR"] and titles[6:7] == ["wren"]
    assert "scaled from -1 … 1" in titles[3] and titles[4:6] == ["Joint", "Joint > 0.5"]
    shown = [axis.images[0].get_array() for axis in figure.axes]
    np.testing.assert_array_equal(shown[0], np.rint(255 * IMAGES[0]))
    wanted = overlay(shown[0], np.asarray(result().maps["ssr"][0]), colormap="viridis")
    np.testing.assert_array_equal(shown[1], wanted)
    above = np.asarray(result().heatmap[0]) > 0.5
    np.testing.assert_array_equal(shown[5][:, 0], shown[0][:, 0] // 3)  # below
    assert (shown[5][above] == shown[0][above]).all(-1).sum() >= above.sum() - 16  # its contour


def test_one_image_and_a_bare_map():
    image = (255 * IMAGES[0]).astype(np.uint8)
    figure = fgjax.show(image, np.eye(8))
    assert [axis.get_title() for axis in figure.axes] == ["image", "Heatmap", "Heatmap > 0.5"]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)
    assert len(fgjax.show(IMAGES, result(), maps=["ssr"]).axes) == 2 * 3


@pytest.mark.parametrize(
    ("images", "given", "how", "message"),
    [
        (IMAGES.transpose(0, 3, 1, 2), result(), {}, "channels come last"),
        (IMAGES * 255, result(), {}, "in \\[0, 1\\]"),
        (IMAGES[:1], result(), {}, "for 1 images"),
        (IMAGES, result(), {"maps": ["srs"]}, "no map 'srs': there are ssr"),
    ],
)
def test_what_does_not_fit_is_told(images, given, how, message):
    with pytest.raises(ValueError, match=message):
        fgjax.show(images, given, **how)


def test_in_a_notebook_it_is_shown_once(monkeypatch):
    fgjax.show(IMAGES, result())
    assert len(pyplot.get_fignums()) == 1
    pyplot.close("all")
    monkeypatch.setattr(pyplot, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    figure = fgjax.show(IMAGES, result())  # the value of the cell: the open ones come, too
    assert pyplot.get_fignums() == [] and len(figure.axes) == 12


def test_a_result_is_saved_and_read_again(tmp_path):
    folder = result().save(tmp_path / "new" / "folder")
    again = fgjax.Attribution.load(folder)
    for a, b in [
        (again.heatmap, result().heatmap),
        (again.traces["p_kept"], jnp.full((2, 3), 0.5)),
    ]:
        np.testing.assert_array_equal(a, b)
    assert set(again.maps) == {"ssr", "sdr", "signed"}
    names = {file.name for file in folder.iterdir()}
    wanted = {f"{name}_000{i}.png" for name in ("heatmap", "ssr", "sdr") for i in (0, 1)}
    assert names == {"attribution.npz", *wanted}  # no picture of what leaves [0, 1]
    grey = np.asarray(Image.open(folder / "heatmap_0001.png"))
    np.testing.assert_allclose(grey / 255, result().heatmap[1], atol=0.5 / 255)


def test_a_folder_without_a_result(tmp_path):
    with pytest.raises(ValueError, match="no attribution.npz here"):
        fgjax.Attribution.load(tmp_path)
    (tmp_path / "attribution.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match="explain and save again"):
        fgjax.Attribution.load(tmp_path)
