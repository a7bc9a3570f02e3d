"""README and pages: links that lead somewhere, a site that builds; exports that others can read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from ncpl_cli.main import call
from ncpl_cli.store import frames, open_store
from ncpl_cli.store.event_files import crc32c, events
from ncpl_cli.store.tracker_logs import tensorboard
from tests.studies import make_store

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(place), f"{page.name}: {target}"


def test_the_readme_is_read_at_a_sitting_and_asks_twelve_questions() -> None:
    text = (HOME / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(re.findall(r"^\| .+\? \| `ncpl .+` \|", text, flags=re.M)) == 12


def test_the_site_builds_and_has_every_page(tmp_path: Path) -> None:
    build = pytest.importorskip("mkdocs.commands.build", reason="mkdocs is not here (make setup installs it)")
    from mkdocs.config import load_config

    config = load_config(str(HOME / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build.build(config)
    built = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert {page.stem for page in PAGES[1:]} <= built
    listed = re.findall(r": (\w+\.md)$", (HOME / "mkdocs.yml").read_text(), flags=re.M)
    assert sorted(listed) == sorted(page.name for page in PAGES[1:]), "every page is in the navigation"


QUESTIONS = (HOME / "docs" / "open_questions.md").read_text(encoding="utf-8")


def test_open_questions_are_those_that_can_be_reproduced() -> None:
    from ncpl_cli.studies import study_named

    study = study_named("bonifazi2024-next")
    rows = re.findall(r"^\| `(\w+)` \|", QUESTIONS, flags=re.M)
    assert rows == [part.id for part in study.parts]
    grid = study.part("architecture").plans["smoke"].arms
    assert list(next(iter(grid.values()))) == ["width", "depth", "norm", "activation", "lr_schedule"]
    assert "width x depth x norm x activation x schedule" in QUESTIONS
    (about,) = {claim.source for claim in study.part("epochs").claims if claim.id == "epochs-add-up"}
    assert "open question" in about
    arms = [name for name in study.part("regularisers").plans["smoke"].arms if name.startswith("nc3-")]
    assert len(arms) == 6 and sum(name.startswith("nc3-promote") for name in arms) == 3, "both ways, three strengths"


def test_what_open_questions_says_of_options_and_metrics_holds() -> None:
    import typer

    from ncpl_cli.main import COMMANDS, app
    from ncpl_cli.metrics.catalogue import METRICS

    group, known = typer.main.get_command(app), set[str]()
    with group.make_context("ncpl", ["catalog"]) as context:
        train = group.get_command(context, "train")
        with train.make_context("train", ["--help"], parent=context, resilient_parsing=True) as within:
            found = [train.get_command(within, name) for name in train.list_commands(within)]
        found += [group.get_command(context, name) for name in COMMANDS]
    known = {option for command in found for parameter in command.params for option in parameter.opts}
    prose = re.sub(r"^ {4}.*$", "", QUESTIONS, flags=re.M)
    assert set(re.findall(r"`[^`]*?(--[a-z-]+)", prose)) <= known
    ids = {re.sub(r"@\w+$", "", name) for name in re.findall(r"`([a-z_0-9]+(?:@first)?)`", prose)}
    words = {"incremental", "similarity", "architecture", "epochs", "regularisers", "causal", "full_reset"}
    assert {name for name in ids - words if "_" in name or name.startswith("nc")} <= set(METRICS)
    assert all((HOME / path).is_file() for path in re.findall(r"`(benchmarks/\S+)`", prose))


def test_what_open_questions_says_of_protocols_and_similarity_holds() -> None:
    import numpy as np

    from ncpl_cli.data import load
    from ncpl_cli.metrics.retained import OF_FIRST
    from ncpl_cli.scenarios.incremental import ClassIncremental
    from ncpl_cli.settings import asked
    from ncpl_cli.spec import DatasetSpec

    text = " ".join(QUESTIONS.split())
    full = asked(ClassIncremental, {"dataset": "cifar100"})
    small = asked(ClassIncremental, {"dataset": "digits", "protocol": "dohare2024"})
    of = full.scenario
    assert f"`--augment {of.augment}`" in text and (of.classes_per_task, of.epochs) == (5, 200)
    assert "five classes more every 200 epochs, 450 images of each (a tenth is set aside)" in text
    assert full.dataset.validation_fraction == 0.1  # of cifar100's 500
    assert full.optimizer.lr_schedule == "step:60/120/160:0.2"
    assert "to a fifth at epochs 60, 120 and 160 and anew with each task" in text
    assert (small.network.name, small.scenario.classes_per_task, small.scenario.epochs) == ("convnet", 2, 20)
    assert "a small convolutional network, 2 classes, 20 epochs" in text
    assert OF_FIRST == ("drift_of_means", "readout_gap") and all(f"`{name}@first`" in text for name in OF_FIRST)
    # linear CKA of the inputs knows nothing of the order of pixels; what ncpl measures does
    x = load(DatasetSpec("digits")).train.images[:200].reshape(200, -1).astype(float)
    x, y = (z - z.mean(0) for z in (x, x[:, np.random.default_rng(0).permutation(64)]))
    cka = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert cka == pytest.approx(1) and "Linear CKA of the inputs would be 1" in text


def test_what_open_questions_says_of_doses_and_shares_holds() -> None:
    import numpy as np

    from ncpl_cli.analysis.doses import dose_of
    from ncpl_cli.analysis.through import ASSUMPTIONS, share_of

    draw = np.random.default_rng(0)
    doses = (-0.3, -0.1, 0.0, 0.1, 0.3)
    both = dose_of("nc1", {s: {d: 0.8 - d * d + 1e-3 * draw.standard_normal() for d in doses} for s in range(8)})
    assert both.slope.ci95 and both.slope.ci95[0] < 0 < both.slope.ci95[1], "hurts in both directions: no slope"
    assert both.bend.ci95 and both.bend.ci95[1] < 0, "and a bend"
    assert share_of(np.arange(5.0), np.array([-1.0, 1.0, -2.0, 2.0, 0.1]))[:2] == (None, None)
    assert ASSUMPTIONS[0].startswith("Associated, not caused") and "only the arm was set" in ASSUMPTIONS[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "ncpl.db"
    make_store(path)
    return path


def test_columns_of_an_export_are_described_beside_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("epochs.csv", "b.parquet", "epochs.csv"):
        assert call(["export", "--db", str(store), "-o", str(tmp_path / name), "--settings"]) == 0
    package = json.loads((tmp_path / "datapackage.json").read_text())
    assert [one["path"] for one in package["resources"]] == ["b.parquet", "epochs.csv"]
    fields = {one["name"]: one for one in package["resources"][1]["schema"]["fields"]}
    head = (tmp_path / "epochs.csv").read_text().partition("\n")[0]
    assert list(fields) == head.split(",")
    assert fields["nc1"]["type"] == "number" and "Sigma_W" in fields["nc1"]["description"]
    assert "Papyan et al. (2020)" in fields["nc1"]["source"] and fields["epoch"]["type"] == "integer"
    (tmp_path / "datapackage.json").write_text('{"name": "of somebody else"}')
    assert call(["export", "--db", str(store), "-o", str(tmp_path / "c.csv")]) == 0
    assert (tmp_path / "datapackage.json").read_text() == '{"name": "of somebody else"}'


def test_a_setting_that_is_called_like_a_column_has_one_of_its_own(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as made:
        for seed in range(2):
            config = {"layer": f"l{seed}", "parent": f"p{seed}", "lr": 0.1 * (seed + 1)}
            with made.run("mine", seed=seed, config=config) as run:
                run.record(epoch=1, task=0, metrics={"nc1": 1.0})
        frame = made.frame(settings=True)
    assert len(set(frame.columns)) == len(frame.columns) and frame["settings.layer"].tolist() == ["l0", "l1"]
    assert frame["layer"].tolist() == ["last", "last"] and frame["lr"].tolist() == [0.1, 0.2]


def test_a_setting_of_several_kinds_is_text_in_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, given = str(tmp_path / "a.db"), ((0, {"epochs": 2, "lr": 1}), (1, {"epochs": [5, 1], "lr": 0.5}), (2, {}))
    with open_store(path) as made:
        for seed, config in given:
            with made.run("mine", seed=seed, config=config) as run:
                run.record(epoch=1, task=0, metrics={"nc1": 1.0})
    for name, read in (("e.parquet", pd.read_parquet), ("e.csv", pd.read_csv)):
        assert call(["export", "--db", path, "-o", str(tmp_path / name), "--settings"]) == 0
        frame = read(tmp_path / name).sort_values("seed")
        assert frame["epochs"].tolist()[:2] == ["2", "[5,1]"] and pd.isna(frame["epochs"].tolist()[2])
        assert frame["lr"].tolist()[:2] == [1.0, 0.5]


def test_a_large_store_is_exported_a_few_runs_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces make the same file: of runs that lack a setting, a metric, or every epoch."""
    path = str(tmp_path / "a.db")
    with open_store(path) as made:
        for seed, (config, metric) in enumerate([({}, "nc1"), ({"units": 7}, "nc2@test"), ({"units": 9}, "mine")]):
            with made.run("mine", seed=seed, config=config) as run:
                for epoch in (1, 2):
                    run.record(epoch=epoch, task=0, metrics={metric: 0.1 * epoch})
        with made.run("mine", seed=3, config={"units": 8.5}):
            pass  # nothing
    files = {}
    for rows in (frames.PIECE, 1):
        monkeypatch.setattr(frames, "PIECE", rows)
        for kind in ("csv", "parquet"):
            assert call(["export", "--db", path, "-o", str(tmp_path / f"e.{kind}"), "--settings"]) == 0
        assert "8 rows of 3 runs" in capsys.readouterr().err
        files[rows] = ((tmp_path / "e.csv").read_text(), pd.read_parquet(tmp_path / "e.parquet"))
    (text, table), (pieced, in_pieces) = files.values()
    assert text == pieced
    pd.testing.assert_frame_equal(table, in_pieces)
    lines = text.splitlines()
    assert lines[0].endswith(",split,layer,units,nc1,nc2,mine")
    assert sum(line.endswith(",train,last,,0.1,,") for line in lines) == 1
    assert sum(line.endswith(",test,last,7.0,,0.1,") for line in lines) == 1 and 9 in table["units"].tolist()


def test_event_files_hold_what_was_stored(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    logs = tmp_path / "logs"
    assert call(["export", "--db", str(store), "--format", "tensorboard", "-o", str(logs)]) == 0
    with open_store(store) as opened:
        row = next(row for row in opened.runs(status="finished"))
        wanted = {int(r["epoch"]): r["nc1"] for r in opened.rows(row.id) if r["nc1"] is not None}
    (_, names), *lines = list(tensorboard(logs / row.id))
    read = [dict(zip(names, values, strict=False)) for _, values in lines]
    assert {int(r["epoch"]): float(r["nc1"]) for r in read if r.get("nc1")} == wanted
    assert {int(float(r["seed"])) for r in read} == {row.seed}
    assert call(["export", "--db", str(store), "--format", "tensorboard", "-o", str(logs)]) == 2, "there already"
    assert call(["export", "--db", str(store), "--format", "tensorboard"]) == 2


def test_tensorboard_itself_reads_an_event_file(tmp_path: Path) -> None:
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not here"
    )
    (tmp_path / "events.out.tfevents.1.ncpl").write_bytes(events([(1, {"nc1": 0.1}), (2, {"nc1": 1e-11})], 1.0))
    accumulator = loader.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [e.step for e in accumulator.Tensors("nc1")] == [1, 2]
