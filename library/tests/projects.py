"""`notebento new` on a folder of its own."""

from pathlib import Path

import numpy as np
import polars as pl
from typer.testing import CliRunner

from notebento.cli import main
from notebento.core.compose import compose
from notebento.pipeline.project import home


def customers(n: int = 300) -> pl.DataFrame:
    """A table without anything odd."""
    rng = np.random.default_rng(0)
    plan, age = rng.choice(["free", "basic", "pro"], n), rng.integers(18, 90, n)
    left = rng.random(n) < 1 / (1 + np.exp(1.5 - (plan == "free") - 0.03 * (age - 50)))
    columns = {"id": range(1, n + 1), "plan": plan, "age": age, "paid": rng.gamma(2, 10, n).round(2)}
    return pl.DataFrame(columns | {"left": np.where(left, "yes", "no")})


class New:
    """The command, on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.project = folder, folder / "churn"

    def __call__(self, data: str | bytes | pl.DataFrame, *options: str, name: str = "rows.csv") -> str:
        """Make the project of `data`; returns what was printed when it was made."""
        status, printed = self.tried(data, *options, name=name)
        assert status == 0, printed
        return printed

    def tried(self, data: str | bytes | pl.DataFrame, *options: str, name: str = "rows.csv") -> tuple[int, str]:
        """The exit status, and what was printed."""
        file = self.folder / name
        if isinstance(data, pl.DataFrame):
            data.write_parquet(file) if file.suffix == ".parquet" else data.write_csv(file)
        else:
            file.write_bytes(data.encode() if isinstance(data, str) else data)
        return self.on(str(file), *options)

    def on(self, data: str, *options: str) -> tuple[int, str]:
        """The same, of data that are there already."""
        target = () if "--target" in options else ("--target", "left")
        arguments = ["new", str(self.project), "--data", data, *target, *options, "--yes"]
        result = CliRunner().invoke(main.app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, " ".join(result.output.split())

    def conf(self, *overrides: str) -> dict:
        """The configuration of the data, as the project composes it."""
        with home(self.project):
            data = compose(overrides).data
        return {name: getattr(data, name) for name in data.__struct_fields__}
