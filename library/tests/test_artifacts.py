"""Artifacts where a notebook cannot look: full disks, dead writers, equal bytes from equal values."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebento.core.artifacts import Manifest, atomic_write, digest, load, save
from notebento.core.errors import UserError


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.none()),
    )
)
def test_json_keeps_values_and_its_bytes_do_not_depend_on_insertion_order(
    tmp_path_factory: pytest.TempPathFactory, value: dict
) -> None:
    folder = tmp_path_factory.mktemp("json")
    assert load(save(folder / "a.json", value)) == value
    save(folder / "b.json", dict(reversed(value.items())))
    assert digest(folder / "a.json") == digest(folder / "b.json")


def test_equal_frames_are_equal_files(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(300_000), "y": [str(i % 7) for i in range(300_000)]})
    save(tmp_path / "a.parquet", frame)
    save(tmp_path / "b.parquet", frame.clone())
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")
    assert load(tmp_path / "a.parquet").equals(frame)


def test_an_unchanged_artifact_is_not_replaced(tmp_path: Path) -> None:
    first = save(tmp_path / "a.json", [1]).stat().st_ino
    assert save(tmp_path / "a.json", [1]).stat().st_ino == first
    assert save(tmp_path / "a.json", [2]).stat().st_ino != first


@pytest.mark.process
def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    save(tmp_path / "a.json", [1])
    code = (
        "import sys, time; from pathlib import Path; from notebento.core.artifacts import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as part:\n"
        "    part.write_text('[1, 2'); print('half', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.json")], stdout=subprocess.PIPE)
    assert writer.stdout and writer.stdout.readline() == b"half\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert load(tmp_path / "a.json") == [1]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_write(tmp_path / "big.bin") as part:
            part.write_bytes(b"half")
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"the other half")

    with pytest.raises(UserError, match="no space left on the disk while writing .*big.bin"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_by_a_folder_and_never_by_a_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(UserError, match="kept is a folder, and a file would replace it"):
        save(kept, "")  # the digest of nothing is that of an empty folder
    (kept / "a.txt").write_text("a")
    for folder in (kept, kept / "..", tmp_path):
        with pytest.raises(UserError, match="is a folder, and a file would replace it"):
            save(folder, "a page")
    assert [p.name for p in tmp_path.rglob("*")] == ["kept", "a.txt"]
    with atomic_write(kept) as part:
        part.mkdir()
        (part / "b.txt").write_text("b")
    assert [p.name for p in tmp_path.rglob("*")] == ["kept", "b.txt"]
    with pytest.raises(UserError, match="page.html cannot be written: .*b.txt is in the way"):
        save(kept / "b.txt" / "page.html", "a page")


def test_a_manifest_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"run_id": 3')
    with pytest.raises(UserError, match="manifest.json is not a manifest"):
        Manifest.read(tmp_path)
    with pytest.raises(UserError, match="does not contain a run"):
        Manifest.read(tmp_path / "nowhere")
