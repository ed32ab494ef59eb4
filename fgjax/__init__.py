"""Fine-grained image classification that explains itself, in JAX.

import fgjax

model = fgjax.load_classifier("runs/fido_demo/checkpoint")
result = fgjax.fido(model, images, targets, key=key, config=fgjax.FidoConfig(steps=100))
result.heatmap  # n h w, importance in [0, 1]

A name's module is imported when the name is first asked for, so `import fgjax` alone is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fgjax._version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors read; `_NAMES` says the same when running
    from fgjax.attribution.attention import (
        AttentionRelevanceConfig,
        AttentionRolloutConfig,
        attention_relevance,
        attention_rollout,
    )
    from fgjax.attribution.cam import (
        GradCamConfig,
        GradCamPlusPlusConfig,
        GuidedGradCamConfig,
        grad_cam,
        grad_cam_plus_plus,
        guided_grad_cam,
    )
    from fgjax.attribution.common.types import Attribution
    from fgjax.attribution.contrast import contrast
    from fgjax.attribution.exported import export, load_exported
    from fgjax.attribution.extremal_perturbation import (
        ExtremalPerturbationConfig,
        extremal_perturbation,
    )
    from fgjax.attribution.fido.concrete import concrete_dropout, simplified_concrete_dropout
    from fgjax.attribution.fido.config import FidoConfig
    from fgjax.attribution.fido.method import FIDO_PRESETS, fido, fido_preset
    from fgjax.attribution.finer_cam import FinerCamConfig, finer_cam
    from fgjax.attribution.glas import GlasConfig, glas
    from fgjax.attribution.glas_volume import glas_volume
    from fgjax.attribution.gradients import (
        GradientConfig,
        SmoothGradientConfig,
        gradient,
        smooth_gradient,
    )
    from fgjax.attribution.guided import (
        DeconvnetConfig,
        GuidedBackpropConfig,
        deconvnet,
        guided_backprop,
    )
    from fgjax.attribution.hires_cam import HiresCamConfig, hires_cam
    from fgjax.attribution.input_x_gradient import InputXGradientConfig, input_x_gradient
    from fgjax.attribution.kernel_shap import KernelShapConfig, kernel_shap
    from fgjax.attribution.layer_cam import LayerCamConfig, layer_cam
    from fgjax.attribution.lime import LimeConfig, lime
    from fgjax.attribution.lrp import LrpConfig, lrp
    from fgjax.attribution.mask_perturbation import MaskPerturbationConfig, mask_perturbation
    from fgjax.attribution.occlusion import OcclusionConfig, occlusion
    from fgjax.attribution.path_integral import IntegratedGradientsConfig, integrated_gradients
    from fgjax.attribution.prompt_cam import PromptCamConfig, prompt_cam
    from fgjax.attribution.recursive_glas import RecursiveGlasConfig, recursive_glas
    from fgjax.attribution.region_attention import RegionAttentionConfig, region_attention
    from fgjax.attribution.registry import CONFIGS, METHODS, PRESETS
    from fgjax.attribution.rise import RiseConfig, rise
    from fgjax.attribution.score_cam import ScoreCamConfig, score_cam
    from fgjax.attribution.step_cam import StepCamConfig, step_cam
    from fgjax.attribution.xrai import XraiConfig, xrai
    from fgjax.core.scores import log_odds
    from fgjax.devices.allocation import keep_freed_memory
    from fgjax.devices.compiler import compiler_options
    from fgjax.evaluation import deletion, evaluate, insertion, iou, pointing_game, total_variation
    from fgjax.evaluation.landmarks import landmark_error
    from fgjax.evaluation.smallest_regions import smallest_regions
    from fgjax.models.classifier import Classifier, create_model
    from fgjax.models.composed.grouping import group_pixels
    from fgjax.models.composed.patches import extract_patches
    from fgjax.models.composed.recurrent_attention import soft_attention
    from fgjax.models.pretrained import load_pretrained
    from fgjax.models.saving import save_pretrained
    from fgjax.report.show import show
    from fgjax.runs.maps import load_maps
    from fgjax.training.checkpoints import load_classifier
    from fgjax.training.objectives.part_occurrence import part_occurrence_loss
    from fgjax.training.objectives.ranking import ranking_loss
    from fgjax.training.proxies.proxy_attention import proxy_images

_NAMES = {
    "fgjax.attribution.attention": """
        AttentionRelevanceConfig AttentionRolloutConfig attention_relevance attention_rollout
    """,
    "fgjax.attribution.cam": """
        GradCamConfig GradCamPlusPlusConfig GuidedGradCamConfig grad_cam grad_cam_plus_plus
        guided_grad_cam
    """,
    "fgjax.attribution.common.types": "Attribution",
    "fgjax.attribution.contrast": "contrast",
    "fgjax.attribution.exported": "export load_exported",
    "fgjax.attribution.extremal_perturbation": "ExtremalPerturbationConfig extremal_perturbation",
    "fgjax.attribution.fido.concrete": "concrete_dropout simplified_concrete_dropout",
    "fgjax.attribution.fido.config": "FidoConfig",
    "fgjax.attribution.fido.method": "fido FIDO_PRESETS fido_preset",
    "fgjax.attribution.finer_cam": "FinerCamConfig finer_cam",
    "fgjax.attribution.glas": "GlasConfig glas",
    "fgjax.attribution.glas_volume": "glas_volume",
    "fgjax.attribution.gradients": "GradientConfig SmoothGradientConfig gradient smooth_gradient",
    "fgjax.attribution.guided": "DeconvnetConfig GuidedBackpropConfig deconvnet guided_backprop",
    "fgjax.attribution.hires_cam": "HiresCamConfig hires_cam",
    "fgjax.attribution.input_x_gradient": "InputXGradientConfig input_x_gradient",
    "fgjax.attribution.kernel_shap": "KernelShapConfig kernel_shap",
    "fgjax.attribution.layer_cam": "LayerCamConfig layer_cam",
    "fgjax.attribution.lime": "LimeConfig lime",
    "fgjax.attribution.lrp": "LrpConfig lrp",
    "fgjax.attribution.mask_perturbation": "MaskPerturbationConfig mask_perturbation",
    "fgjax.attribution.occlusion": "OcclusionConfig occlusion",
    "fgjax.attribution.path_integral": "IntegratedGradientsConfig integrated_gradients",
    "fgjax.attribution.prompt_cam": "PromptCamConfig prompt_cam",
    "fgjax.attribution.recursive_glas": "RecursiveGlasConfig recursive_glas",
    "fgjax.attribution.region_attention": "RegionAttentionConfig region_attention",
    "fgjax.attribution.registry": "CONFIGS METHODS PRESETS",
    "fgjax.attribution.rise": "RiseConfig rise",
    "fgjax.attribution.score_cam": "ScoreCamConfig score_cam",
    "fgjax.attribution.step_cam": "StepCamConfig step_cam",
    "fgjax.attribution.xrai": "XraiConfig xrai",
    "fgjax.core.scores": "log_odds",
    "fgjax.devices.allocation": "keep_freed_memory",
    "fgjax.devices.compiler": "compiler_options",
    "fgjax.evaluation": "deletion evaluate insertion iou pointing_game total_variation",
    "fgjax.evaluation.landmarks": "landmark_error",
    "fgjax.evaluation.smallest_regions": "smallest_regions",
    "fgjax.models.classifier": "Classifier create_model",
    "fgjax.models.composed.grouping": "group_pixels",
    "fgjax.models.composed.patches": "extract_patches",
    "fgjax.models.composed.recurrent_attention": "soft_attention",
    "fgjax.models.pretrained": "load_pretrained",
    "fgjax.models.saving": "save_pretrained",
    "fgjax.report.show": "show",
    "fgjax.runs.maps": "load_maps",
    "fgjax.training.checkpoints": "load_classifier",
    "fgjax.training.objectives.part_occurrence": "part_occurrence_loss",
    "fgjax.training.objectives.ranking": "ranking_loss",
    "fgjax.training.proxies.proxy_attention": "proxy_images",
}
"""Module -> the public names it has."""

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

_ROOMS = frozenset(
    "attribution core data devices evaluation models options processes report runs stages "
    "sweeps training".split()
)

__all__ = [
    "CONFIGS",
    "FIDO_PRESETS",
    "METHODS",
    "PRESETS",
    "AttentionRelevanceConfig",
    "AttentionRolloutConfig",
    "Attribution",
    "Classifier",
    "DeconvnetConfig",
    "ExtremalPerturbationConfig",
    "FidoConfig",
    "FinerCamConfig",
    "GlasConfig",
    "GradCamConfig",
    "GradCamPlusPlusConfig",
    "GradientConfig",
    "GuidedBackpropConfig",
    "GuidedGradCamConfig",
    "HiresCamConfig",
    "InputXGradientConfig",
    "IntegratedGradientsConfig",
    "KernelShapConfig",
    "LayerCamConfig",
    "LimeConfig",
    "LrpConfig",
    "MaskPerturbationConfig",
    "OcclusionConfig",
    "PromptCamConfig",
    "RecursiveGlasConfig",
    "RegionAttentionConfig",
    "RiseConfig",
    "ScoreCamConfig",
    "SmoothGradientConfig",
    "StepCamConfig",
    "XraiConfig",
    "attention_relevance",
    "attention_rollout",
    "compiler_options",
    "concrete_dropout",
    "contrast",
    "create_model",
    "deconvnet",
    "deletion",
    "evaluate",
    "export",
    "extract_patches",
    "extremal_perturbation",
    "fido",
    "fido_preset",
    "finer_cam",
    "glas",
    "glas_volume",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "group_pixels",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "input_x_gradient",
    "insertion",
    "integrated_gradients",
    "iou",
    "keep_freed_memory",
    "kernel_shap",
    "landmark_error",
    "layer_cam",
    "lime",
    "load_classifier",
    "load_exported",
    "load_maps",
    "load_pretrained",
    "log_odds",
    "lrp",
    "mask_perturbation",
    "occlusion",
    "part_occurrence_loss",
    "pointing_game",
    "prompt_cam",
    "proxy_images",
    "ranking_loss",
    "recursive_glas",
    "region_attention",
    "rise",
    "save_pretrained",
    "score_cam",
    "show",
    "simplified_concrete_dropout",
    "smallest_regions",
    "smooth_gradient",
    "soft_attention",
    "step_cam",
    "total_variation",
    "xrai",
]


def __getattr__(name: str) -> Any:
    """Return a public name, or a room of the package, from its module; kept for the next time."""
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"fgjax.{name}")
    else:
        raise AttributeError(f"module 'fgjax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names of the module, those that are not imported yet among them."""
    return sorted({*globals(), *__all__, *_ROOMS})
