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
# # Compare methods
#
# The same images and model under many methods, and how each map is judged.

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
from fgjax.data.pipeline import load_batch, take
from fgjax.data.species.source import SpeciesSource

model = fgjax.load_classifier("runs/birds")
source = SpeciesSource(size=model.size, train=8, test=40)
records = take([r for r in source.records if r.split == "test"], 4)
batch = load_batch(source, records)
images = jnp.asarray(batch.images / np.float32(255))  # n h w 3, RGB in [0, 1]
targets = jnp.asarray(batch.labels)
names = [source.classes[label] for label in batch.labels]

# %%
quick = bool(os.environ.get("FGJAX_TINY"))
METHODS = {
    "gradient": fgjax.GradientConfig(),
    "grad_cam": fgjax.GradCamConfig(),
    "glas": fgjax.GlasConfig(grid=3 if quick else 9),
    "rise": fgjax.RiseConfig(masks=20 if quick else 500),
    "fido": fgjax.FidoConfig(steps=2 if quick else 30),
}
maps = {
    name: fgjax.METHODS[name](model, images, targets, key=jax.random.key(0), config=config).heatmap
    for name, config in METHODS.items()
}
fgjax.show(images, maps, titles=names)

# %% [markdown]
# Of drawn birds the deciding part is known to the pixel. Beside each method, maps that know nothing:
# what does not beat them says nothing.

# %%
from fgjax.evaluation import center_box_of_area, evaluate_maps

cues = jnp.asarray(batch.cues)
maps["centre box"] = center_box_of_area(jnp.full(len(images), 0.1), model.size, model.size)
print(f"{'':12} energy in the deciding part | overlap at .5")
for name, heat in maps.items():
    values = evaluate_maps(jnp.asarray(heat), cues=cues)
    energy, overlap = (float(np.nanmean(values[k])) for k in ("energy_in_cue", "iou_cue"))
    print(f"{name:12} {energy:27.3f} | {overlap:.3f}")

# %% [markdown]
# With every number, its interval and a page: `config=compare_species`, or your own folder with
# `config=compare_butterflies data.path=FOLDER`.
