"""The wheel carries the notebooks that the library is made of, and the templates of new projects.

`notebento lab --library` opens the notebooks; `notebento new` renders the newest, which is made of the root's files.
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "src"))

from notebento.pipeline.template import ARCHIVE, history, pack_history  # noqa: E402  these need the standard library only


class WithNotebooks(build_py):
    """Copies nbs/ into the package, and packs the template."""

    def run(self) -> None:
        """Build the package, then put both into it; an editable installation has them in the checkout."""
        super().run()
        if self.editable_mode:
            return
        for notebook in sorted((HERE / "nbs").rglob("*.ipynb")):
            if ".ipynb_checkpoints" not in notebook.parts:
                place = Path(self.build_lib, "notebento", notebook.relative_to(HERE))
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(notebook, place)
        Path(self.build_lib, "notebento", ARCHIVE).write_bytes(pack_history(history(HERE.parent)))


setup(cmdclass={"build_py": WithNotebooks})
