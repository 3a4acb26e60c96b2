"""What BentoML loads from the built bento: the predictor, told to serve the version that lies beside this file."""

import os
from pathlib import Path

import bentoml

here = Path(__file__).parent
os.environ.setdefault("NOTEBENTO_DEPLOYMENT", str(here / "deployment.json"))

from notebento.serving.service import Predictor  # noqa: E402

# What `bentoml containerize` installs: the wheel and what it needs. bentofile.yaml names the lock in a variable that uv
# reads, because BentoML makes a requirement of every line of a constraints file: torch would come along.
wheel = next(here.glob("wheels/*.whl")).name
Predictor.image = (
    bentoml.images.Image(base_image="python:3.11-slim", distro="", python_version="3.11", lock_python_packages=False)
    .build_include("wheels", "requirements.lock")
    .python_packages(f"./wheels/{wheel}", "redis")
)
