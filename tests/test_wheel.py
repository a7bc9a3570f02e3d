"""The wheel carries the migrations: installed elsewhere, it opens a store."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_an_installed_wheel_opens_a_store(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; make setup installs it")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ncpl-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "ncpl_cli/_migrations/versions/0001_foundation.py" in names
    assert {"ncpl_cli/report/formats/report.html", "ncpl_cli/studies/bonifazi2024.toml"} <= set(names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    target = tmp_path / "site"
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import ncpl_cli; from ncpl_cli.store import open_store; from ncpl_cli.store.migrate import folder\n"
        "assert 'site' in ncpl_cli.__file__ and folder().name == '_migrations', (ncpl_cli.__file__, folder())\n"
        "print(open_store('a.db').info()['schema'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0002"
