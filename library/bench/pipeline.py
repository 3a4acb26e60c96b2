"""A pipeline of eight trivial notebooks beside DVC and Snakemake with papermill: how long, and what an edit costs.

    python3 library/bench/pipeline.py [--only nothing cold parallel edit store] [--check]

All run the very same notebooks, in a chain: each reads the file of the one before and writes its own below `run_dir`,
with the standard library only. The peers call papermill, from our environment, once for every notebook and with the
same parameters, and declare the notebook and the file before as what a stage depends on: the least that works. DVC and
Snakemake are installed into environments of their own below `--peers` when they are not there; without them, only our
side is measured. What is timed is the whole command, from its start to its end, in turns. `parallel` is eight stages
that depend on nothing and compute for two seconds each in one thread; `store` lists many runs in which all was cached.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import environment

environment.inside("train")

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NOTEBENTO = [sys.executable, "-m", "notebento"]
STAGES = [f"s{n}" for n in range(1, 9)]
PEERS = {"dvc": "3.67", "snakemake": "9.27"}
UNWANTED = ("torch", "papermill", "sqlalchemy")  # may not be imported where nothing changed

CODE = """import json, os
from pathlib import Path
folder = Path(run_dir) / "artifacts"
folder.mkdir(parents=True, exist_ok=True)
before = json.loads((folder / "{before}.json").read_text()) if "{before}" else 0
with open(os.environ["BENCH_LOG"], "a") as log:
    log.write("{name}\\\\n")
{work}(folder / "{name}.json").write_text(json.dumps(before + 1))
"""
WORK = "for _ in range({rounds}):\n    before = before * 0\n"


class Project:
    """Eight notebooks in a folder, and one command that runs them."""

    def __init__(self, folder: Path, rounds: int = 0) -> None:
        self.folder, self.log, self.chained = folder, folder / "log", not rounds
        (folder / "nbs").mkdir(parents=True)
        self.names = {n: STAGES[i - 1] if i and self.chained else "" for i, n in enumerate(STAGES)}
        work = WORK.format(rounds=rounds) if rounds else ""
        for name in STAGES:
            code = CODE.format(name=name, before=self.names[name], work=work).replace("\\\\n", "\\n")
            self.write(name, "# A stage", code)
        self.environ = os.environ | {"BENCH_LOG": str(self.log), "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
        self.environ.pop("NOTEBENTO_RUNS", None)

    def write(self, name: str, title: str, code: str) -> None:
        """Write the notebook of a stage."""
        parameters = {"metadata": {"tags": ["parameters"]}, "source": 'overrides = []\nrun_dir = ""'}
        more: dict[str, object] = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells = [
            {"cell_type": "markdown", "metadata": {}, "source": title},
            more | parameters,
            more | {"metadata": {}, "source": code},
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        book = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
        (self.folder / f"nbs/{name}.ipynb").write_text(json.dumps(book, indent=1))

    def command(self) -> list[str]:
        """What runs the pipeline."""
        raise NotImplementedError

    def forget(self) -> None:
        """Remove everything that was made."""
        raise NotImplementedError

    def run(self, *more: str) -> float:
        """Seconds of the whole command."""
        began = time.perf_counter()
        done = subprocess.run(
            [*self.command(), *more], cwd=self.folder, env=self.environ, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{' '.join(self.command())} failed:\n{done.stdout}{done.stderr}")
        return seconds

    def ran(self) -> list[str]:
        """The stages that ran since this was asked last."""
        found = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found

    def edit(self, what: str) -> None:
        """Change how the fifth notebook looks."""
        path = self.folder / "nbs/s5.ipynb"
        book = json.loads(path.read_text())
        prose, code = book["cells"][0], book["cells"][2]
        if what == "prose":
            prose["source"] += ", in other words"
        elif what == "comment":
            code["source"] += "# a remark\n"
        else:
            code["source"] = code["source"].replace(" = ", "  =  ")
        path.write_text(json.dumps(book, indent=1))


class Ours(Project):
    """notebento."""

    def __init__(self, folder: Path, rounds: int = 0) -> None:
        super().__init__(folder, rounds)
        shutil.copytree(ROOT / "conf", folder / "conf")
        stages = {}
        for name, before in self.names.items():
            inputs = [f"{before}.json"] if before else []
            stages[name] = {"notebook": f"{name}.ipynb", "groups": [], "inputs": inputs, "outputs": [f"{name}.json"]}
        (folder / "conf/pipeline/default.yaml").write_text(json.dumps({"name": "bench", "stages": stages}))

    def command(self) -> list[str]:
        return [*NOTEBENTO, "run"]

    def forget(self) -> None:
        shutil.rmtree(self.folder / "runs", ignore_errors=True)


class Peer(Project):
    """A peer that calls papermill for every notebook."""

    def __init__(self, folder: Path, environment: Path) -> None:
        super().__init__(folder)
        self.environment = environment

    def papermill(self, name: str) -> str:
        """The command that runs a stage; the shell reads it."""
        parameters = "{overrides: [], run_dir: out}"
        return (
            f"mkdir -p out/notebooks && {BIN}/papermill -k python3 --no-progress-bar -y '{parameters}' "
            f"nbs/{name}.ipynb out/notebooks/{name}.ipynb"
        )

    def depends(self, name: str) -> list[str]:
        """The files that a stage depends on."""
        before = self.names[name]
        return [f"nbs/{name}.ipynb", *([f"out/artifacts/{before}.json"] if before else [])]


class Dvc(Peer):
    """DVC."""

    def __init__(self, folder: Path, environment: Path) -> None:
        super().__init__(folder, environment)
        stages = {
            name: {"cmd": self.papermill(name), "deps": self.depends(name), "outs": [f"out/artifacts/{name}.json"]}
            for name in STAGES
        }
        (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
        for command in (["init", "--no-scm", "-q"], ["config", "core.check_update", "false"]):
            subprocess.run([environment / "bin/dvc", *command], cwd=folder, env=self.environ, check=True)

    def command(self) -> list[str]:
        return [str(self.environment / "bin/dvc"), "repro", "-q"]

    def forget(self) -> None:
        for name in ("out", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)


class Snakemake(Peer):
    """Snakemake."""

    def __init__(self, folder: Path, environment: Path) -> None:
        super().__init__(folder, environment)
        rules = [f'rule all:\n    input: "out/artifacts/{STAGES[-1]}.json"\n']
        for name in STAGES:
            command = self.papermill(name).replace("{", "{{").replace("}", "}}")
            inputs = ", ".join(f'"{path}"' for path in self.depends(name))
            output = f'"out/artifacts/{name}.json"'
            rules.append(f'rule {name}:\n    input: {inputs}\n    output: {output}\n    shell: "{command}"\n')
        (folder / "Snakefile").write_text("\n".join(rules))

    def command(self) -> list[str]:
        return [str(self.environment / "bin/snakemake"), "--cores", "1", "--quiet", "all"]

    def forget(self) -> None:
        for name in ("out", ".snakemake"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def peer(name: str, folder: Path) -> Path | None:
    """The environment with a peer, made when it is not there; None when it cannot be."""
    environment = folder / name
    if not (environment / "bin" / name).exists():
        print(f"installing {name} {PEERS[name]} into {environment} …", flush=True)
        make = [sys.executable, "-m", "venv", "--clear", str(environment)]
        install = [str(environment / "bin/pip"), "install", "-q", f"{name}=={PEERS[name]}.*"]
        for command in (make, install):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"without {name}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
                return None
    return environment


class Report:
    """Prints figures, and remembers whether a limit was not met."""

    def __init__(self) -> None:
        self.failed = False

    def times(self, name: str, seconds: list[float]) -> float:
        """Print the repetitions; returns their median."""
        median = statistics.median(seconds)
        print(f"  {name:<12}{median:8.2f} s   best {min(seconds):.2f}, {len(seconds)} times", flush=True)
        return median

    def limit(self, what: str, met: bool) -> None:
        """Print a limit and whether it is met."""
        self.failed |= not met
        print(f"  {what:<68}{'ok' if met else 'NOT MET'}", flush=True)


def in_turns(sides: dict[str, Callable[[], float]], repeat: int) -> dict[str, list[float]]:
    """The seconds of each side, measured one after the other, `repeat` times."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def nothing_changed(sides: dict[str, Project], report: Report, repeat: int) -> None:
    print("nothing changed: the whole command")
    for side in sides.values():
        side.run()
        side.ran()
    seconds = in_turns({name: side.run for name, side in sides.items()}, repeat)
    median = {name: report.times(name, values) for name, values in seconds.items()}
    if again := [name for name, side in sides.items() if side.ran()]:
        raise SystemExit(f"something ran again: {again}")
    for name in list(median)[1:]:
        ratio, limit = median["notebento"] / median[name], 0.55
        shown = f"ours / {name} = {ratio:.2f}  ({median['notebento']:.2f} / {median[name]:.2f} s; limit {limit})"
        report.limit(shown, ratio <= limit)
    ours = sides["notebento"]
    command = [sys.executable, "-X", "importtime", "-m", "notebento", "run"]
    done = subprocess.run(command, cwd=ours.folder, env=ours.environ, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    found = sorted(modules & set(UNWANTED))
    report.limit(
        f"imported of {', '.join(UNWANTED)}: {', '.join(found) or 'none'}", "notebento" in modules and not found
    )


def from_cold(sides: dict[str, Project], report: Report, repeat: int) -> None:
    def cold(side: Project, *more: str) -> float:
        side.forget()
        seconds = side.run(*more)
        if sorted(side.ran()) != STAGES:
            raise SystemExit("not every stage ran once")
        return seconds

    print("from cold, one stage at a time")
    more = {"notebento": ["--jobs=1"]}
    found = in_turns({n: (lambda n=n, s=s: cold(s, *more.get(n, []))) for n, s in sides.items()}, repeat)  # type: ignore[misc]
    median = {name: report.times(name, values) for name, values in found.items()}
    for name, limit in (("dvc", 0.25), ("snakemake", 0.25)):
        if name in median:
            ratio = median["notebento"] / median[name]
            both = f"{median['notebento']:.2f} / {median[name]:.2f} s"
            report.limit(f"ours / {name} with papermill = {ratio:.2f}  ({both}; limit {limit})", ratio <= limit)


def edited(sides: dict[str, Project], report: Report) -> None:
    print("how many of eight stages run again after an edit of the fifth notebook")
    for side in sides.values():
        side.run()
        side.ran()
    for what in ("prose", "comment", "formatting"):
        reran = {}
        for name, side in sides.items():
            side.edit(what)
            side.run()
            reran[name] = len(side.ran())
        shown = ", ".join(f"{name} {count}" for name, count in reran.items())
        report.limit(f"{what}: {shown}; limit for ours 0", reran["notebento"] == 0)


def rounds_of(seconds: float) -> int:
    """How many rounds of the loop take `seconds` on this machine, alone."""
    loop = WORK.format(rounds=10**7)
    code = f"import time\nbefore, began = 0, time.process_time()\n{loop}print(time.process_time() - began)"
    took = min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))
    return int(seconds / took * 10**7)


def in_parallel(folder: Path, report: Report, repeat: int) -> None:
    print("eight stages of two seconds of single-threaded work, nothing between them")
    project = Ours(folder, rounds_of(2.0))

    def cold(jobs: int) -> float:
        project.forget()
        return project.run("threads=1", f"--jobs={jobs}")

    found = in_turns({"--jobs 1": lambda: cold(1), "--jobs 2": lambda: cold(2)}, repeat)
    for name, values in found.items():
        report.times(name, values)
    one, two = (min(values) for values in found.values())
    report.limit(
        f"--jobs 1 / --jobs 2 = {one / two:.2f}  ({one:.2f} / {two:.2f} s, the best; limit 1.8)", one / two >= 1.8
    )


def many_runs(ours: Project, report: Report, repeat: int) -> None:
    print("notebento runs list --all, in which every run was cached")
    ours.run()
    environ = ours.environ | {"NOTEBENTO_HOME": str(ours.folder)}
    add = "import sys\nfrom notebento.pipeline.runner import run\nfor _ in range(int(sys.argv[1])):\n    run([])"
    memory, seconds = {}, {}
    for count in (100, 1000):
        there = sum(1 for _ in (ours.folder / "runs").glob("2*/manifest.json"))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", add, str(count - there)], env=environ, check=True, cwd=ours.folder)
        print(f"  made {count - there} runs, {(time.perf_counter() - began) / (count - there) * 1000:.0f} ms each")
        tries = [listed(ours, count) for _ in range(repeat)]
        seconds[count] = report.times(f"{count} runs", [t for t, _ in tries])
        memory[count] = max(m for _, m in tries)
    report.limit(f"1,000 runs: {seconds[1000]:.2f} s, limit 1 s", seconds[1000] < 1)
    ratio = memory[1000] / memory[100]
    shown = f"peak memory, 1,000 / 100 runs = {ratio:.2f}  ({memory[1000]:.0f} / {memory[100]:.0f} MB; limit 1.2)"
    report.limit(shown, ratio <= 1.2)


def listed(ours: Project, count: int) -> tuple[float, float]:
    """Seconds and peak megabytes of listing the runs."""
    began = time.perf_counter()
    command = [*NOTEBENTO, "runs", "list", "--all"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ours.folder, env=ours.environ | {"COLUMNS": "300"}, stdout=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = sum("20" in line for line in said)
    if status or lines < count:
        raise SystemExit(f"{' '.join(command)} listed {lines} of {count} runs, exit status {process.returncode}")
    return seconds, used.ru_maxrss / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["nothing", "cold", "parallel", "edit", "store"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="measure only these")
    parser.add_argument("--repeat", type=int, default=7, help="how often the quick ones are measured")
    parser.add_argument("--repeat-slow", type=int, default=3, help="how often the slow ones are measured")
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache/notebento-bench", help="their environments")
    parser.add_argument("--check", action="store_true", help="exit 1 when a limit is not met")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="notebento-bench-") as name:
        folder = Path(name)
        sides: dict[str, Project] = {"notebento": Ours(folder / "notebento")}
        if {"nothing", "cold", "edit"} & set(options.only):
            for one, kind in (("dvc", Dvc), ("snakemake", Snakemake)):
                if environment := peer(one, options.peers):
                    sides[one] = kind(folder / one, environment)
        if "cold" in options.only:
            from_cold(sides, report, options.repeat_slow)
        if "nothing" in options.only:
            nothing_changed(sides, report, options.repeat)
        if "edit" in options.only:
            edited(sides, report)
        if "parallel" in options.only:
            in_parallel(folder / "parallel", report, options.repeat_slow)
        if "store" in options.only:
            many_runs(sides["notebento"], report, options.repeat)
    return int(options.check and report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
