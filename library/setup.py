"""The wheel carries the notebooks that the library is made of: `notebento lab --library` opens them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class WithNotebooks(build_py):
    """Copies nbs/ into the package."""

    def run(self) -> None:
        """Build the package, then put the notebooks into it; an editable installation has them in the checkout."""
        super().run()
        if not self.editable_mode:
            for notebook in sorted((HERE / "nbs").rglob("*.ipynb")):
                if ".ipynb_checkpoints" not in notebook.parts:
                    place = Path(self.build_lib, "notebento", notebook.relative_to(HERE))
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(notebook, place)


setup(cmdclass={"build_py": WithNotebooks})
