"""source-classes and coarse-labels: what is trained on, what is measured beside it, against brute force."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncpl_cli import settings, trainer
from ncpl_cli.data import Dataset, Split, load
from ncpl_cli.data.sampling import limit_train
from ncpl_cli.data.turned import turned
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics import collapse
from ncpl_cli.metrics.forward import view
from ncpl_cli.metrics.readouts import readouts
from ncpl_cli.plan import plan
from ncpl_cli.records import Address
from ncpl_cli.scenarios import CoarseLabels, SourceClasses, outputs_of
from ncpl_cli.spec import DatasetSpec


def unbalanced(classes: int = 7, smallest: int = 12) -> Dataset:
    """Images that are sorted by class, class c has `smallest` + 3 c of them; the first pixel is the class, the others
    the image's number. Read-only, as arrays of a file are."""
    splits = []
    for base in (smallest, smallest // 2):
        labels = np.repeat(np.arange(classes), [base + 3 * c for c in range(classes)])
        images = np.zeros((len(labels), 1, 3, 3), np.uint8)
        images[:, 0, 0, 0] = labels
        images[:, 0, 1:] = np.arange(len(labels), dtype=np.uint8)[:, None, None]
        images.flags.writeable = labels.flags.writeable = False
        splits.append(Split(images, labels))
    return Dataset("toy", splits[0], splits[1], classes)


def classes_of(images: Any) -> list[int]:
    return sorted(set(images[:, 0, 0, 0].tolist()))


def ids(split: Split) -> set[int]:
    return set(split.images[:, 0, 1, 0].tolist())


# source classes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_never_shown_and_source_sets_contain_each_other(seed: int) -> None:
    data = unbalanced()
    unseen, before = None, set[int]()
    for count in (2, 3, 5):
        scenario = SourceClasses.of({"source_classes": count, "target_classes": 2, "per_class": 6})
        task = scenario.task(0, data, seed)
        shown = data.train.take(task.order(1))
        assert np.bincount(task.train_labels[task.order(1)]).tolist() == [6] * count == scenario.sizes(data)
        sources, targets = classes_of(shown.images), classes_of(task.parts["unseen"].images)
        assert len(sources) == count and len(targets) == 2 and not {*sources} & {*targets}
        assert unseen in (None, targets) and ids(shown) == ids(task.parts["train"]) and before < ids(shown)
        unseen, before = targets, ids(shown)
        # every image that is measured carries the number of its class, the same in every split
        number = {}
        for name in ("train", "test"):
            part = task.parts[name]
            assert classes_of(part.images) == sources
            for own, label in zip(part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True):
                assert number.setdefault(own, label) == label
        assert sorted(number.values()) == list(range(count))
        assert all(number[c] == task.train_labels[data.train.labels == c][0] for c in sources)
        whole = np.isin(data.test.labels, sources)
        assert len(task.parts["test"]) == whole.sum()
        assert len(task.parts["unseen"]) == np.isin(data.test.labels, targets).sum()
        assert sorted(set(task.parts["unseen"].labels.tolist())) == [0, 1]


def test_smaller_draws_of_images_are_part_of_larger_ones_and_a_total_is_shared_out() -> None:
    data = unbalanced()
    few, many = (SourceClasses.of({"source_classes": 4, "per_class": m}).task(0, data, 1) for m in (3, 9))
    assert ids(few.parts["train"]) < ids(many.parts["train"])
    for count, sizes in ((2, [7, 6]), (4, [4, 3, 3, 3])):
        task = SourceClasses.of({"source_classes": count, "samples": 13}).task(0, data, 1)
        assert np.bincount(task.parts["train"].labels).tolist() == sizes and len(task.order(1)) == 13
    # without either, as many as the smallest class has: runs of any seed have equally many
    assert {len(SourceClasses.of({}).task(0, data, seed).order(1)) for seed in range(5)} == {4 * 12}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"per_class": 3, "samples": 9}, "give one"),
        ({"source_classes": 5}, "5 source and 3 target classes are impossible: toy has 7 classes"),
        ({"target_classes": 6}, "impossible"),
        ({"per_class": 13}, "the smallest class of toy has 12"),
        ({"samples": 3}, r"allowed are 4 \(one a class\)"),
        ({"source_classes": 2, "samples": 25}, "takes 13 images of a class"),
        ({"source_classes": 1}, "at least 2"),
        ({"probe": ["full-data"]}, "--probe full-data learns 7 outputs, and networks of source-classes have 4"),
        ({"intervention": ["nc1"], "batch_size": 7}, "two samples for each of 4 classes"),
    ],
)
def test_what_source_classes_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    data = unbalanced()
    with pytest.raises(InputError, match=words):
        settings.specs(SourceClasses, {"batch_size": 8, **given}, data, DatasetSpec("digits"), [0])


def test_turned_images_are_made_only_where_they_are_shown() -> None:
    draw = np.random.default_rng(0)
    splits = [Split(draw.integers(0, 255, (200, 1, 4, 4), np.uint8), np.arange(200) % 10) for _ in "ab"]
    data = turned(Dataset("mnist", *splits, 10))
    task = SourceClasses.of({"source_classes": 8, "target_classes": 4, "per_class": 5}).task(0, data, 0)
    assert "images" not in data.train.__dict__ and len(task.parts["train"]) == 40
    assert np.array_equal(task.parts["train"].images, data.train.images[np.sort(task.order(1))])


def a_record(data: Dataset, scenario: Any, **given: Any) -> tuple[Any, Any, Any]:
    """The last record of a run in float64, its network and its task."""
    (spec,) = settings.specs(scenario, {"precision": "float64", **given}, data, DatasetSpec("digits"), [3])
    (cohort,) = plan([spec], "cpu")
    epochs = list(trainer.train(cohort, data))
    net = trainer.build(spec, data)
    net.load_state_dict(trainer.part(epochs[-1].state()[0], "network."))
    assert net.classifier.out_features == outputs_of(spec, data)
    return epochs, net, spec.scenario.task(0, data, 3)


def test_unseen_classes_have_collapse_of_their_own_whatever_the_head_names(digits: Dataset) -> None:
    given = {"source_classes": 2, "target_classes": 5, "per_class": 40, "epochs": 2, "width": 16, "depth": 1}
    epochs, net, task = a_record(digits, SourceClasses, **given)
    last = epochs[-1].records[0]
    seen = view(net, digits, task.parts["unseen"], task.parts["unseen"].labels, None, device="cpu")
    expected = collapse(seen.layers["last"], seen.labels)
    for name in ("nc1", "cdnv", "nc2_means"):
        assert last.values[Address(name, "unseen")] == pytest.approx(expected[name], rel=1e-9)
    assert last.undefined[Address("nc4", "unseen")] == "the classifier knows other classes"
    assert last.undefined[Address("ncc_error", "unseen")] == "classes that are not trained on"
    assert last.values[Address("few_shot_ways", "unseen")] == 5 and last.values[Address("few_shot_ways", "test")] == 2
    assert Address("cdnv_directional", "unseen") in last.values  # `default` holds it here
    assert Address("few_shot_error_5", "unseen", "input") in epochs[0].records[0].values
    assert last.counts["unseen"]["classes"] == 5
    # the accuracy of the last epoch is of the source classes, in the table of tasks too
    right = view(net, digits, task.parts["test"], task.parts["test"].labels, None, device="cpu").accuracy
    assert last.values[Address("test_accuracy")] == right == last.task_accuracy[0] > 0


# coarse labels -----------------------------------------------------------------------------------------------------


def grouping(task: Any, data: Dataset) -> list[list[int]]:
    """The classes of each group, from every label of the training split."""
    pairs = {(g, c) for g, c in zip(task.train_labels.tolist(), data.train.labels.tolist(), strict=True)}
    assert len(pairs) == data.classes  # a class lies in one group
    assert {(g, c) for g, c in zip(task.test_labels.tolist(), data.test.labels.tolist(), strict=True)} == pairs
    return [sorted(c for group, c in pairs if group == g) for g in range(1 + max(g for g, _ in pairs))]


def test_groups_are_equal_named_or_drawn() -> None:
    data = unbalanced()

    def groups(seed: int = 0, **given: Any) -> list[list[int]]:
        return grouping(CoarseLabels.of(given).task(0, data, seed), data)

    assert groups() == [[0, 1, 2, 3], [4, 5, 6]]
    assert groups(groups="3") == [[0, 1, 2], [3, 4], [5, 6]]
    assert groups(groups="6,0-2/3-5") == [[0, 1, 2, 6], [3, 4, 5]]
    drawn = [groups(seed, grouping="random") for seed in range(3)]
    assert drawn[0] == groups(0, grouping="random") and len({str(one) for one in drawn}) == 3
    assert all(sorted(len(g) for g in one) == [3, 4] for one in drawn)
    assert CoarseLabels.of({"groups": "0-3/4-6"}) == CoarseLabels.of({"groups": "3,2,1,0/4,5,6"})


@pytest.mark.parametrize("per_class", [4, 6, 10])
def test_fresh_images_are_left_over_as_many_as_are_trained_on_and_keep_their_fine_labels(per_class: int) -> None:
    data = unbalanced()  # 12, 15, ... 30 images of a class
    task = CoarseLabels.of({"per_class": per_class}).task(0, data, 2)
    train, fresh = task.parts["train"], task.parts["fresh"]
    assert not ids(train) & ids(fresh) and ids(train) == ids(data.train.take(task.order(1)))
    for name, part in (("train", train), ("fresh", fresh), ("test", data.test)):
        fine = task.label_sets["fine"][name]
        assert np.array_equal(fine, part.images[:, 0, 0, 0])
        assert np.array_equal(task.measured(data)[name].labels, (fine >= 4).astype(int))
    assert np.bincount(task.label_sets["fine"]["train"]).tolist() == [per_class] * 7
    assert np.bincount(task.label_sets["fine"]["fresh"]).tolist() == [
        min(per_class, 12 + 3 * c - per_class) for c in range(7)
    ]
    assert "fresh" not in CoarseLabels.of({"per_class": 12}).task(0, data, 2).parts  # class 0 has none left over


def test_fresh_images_are_what_train_samples_leaves_over() -> None:
    data = unbalanced()
    cut = limit_train(data, 35)
    task = CoarseLabels.of({}).task(0, cut, 0)
    assert "train" not in task.parts and len(task.order(1)) == 35
    assert ids(task.parts["fresh"]) <= ids(data.train) - ids(cut.train)
    assert np.bincount(task.label_sets["fine"]["fresh"]).tolist() == [5] * 7
    assert cut.digest == replace(cut, left_over=None).digest  # what is left over is not trained on
    assert "fresh" not in CoarseLabels.of({}).task(0, data, 0).parts


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"groups": "1"}, "at least 2"),
        ({"groups": "0-3/3-6"}, "class 3 lies in two groups"),
        ({"groups": "0-3/4-5"}, "6 lies in no group of toy"),
        ({"groups": "0-3/4-7"}, "7 is no class of toy, whose classes are 0 to 6"),
        ({"groups": "7"}, "one group must hold two"),
        ({"groups": "a/b"}, "not a list of whole numbers"),
        ({"groups": "0-3/4-6", "grouping": "random"}, "give one"),
        ({"per_class": 13}, "smallest class of toy has 12"),
        ({"grouping": "some"}, "unknown --grouping 'some'"),
    ],
)
def test_what_coarse_labels_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        settings.specs(CoarseLabels, given, unbalanced(smallest=12), DatasetSpec("digits"), [0])


def test_a_number_of_groups_may_be_a_number_of_a_file() -> None:
    assert settings.asked(CoarseLabels, {"groups": 5}) == settings.asked(CoarseLabels, {"groups": "5"})


def test_read_outs_of_the_fine_labels_belong_to_default(digits: Dataset) -> None:
    given = {"groups": "5", "per_class": 30, "epochs": 2, "width": 16, "depth": 2, "layers": "all"}
    epochs, net, task = a_record(digits, CoarseLabels, **given)
    last = epochs[-1].records[0]
    layers = ["layer1", "last"]
    seen = {
        name: view(net, digits, one.split, one.labels, None, device="cpu", layers=layers)
        for name, one in task.measured(digits).items()
    }
    fine = task.label_sets["fine"]
    for layer in layers:
        rows = {name: seen[name].layers[layer].numpy() for name in fine}
        expected, _ = readouts(
            (rows["train"], fine["train"]), (rows["test"], fine["test"]), fresh=(rows["fresh"], fine["fresh"]),
            groups=(fine["test"], task.test_labels),
            orders=(task.parts["train"].mixed, task.parts["fresh"].mixed),
        )  # fmt: skip
        ours = {a.metric: v for a, v in last.values.items() if (a.split, a.layer) == ("fine_test", layer)}
        assert {k: v for k, v in ours.items() if k.startswith("readout")} == expected and len(expected) == 16
        for name in fine:
            nc1 = collapse(rows[name], fine[name], metrics=("nc1",))["nc1"]
            assert last.values[Address("nc1", f"fine_{name}", layer)] == pytest.approx(nc1, rel=1e-9)
    assert Address("readout_fixed", "test") in last.values  # of the groups themselves


# as any run --------------------------------------------------------------------------------------------------------


def test_they_train_go_on_are_measured_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ["--db", str(tmp_path / "a.db")]

    def out(*given: str) -> Any:
        assert call([*given, *db]) == 0
        return capsys.readouterr().out

    common = [
        "--width",
        "12",
        "--depth",
        "1",
        "--seeds",
        "0",
        "--json",
        "--measure-at",
        "2",
        "--measure-samples",
        "100",
    ]
    runs = json.loads(out("train", "coarse-labels", "--per-class", "20", "--epochs", "2", *common))["runs"]
    longer = json.loads(out("train", "coarse-labels", "--per-class", "20", "--epochs", "3", *common))["runs"]
    assert [r["id"] for r in longer] == [r["id"] for r in runs] and {r["epochs"] for r in longer} == {3}
    few = ["source-classes", "--source-classes", "2", "--per-class", "20", "--epochs", "2"]
    treated = json.loads(out("train", *few, "--intervention", "nc1:strength=0.05", *common))["runs"]
    assert [one["status"] for one in treated] == ["finished"]
    measured = json.loads(out("measure", "--run", runs[0]["id"], "--epoch", "3", "--json"))
    assert 0 < measured["layers"]["last"]["fine_test"]["readout_tuned_fresh"] <= 1
    rows = out("export", "--format", "csv").splitlines()
    assert any("fine_test" in row for row in rows) and any("unseen" in row for row in rows)
    for scenario in ("coarse-labels", "source-classes"):
        assert call(["correlate", "--scenario", scenario, "--y", "test_accuracy", *db]) == 0
        capsys.readouterr()
    out("report", "-o", str(tmp_path / "r.json"))
    assert "source-classes" in (tmp_path / "r.json").read_text()
    data = load(DatasetSpec("digits"))
    assert data.left_over is None
