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
# # Reproduce the papers' tables
#
# Each table of the papers behind this package is a config. On a CPU the drawn birds show what the numbers
# are; with CUB-200-2011 the same commands run on photographs.

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

# %% [markdown]
# | table | command |
# |---|---|
# | FIDO: overlap and coherence of masks | `fgjax config=fido_cub data.path=CUB_200_2011` |
# | FIDO: test-time augmentation by crops | `fgjax config=tta_cub data.path=CUB_200_2011` |
# | region grouping: landmark error, accuracy | `fgjax config=parts_cub data.path=CUB_200_2011` |
# | GLAS: pointing game | `fgjax config=compare_butterflies data.path=leedsbutterfly` |
# | proxy attention: grid of its settings | `fgjax config=proxy_grid data.path=CUB_200_2011` |
# | finer attention: ablation | `fgjax config=focus_ablation data.path=CUB_200_2011` |
#
# `dry_run=true` says first how long each takes. Below: masks of FIDO under the published settings.

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
from fgjax.evaluation import evaluate_maps, total_variation

steps = 2 if os.environ.get("FGJAX_TINY") else 30
cues = jnp.asarray(batch.cues)
print(f"{'':12} overlap of the joint mask | its total variation | area")
for name in ("chang-2019", "korsch-2023", "default"):
    config = fgjax.fido_preset(name, steps=steps, batch_size=4 if steps == 2 else 8)
    heat = fgjax.fido(model, images, targets, key=jax.random.key(0), config=config).heatmap
    overlap = float(np.nanmean(evaluate_maps(heat, cues=cues)["iou_cue"]))
    rough, area = float(total_variation(heat).mean()), float((heat > 0.5).mean())
    print(f"{name:12} {overlap:25.3f} | {rough:19.1f} | {area:.3f}")
