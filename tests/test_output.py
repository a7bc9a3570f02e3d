"""What commands write: whole or not at all, into links, pipes and devices as they are, and never beside the point."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ncpl_cli.errors import InputError, StoreError
from ncpl_cli.main import call
from ncpl_cli.output import _descriptor, format_of, opened, special
from ncpl_cli.store import open_store
from ncpl_cli.store.imports import import_csv

Writer = Callable[[str], int]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("output")
    rows = [f"r{s},{s},{e},{e * (s + 1)},{e * e % 7}" for s in range(2) for e in range(1, 13)]
    (folder / "in.csv").write_text("run,seed,epoch,nc1,test_accuracy\n" + "\n".join(rows) + "\n")
    with open_store(folder / "s.db") as store:
        import_csv(store, folder / "in.csv", scenario="warm-start", name="a")
    return str(folder / "s.db")


@pytest.fixture(params=["export", "report", "correlate"])
def write(request: pytest.FixtureRequest, db: str) -> Writer:
    """Every command that writes a file: into the one that is named, its exit code."""
    lines = {
        "export": ["export", "--db", db, "-o"],
        "report": ["report", "--db", db, "--format", "md", "-o"],
        "correlate": ["correlate", "--db", db, "--window", "6", "--plot"],
    }
    return lambda path: call([*lines[request.param], path])


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _begins(data: bytes) -> bool:
    return data.startswith((b"run,seed", b"# Neural", b"<?xml"))


@pytest.mark.parametrize("ending", ["csv", "md", "svg"])
def test_a_link_stays_and_its_target_is_written(db: str, tmp_path: Path, ending: str) -> None:
    """A link to what is there, one to what is not yet, a mode and a hard link, for every command."""
    command = {"csv": ["export", "-o"], "md": ["report", "-o"], "svg": ["correlate", "--window", "6", "--plot"]}[ending]
    real, link, hard = tmp_path / f"real.{ending}", tmp_path / f"link.{ending}", tmp_path / f"hard.{ending}"
    dangling = tmp_path / f"dangling.{ending}"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real.name)
    dangling.symlink_to(f"new.{ending}")
    first, *rest = command
    for target in (link, dangling):
        assert call([first, "--db", db, *rest, str(target)]) == 0 and target.is_symlink()
        assert _begins(target.read_bytes())
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    hard.hardlink_to(real)
    real.write_text("old")
    assert call([first, "--db", db, *rest, str(hard)]) == 0
    assert _begins(real.read_bytes()) and real.stat().st_ino == hard.stat().st_ino
    assert not list(tmp_path.glob(".*"))


def test_a_pipe_is_written_into(write: Writer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert write(str(pipe)) == 0
    reader.join(20)
    assert _begins(got[0]) and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into(write: Writer, tmp_path: Path) -> None:
    """A node of our own where we may make one, else the machine's as nobody could replace it."""
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.open("wb").close()
    except OSError:
        pytest.skip("no devices of one's own here")
    assert write(str(null)) == 0 and stat.S_ISCHR(null.stat().st_mode)


def test_a_full_device_is_an_error(write: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = tmp_path / "full"
    try:
        os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        full.open("wb").close()
    except OSError:
        pytest.skip("no devices of one's own here")
    assert write(str(full)) == 4 and stat.S_ISCHR(full.stat().st_mode)
    assert "cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files is what a full disk is, for us alone: nothing half-written, no temporary file."""
    target = tmp_path / "e.csv"
    target.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(StoreError, match="cannot be written"), opened(target) as file:
            file.write(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert target.read_text() == "old" and _names(tmp_path) == ["e.csv"]


def test_an_error_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "e.csv"
    target.write_text("old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), opened(target) as file:
            file.write(b"new")
            raise error
    assert target.read_text() == "old" and _names(tmp_path) == ["e.csv"]


@pytest.mark.parametrize("name", ["-", "/dev/fd/1", "link"])
def test_names_of_standard_output(db: str, tmp_path: Path, name: str) -> None:
    """Into a file that the shell has opened, after what is in it, and into a pipe."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    path = str(tmp_path / "link") if name == "link" else name
    command = [sys.executable, "-m", "ncpl_cli", "export", "--db", db, "-o", path]
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.DEVNULL)
        file.seek(0, os.SEEK_END)
        file.write(b"after\n")
    lines = out.read_text().splitlines()
    assert (lines[0], lines[1][:8], lines[-1], len(lines)) == ("before", "run,seed", "after", 27)
    assert _names(tmp_path) == ["link", "out.txt"]


@pytest.mark.parametrize("kind", ["empty", "blank", "a folder", "a folder's name"])
def test_what_can_be_no_file_is_the_command_lines_fault(
    write: Writer, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"empty": "", "blank": "  ", "a folder": str(tmp_path), "a folder's name": f"{tmp_path}/new/"}[kind]
    assert write(path) == 2
    said = capsys.readouterr().err
    assert ("empty" in said) == (kind in ("empty", "blank")) and ("is a directory" in said) == ("folder" in kind)


@pytest.mark.parametrize(
    ("command", "known"),
    [("export -o", "csv, parquet"), ("report -o", "csv, html, json, md"), ("correlate --plot", "pdf, png, svg")],
)
def test_an_unknown_ending_lists_the_known_ones(
    db: str, tmp_path: Path, command: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, option = command.split()
    assert call([first, "--db", db, option, str(tmp_path / "x.docx")]) == 2
    said = capsys.readouterr().err
    assert "'docx'" in said and known in said and not list(tmp_path.iterdir())


def test_a_format_goes_before_an_ending(db: str, tmp_path: Path) -> None:
    assert call(["export", "--db", db, "--format", "parquet", "-o", str(tmp_path / "x.dat")]) == 0
    assert len(pd.read_parquet(tmp_path / "x.dat")) == 24
    assert format_of("x.CSV", None, ("csv", "md"), "md") == "csv"
    assert format_of("x", None, ("csv", "md"), "md") == format_of("-", None, ("csv", "md"), "md") == "md"
    with pytest.raises(InputError, match="unknown format 'txt'"):
        format_of("x.csv", "txt", ("csv", "md"), "md")


def test_a_folder_that_is_closed_does_not_close_its_files(tmp_path: Path) -> None:
    """What may be written is written, though nothing can be made beside it."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    target = tmp_path / "e.csv"
    target.write_text("old")
    tmp_path.chmod(0o555)
    try:
        with opened(target) as file:
            file.write(b"new")
    finally:
        tmp_path.chmod(0o755)
    assert target.read_text() == "new"


def test_names_of_open_files_are_known(tmp_path: Path) -> None:
    names = ("/dev/stdout", "/dev/../dev/stderr", "/dev/fd/7", "/proc/self/fd/2", "/dev/null", str(tmp_path))
    assert [_descriptor(Path(name)) for name in names] == [1, 2, 7, 2, None, None]


def test_a_place_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"), opened(tmp_path / "no" / "x.csv"):
        pass
    assert not special(str(tmp_path / "no" / "x.csv")) and special("/dev/null")
