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
# # Find a classifier's mistakes
#
# A classifier may be right for the wrong reason. Here one is trained on birds whose background goes with
# the species; what it has learnt is found by looking at its maps.

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
cheat = [word for word in BIRDS if not word.startswith("run_dir")]
cheat += ["run_dir=runs/cheat", "data.shortcut=true"]
main([*cheat, "stages=train,explain,evaluate,look"])

# %% [markdown]
# `look.html` shows the images with a reason to look, the worst first: sure and wrong, nearly the same as a
# training image, explained by the background, unsure. The same as a table:

# %%
import csv
from collections import Counter

with open("runs/cheat/field.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
counts = Counter(reason for row in rows for reason in row["reasons"].split("; ") if reason)
print(len(rows), "images:", dict(counts))
for row in rows[:4]:
    print(
        row["path"],
        "|",
        row["class"],
        "| predicted",
        row["predicted"],
        row["p"],
        "|",
        row["reasons"],
    )

# %% [markdown]
# How much of each map lies on the bird, of this classifier and of one that could not cheat:

# %%
import json

main([*BIRDS, "stages=train,explain,evaluate"])
for run in ("birds", "cheat"):
    with open(f"runs/{run}/metrics.json", encoding="utf-8") as file:
        metric = json.load(file)["metrics"]["energy_in_object"]
    print(
        f"{run}: {metric['mean']:.3f} ({metric['interval_95'][0]:.3f} to {metric['interval_95'][1]:.3f})"
    )
