"""notebento: from notebook to bento, without a rewrite in between.

The names below are the public surface; they are imported when they are first used (PEP 562).
"""

import os
from importlib import import_module
from typing import Any

# Threads that wait for each other sleep instead of spinning. On idle cores that costs nothing; where another process
# wants the same cores, spinning made a fit of LightGBM sixteen times slower. Read when torch or LightGBM is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # BentoML would report that it is imported

_HOME = {
    "Config": "core.config",
    "NotebentoError": "core.errors",
    "UserError": "core.errors",
    "GateError": "core.errors",
    "build": "core.config",
    "compose": "core.compose",
    "Stage": "core.stage",
    "Manifest": "core.artifacts",
    "Table": "features.views",
    "Events": "features.views",
    "Value": "features.views",
    "View": "features.views",
    "FeatureSet": "features.schema",
    "FeatureStore": "online.store",
    "Graph": "models.bundle",
}
__all__ = list(_HOME)
__version__ = "0.4.0"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"notebento.{_HOME[name]}"), name)
    raise AttributeError(f"module 'notebento' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
