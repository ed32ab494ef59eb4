"""Fine-grained image classification that explains itself, in JAX.

import fgjax

model = fgjax.load_classifier("runs/fido_demo/checkpoint")
result = fgjax.fido(model, images, targets, key=key, config=fgjax.FidoConfig(steps=100))
result.heatmap  # n h w, importance in [0, 1]
"""

from fgjax.attribution import CONFIGS, METHODS, PRESETS, Attribution, FidoConfig, fido
from fgjax.attribution.concrete import concrete_dropout, simplified_concrete_dropout
from fgjax.attribution.fido import FIDO_PRESETS, fido_preset
from fgjax.attribution.scores import log_odds
from fgjax.evaluation import deletion, insertion, iou, pointing_game, total_variation
from fgjax.models.classifier import Classifier, create_model
from fgjax.models.pretrained import load_pretrained
from fgjax.store import load_maps
from fgjax.training.checkpoints import load_classifier

__version__ = "0.1.0"

__all__ = [
    "CONFIGS",
    "FIDO_PRESETS",
    "METHODS",
    "PRESETS",
    "Attribution",
    "Classifier",
    "FidoConfig",
    "concrete_dropout",
    "create_model",
    "deletion",
    "fido",
    "fido_preset",
    "insertion",
    "iou",
    "load_classifier",
    "load_maps",
    "load_pretrained",
    "log_odds",
    "pointing_game",
    "simplified_concrete_dropout",
    "total_variation",
]
