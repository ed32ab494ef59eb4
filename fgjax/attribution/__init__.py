"""Attribution methods by name.

Every method is `method(model, images, targets, *, key, config) -> Attribution`.
"""

from fgjax.attribution.cam import (
    GradCamConfig,
    GradCamPlusPlusConfig,
    GuidedGradCamConfig,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
)
from fgjax.attribution.common.types import Attribution
from fgjax.attribution.fido.method import FIDO_PRESETS, FidoConfig, fido
from fgjax.attribution.glas import GLAS_PRESETS, GlasConfig, glas, glas_volume
from fgjax.attribution.gradients import (
    SMOOTH_GRADIENT_PRESETS,
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
from fgjax.attribution.lime import LIME_PRESETS, LimeConfig, lime
from fgjax.attribution.mask_perturbation import (
    MASK_PERTURBATION_PRESETS,
    MaskPerturbationConfig,
    mask_perturbation,
)
from fgjax.attribution.occlusion import OCCLUSION_PRESETS, OcclusionConfig, occlusion
from fgjax.attribution.path_integral import (
    INTEGRATED_GRADIENTS_PRESETS,
    IntegratedGradientsConfig,
    integrated_gradients,
)
from fgjax.attribution.recursive_glas import (
    RECURSIVE_GLAS_PRESETS,
    RecursiveGlasConfig,
    recursive_glas,
)
from fgjax.attribution.region_attention import RegionAttentionConfig, region_attention
from fgjax.attribution.rise import RISE_PRESETS, RiseConfig, rise
from fgjax.attribution.score_cam import SCORE_CAM_PRESETS, ScoreCamConfig, score_cam
from fgjax.attribution.step_cam import StepCamConfig, step_cam

METHODS = {
    "fido": fido,
    "glas": glas,
    "recursive_glas": recursive_glas,
    "rise": rise,
    "occlusion": occlusion,
    "mask_perturbation": mask_perturbation,
    "lime": lime,
    "gradient": gradient,
    "smooth_gradient": smooth_gradient,
    "integrated_gradients": integrated_gradients,
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "guided_grad_cam": guided_grad_cam,
    "score_cam": score_cam,
    "region_attention": region_attention,
    "step_cam": step_cam,
}
"""Name -> method."""

CONFIGS = {
    "fido": FidoConfig,
    "glas": GlasConfig,
    "recursive_glas": RecursiveGlasConfig,
    "rise": RiseConfig,
    "occlusion": OcclusionConfig,
    "mask_perturbation": MaskPerturbationConfig,
    "lime": LimeConfig,
    "gradient": GradientConfig,
    "smooth_gradient": SmoothGradientConfig,
    "integrated_gradients": IntegratedGradientsConfig,
    "guided_backprop": GuidedBackpropConfig,
    "deconvnet": DeconvnetConfig,
    "grad_cam": GradCamConfig,
    "grad_cam_plus_plus": GradCamPlusPlusConfig,
    "guided_grad_cam": GuidedGradCamConfig,
    "score_cam": ScoreCamConfig,
    "region_attention": RegionAttentionConfig,
    "step_cam": StepCamConfig,
}
"""Name -> its settings."""

PRESETS = dict.fromkeys(METHODS, {"default": {}}) | {
    "fido": FIDO_PRESETS,
    "glas": GLAS_PRESETS,
    "recursive_glas": RECURSIVE_GLAS_PRESETS,
    "rise": RISE_PRESETS,
    "occlusion": OCCLUSION_PRESETS,
    "mask_perturbation": MASK_PERTURBATION_PRESETS,
    "lime": LIME_PRESETS,
    "smooth_gradient": {"default": {}, **SMOOTH_GRADIENT_PRESETS},
    "integrated_gradients": {"default": {}, **INTEGRATED_GRADIENTS_PRESETS},
    "score_cam": {"default": {}, **SCORE_CAM_PRESETS},
}
"""Name -> published settings by name, each a dict of changes to the defaults."""

__all__ = [
    "CONFIGS",
    "METHODS",
    "PRESETS",
    "Attribution",
    *(config.__name__ for config in CONFIGS.values()),
    *METHODS,
    "glas_volume",
]
