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
# # TPU and GPU: all devices
#
# One image per device at a time, or many: methods keep every device busy by themselves. Here is what
# this machine does, beside two CPU cores.

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
import time

from fgjax.devices.found import devices_line, unused_accelerator
from fgjax.devices.mesh import make_mesh, spread

print(devices_line())
print(unused_accelerator() or "nothing better is left unused")

# %% [markdown]
# ResNet-18 at 224 pixels, weights drawn at random (the work is the same). `spread` splits each batch that
# reaches the model over all devices; a run does it by itself (`parallel=auto`).

# %%
tiny = bool(os.environ.get("FGJAX_TINY"))
side, masks = (32, 8) if tiny else (224, 64)
network = fgjax.create_model("resnet_tiny" if tiny else "resnet18", 10, size=side)
model = spread(network, make_mesh())
photo = jnp.asarray(np.random.default_rng(0).random((1, side, side, 3)), jnp.float32)
target = jnp.array([0])
WORK = {
    f"RISE, {masks} masks": (fgjax.rise, fgjax.RiseConfig(masks=masks), 1.92),
    "gradient": (fgjax.gradient, fgjax.GradientConfig(), 0.095),
}
print(f"{'':20} seconds here | on two CPU cores (the speed table of the docs)")
for name, (method, config, table) in WORK.items():
    seconds = []
    for _ in range(3):  # the first one compiles
        began = time.perf_counter()
        jax.block_until_ready(
            method(model, photo, target, key=jax.random.key(0), config=config).heatmap
        )
        seconds.append(time.perf_counter() - began)
    print(f"{name:20} {min(seconds):.4f}       | {'' if tiny else table}")

# %% [markdown]
# A run over everything a machine has, and over many machines: `distributed.coordinator=auto`.

# %%
main([*BIRDS, "stages=explain", "parallel=auto", "explain.precision=f32"])
