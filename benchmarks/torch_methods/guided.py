"""Guided backpropagation and DeconvNet: ReLUs with another gradient."""

import copy

from torch_resnet import torch

import fgjax
from torch_methods.case import Case, Setup, our_call
from torch_methods.gradients import torch_gradient

if torch:

    class Guided(torch.autograd.Function):
        """Lets back what is positive, of open units."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad.relu() * (x > 0)

    class Deconv(torch.autograd.Function):
        """Lets back what is positive."""

        @staticmethod
        def forward(ctx, x):
            return x.relu()

        @staticmethod
        def backward(ctx, grad):
            return grad.relu()

    class RuledReLU(torch.nn.Module):
        def __init__(self, rule):
            super().__init__()
            self.rule = {"guided_backprop": Guided, "deconvnet": Deconv}[rule]

        def forward(self, x):
            return self.rule.apply(x)


def with_rule(model, rule):
    """Return a copy of the network, its ReLUs exchanged."""
    if model is None:
        return None
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(getattr(module, "relu", None), torch.nn.ReLU):
            module.relu = RuledReLU(rule)
    return model


def _make(name: str, config: type):
    def make(setup: Setup) -> Case:
        return Case(
            our_call(setup, name, "signed", config(chunk_size=setup.chunk), None),
            lambda model, draw: torch_gradient(model, *setup.inputs(), setup.chunk),
            with_rule(setup.theirs, name),
            {"gradient": 1},
        )

    return make


MAKERS = {
    "guided_backprop": _make("guided_backprop", fgjax.GuidedBackpropConfig),
    "deconvnet": _make("deconvnet", fgjax.DeconvnetConfig),
}
