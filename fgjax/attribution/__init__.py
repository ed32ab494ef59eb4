"""Attribution methods by name.

Every method is `method(model, images, targets, *, key, config) -> Attribution`.
"""

from fgjax.attribution.fido import FIDO_PRESETS, FidoConfig, fido
from fgjax.attribution.types import Attribution

METHODS = {"fido": fido}
"""Name -> method."""

CONFIGS = {"fido": FidoConfig}
"""Name -> its settings."""

PRESETS = {"fido": FIDO_PRESETS}
"""Name -> published settings by name, each a dict of changes to the defaults."""

__all__ = ["CONFIGS", "METHODS", "PRESETS", "Attribution", "FidoConfig", "fido"]
