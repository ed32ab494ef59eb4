# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own folder
#
# A folder of photographs is enough: class folders, or images without classes. Put yours where
# `PHOTOS` points; until then drawn birds lie there, and the classifier is the one of the drawn birds.

# %%
# Colab brings JAX with its GPU or TPU: it is left as it is, so nothing has to be restarted.
import importlib.util

if importlib.util.find_spec("fgjax") is None:
    get_ipython().run_line_magic("pip", "install -q fgjax")

# %%
import os

import jax
import jax.numpy as jnp
import numpy as np

import fgjax
from fgjax.run import main

# Drawn birds whose species differ in one small part, and a small ResNet; both made here.
BIRDS = [
    "config=fido_demo",
    "run_dir=runs/birds",
    "data.train_images=1500",
    "train.epochs=6",
    "data.limit=8",
]
if os.environ.get("FGJAX_TINY"):  # how the tests of this notebook run it
    BIRDS = [
        "config=fido_demo",
        "run_dir=runs/birds",
        "data.size=32",
        "data.train_images=40",
        "data.test_images=8",
        "data.limit=3",
        "train.epochs=1",
        "explain.steps=2",
        "explain.batch_size=2",
        "explain.initial=0.5",
    ]
main([*BIRDS, "stages=train"])  # a second time it finds the trained one

# %%
from pathlib import Path

from PIL import Image

from fgjax.data.species.source import SpeciesSource

PHOTOS, LABELS = Path("photos"), Path("photos.txt")
if not PHOTOS.exists():
    bird_model = fgjax.load_classifier("runs/birds")
    names = [name.replace("/", " ") for name in bird_model.classes]
    LABELS.write_text("\n".join(names))  # line i names output i
    source = SpeciesSource(size=bird_model.size, train=8, test=6)
    for i, record in enumerate(r for r in source.records if r.split == "test"):
        folder = PHOTOS / names[record.label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.load(record).image).resize((120, 90)).save(folder / f"{i}.png")

# %% [markdown]
# With a classifier of your own: `model.weights=FILE.safetensors model.labels=FILE`. Without one,
# leave both out and train: `model.pretrained=FILE train.epochs=12`.

# %%
own = [
    "config=fido_folder",
    f"data.path={PHOTOS}",
    "run_dir=runs/photos",
    "data.test_share=1.0",
    "model.checkpoint=runs/birds/checkpoint",
    f"model.labels={LABELS}",
]
own += [word for word in BIRDS if word.startswith(("data.size", "explain."))] or ["data.size=96"]
main([*own, "stages=explain,evaluate,report,look"])

# %% [markdown]
# `report.html` has the pictures, `look.html` those that deserve a look, and `field.csv` a row for each
# file. `megadetector.json` is read by Timelapse. A detector's boxes cut the animals out first:
# `data.boxes=FILE.json`.

# %%
print(Path("runs/photos/field.csv").read_text()[:600])
maps = fgjax.load_maps("runs/photos")
{name: values.shape for name, values in maps.items()}
