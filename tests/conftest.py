"""What all tests share."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ncpl_cli.data import Dataset, load
from ncpl_cli.executors import local
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import Store, open_store
from tests import forked

torch.set_num_threads(1)  # on small matrices a second thread costs more than it brings
os.environ.update(NO_COLOR="1", TERM="dumb", COLUMNS="120")
for name in ("NCPL_DB", "NCPL_DATA_DIR", "NCPL_DEVICE", "NCPL_QUIET", "NCPL_DEBUG"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def workers_are_forks() -> Iterator[None]:
    """Workers of a sweep that runs in this process start at once; command lines of their own start real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "subprocess", forked.workers_as_forks())
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The bundled digits."""
    return load(DatasetSpec("digits"))


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A directory with the real MNIST files, where there is one."""
    folder = Path(os.environ.get("NCPL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("real MNIST is not here (NCPL_TEST_DATA names its directory)")
    return folder


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium; skipped where it or Playwright is missing.

    Of one test: while Playwright runs, its event loop is the thread's, and no other test could have one.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not here (make setup installs it)")
    pytest.importorskip("axe_playwright_python", reason="axe is not here (make setup installs it)")
    names = (os.environ.get("NCPL_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("Chromium is not here (apt-get install chromium, or NCPL_CHROMIUM names it)")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Makes a new, empty database on a PostgreSQL server of our own, and gives its URL; skips without PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'ncpl[postgres]')")
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    binaries = next((Path(path).resolve().parent for path in found if path), None)
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    user = None  # it refuses to run as root
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short
    if user:
        shutil.chown(folder, user)
    as_user = {"user": user} if user else {}
    command = [binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "ncpl", "--no-sync"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **as_user)  # type: ignore[call-overload]
    server = subprocess.Popen(
        [binaries / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,  # type: ignore[call-overload]
    )  # fmt: skip
    import psycopg

    numbers = itertools.count()

    def database() -> str:
        name = f"ncpl{next(numbers)}"
        deadline = time.monotonic() + 30
        while True:
            try:
                with contextlib.closing(psycopg.connect(f"host={folder} user=ncpl dbname=postgres")) as connection:
                    connection.autocommit = True
                    connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload, unused-ignore]
                return f"postgresql://ncpl@/{name}?host={folder}"
            except psycopg.OperationalError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.1)

    yield database
    server.send_signal(signal.SIGQUIT)  # at once: what it holds is thrown away
    server.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The contract: what a test asks of this store holds for every database."""
    url = tmp_path / "a.db" if request.param == "sqlite" else request.getfixturevalue("postgres")()
    with open_store(url) as store:
        yield store
