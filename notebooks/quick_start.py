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
# # Quick start
#
# From nothing to explained images: birds are drawn, a small ResNet learns their species, and
# FIDO shows which pixels its decisions rest on.

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

# %% [markdown]
# FIDO learns two masks of each image: the smallest region that suffices (SSR) and the smallest that
# destroys (SDR). The joint mask is what both say.

# %%
config = fgjax.FidoConfig(steps=4 if os.environ.get("FGJAX_TINY") else 30)
result = fgjax.fido(model, images, targets, key=jax.random.key(0), config=config)
fgjax.show(images, result, titles=names)

# %% [markdown]
# How much of an image does the decision need? The model is asked: with only the best pixels shown,
# and with them replaced.

# %%
found = fgjax.smallest_regions(model, images, targets, result)
share = lambda area: f"{area:.1%}" if np.isfinite(area) else "–"  # –: no share does it
print(f"{'':24} suffices | without it the class is lost")
for name, kept, gone in zip(names, found.kept.area, found.destroyed.area):
    print(f"{name:24} {share(kept):>8} | {share(gone)}")

# %% [markdown]
# The maps are kept as numbers and as pictures; `fgjax.Attribution.load` reads them again.

# %%
result.save("birds_fido")
sorted(os.listdir("birds_fido"))[:4]

# %% [markdown]
# The same as a run: everything on disk, with numbers, and a page that opens anywhere.

# %%
main([*BIRDS, "report.figures=2"])
print("open runs/birds/report.html")
