"""A step of training a classifier: cross-entropy, the gradient of all weights, SGD."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from torch_resnet import torch

from fgjax.training.augment.geometry_and_light import Augmentation
from fgjax.training.classifier import Recipe, start, train_step
from torch_methods.case import Case, Setup, channels_last, to_torch

RATE, MOMENTUM = 0.01, 0.9
CHECKED = 3
"""Steps whose losses are compared."""


def images_8_bit(setup: Setup) -> np.ndarray:
    """Return what a data set holds: both sides make them float."""
    return np.round(setup.images * 255).astype(np.uint8)


def our_training(setup: Setup, model, **recipe):
    """Return a call that makes one step and gives its loss, and the step's FLOP by XLA's
    account."""
    if setup.precision == "bf16":
        model = model.replace(network=model.network.clone(dtype=jnp.bfloat16))
    recipe = Recipe(optax.sgd(RATE, momentum=MOMENTUM), Augmentation(flip=False), **recipe)
    state = [jax.tree.map(jnp.array, start(model, recipe))]
    data = jax.device_put((images_8_bit(setup), setup.targets.astype(np.int32), jax.random.key(0)))
    step = partial(train_step, network=model.network, mean=model.mean, std=model.std, recipe=recipe)

    def call():
        state[0], loss = step(state[0], *data)
        return np.asarray(loss)

    def flops():
        lowered = train_step.lower(
            state[0], *data, network=model.network, mean=model.mean, std=model.std, recipe=recipe
        )
        return lowered.cost_analysis()["flops"]

    return call, flops


def torch_training(setup: Setup, loss_of):
    """Return a function of a network: makes one step of it and gives the loss."""
    if setup.theirs is None:
        return None
    x = to_torch(images_8_bit(setup).transpose(0, 3, 1, 2), setup.device)
    y = to_torch(setup.targets.astype(np.int64), setup.device)
    x = channels_last(x)
    optimizers = {}

    def call(model, draw):
        if id(model) not in optimizers:
            weights = list(model.parameters())
            optimizers[id(model)] = torch.optim.SGD(weights, RATE, momentum=MOMENTUM)
        optimizer = optimizers[id(model)]
        optimizer.zero_grad()
        loss = loss_of(model(x.float() / 255), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


def make_case(ours, flops, theirs, network, unit) -> Case:
    """Before it is timed, three losses of both sides are compared."""
    return Case(
        ours,
        theirs,
        network,
        {"training": 1},
        check=(
            lambda: np.stack([ours() for _ in range(CHECKED)]),
            lambda model, draw: torch.stack([theirs(model, draw) for _ in range(CHECKED)]),
        ),
        flops=flops,
        unit=unit,
    )


def make(setup: Setup) -> Case:
    ours, flops = our_training(setup, setup.plain)
    network = copy.deepcopy(setup.theirs)
    if network is not None:
        network.train().requires_grad_(True)

    def loss(outputs, labels):
        return torch.nn.functional.cross_entropy(outputs.float(), labels)

    return make_case(ours, flops, torch_training(setup, loss), network, "one step")


MAKERS = {"training": make}
