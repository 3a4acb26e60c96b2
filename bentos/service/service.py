"""What BentoML loads from the built bento: the service, told to serve the version that lies beside this file."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import bentoml

# The packages in the bento come before those that are installed: it answers as on the day when it was built.
here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
os.environ.setdefault("NOTEBENTO_DEPLOYMENT", str(here / "deployment.json"))

module, _, name = json.loads((here / "deployment.json").read_text())["serve"]["service"]["_target_"].rpartition(".")
Service = getattr(import_module(module), name)

# What `bentoml containerize` installs. bentofile.yaml names the lock in a variable that uv reads, because BentoML makes
# a requirement of every line of a constraints file: torch would come along.
Service.image = (
    bentoml.images.Image(base_image="python:3.11-slim", distro="", python_version="3.11", lock_python_packages=False)
    .build_include("requirements.lock")
    .python_packages(*(here / "requirements.txt").read_text().splitlines())
)
