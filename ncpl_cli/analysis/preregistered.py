"""A plan of the analysis, fixed before the first run: what is a question, and what was found by looking.

    [[question]]
    name = "does collapse cost plasticity"
    x = "nc1"
    y = "plasticity_loss"
    across = "tasks"             # epochs, tasks or runs
    window = 100
    method = "pearson"
    controls = ["train_accuracy"]

Its canonical JSON is kept with every run that is made under it, before that run's first epoch, and is no part of the
run's identity; a run that had begun before keeps what it began with. The digest is SHA-256 of that JSON.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ncpl_cli.analysis.results import ACROSS, GroupCorrelation
from ncpl_cli.analysis.statistics import METHODS
from ncpl_cli.analysis.study import Run
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.records import Address

EXAMPLE = "[[question]] name, x, y, and if wanted across, window, method, controls"


@dataclass(frozen=True)
class Question:
    """One question: a pair, and how it is looked at. None: whatever the command's default is."""

    name: str
    x: str
    y: str
    across: str | None = None
    window: int = 100
    method: str = "pearson"
    controls: tuple[str, ...] = ()

    def differs(self, result: GroupCorrelation, controls: Sequence[str]) -> dict[str, tuple[object, object]]:
        """{choice: (planned, made)} where an analysis of this pair is another than was planned."""
        made = {"across": result.across, "window": result.window, "method": result.method, "controls": tuple(controls)}
        planned = {name: getattr(self, name) for name in made}
        planned["across"] = planned["across"] or result.across
        if result.across == "runs":
            planned["window"] = result.window  # tasks are looked at one by one: there is no window
        return {name: (planned[name], made[name]) for name in made if planned[name] != made[name]}


@dataclass(frozen=True)
class Plan:
    """Questions in order."""

    questions: tuple[Question, ...]

    @property
    def text(self) -> str:
        """Canonical JSON."""
        return json.dumps([asdict(q) for q in self.questions], sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @classmethod
    def of(cls, text: str) -> Plan:
        """The plan of a canonical text."""
        return cls(tuple(Question(**{**q, "controls": tuple(q["controls"])}) for q in json.loads(text)))

    def question(self, x: str, y: str) -> Question | None:
        """The question about a pair."""
        return next((q for q in self.questions if (q.x, q.y) == (x, y)), None)


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file; raises InputError naming what is wrong in it."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no plan {path}.", f"it would hold: {EXAMPLE}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}.", f"a plan holds: {EXAMPLE}") from None
    for key in document:
        if key != "question":
            raise unknown(f"entry of {path}", key, ("question",))
    listed = document.get("question")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise InputError(f"{path} asks no question.", f"a plan holds: {EXAMPLE}")
    questions = tuple(_question(one, path) for one in listed)
    if len({q.name for q in questions}) < len(questions) or len({(q.x, q.y) for q in questions}) < len(questions):
        raise InputError(f"{path} asks a question twice: each name and each pair stands once.")
    return Plan(questions)


def _question(one: Mapping[str, Any], path: Path) -> Question:
    kinds: dict[str, type] = {"name": str, "x": str, "y": str, "across": str, "window": int, "method": str,
                              "controls": list}  # fmt: skip
    for key, value in one.items():
        if key not in kinds:
            raise unknown(f"entry of a question in {path}", key, [f.name for f in fields(Question)])
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise InputError(f"{path}: {key} = {value!r} is not what it takes.", f"a plan holds: {EXAMPLE}")
    for key in ("name", "x", "y"):
        if not one.get(key):
            raise InputError(f"{path}: a question has no {key}.", f"a plan holds: {EXAMPLE}")
    if one.get("across") not in (None, *ACROSS):
        raise unknown("across", one["across"], ACROSS)
    if one.get("method", "pearson") not in METHODS:
        raise unknown("method", one["method"], METHODS)
    if one.get("window", 100) < 2:
        raise InputError(f"{path}: window = {one['window']} is impossible: at least 2.")
    controls = one.get("controls", [])
    if not all(isinstance(c, str) for c in controls):
        raise InputError(f"{path}: controls is a list of metrics.", f"a plan holds: {EXAMPLE}")
    x, y = (str(Address.parse(one[key])) for key in ("x", "y"))
    return Question(
        one["name"], x, y, one.get("across"), one.get("window", 100), one.get("method", "pearson"),
        tuple(str(Address.parse(c)) for c in controls),
    )  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """Whether a result answers a planned question.

    kind  planned | changed (another analysis of a planned pair) | exploratory | unplanned (no plan was made)
    """

    kind: str
    sentence: str
    digests: tuple[str, ...] = ()
    question: str | None = None
    differs: Mapping[str, tuple[object, object]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind, "digests": list(self.digests), "question": self.question, "sentence": self.sentence,
            "differs": {k: {"planned": a, "made": b} for k, (a, b) in (self.differs or {}).items()},
        }  # fmt: skip


def standing(result: GroupCorrelation, runs: Sequence[Run], controls: Sequence[str] = ()) -> Standing:
    """Whether a result over these runs was planned; `controls`: those that were asked for."""
    plans = [Plan.of(run.plan) if run.plan else None for run in runs]
    known = list(dict.fromkeys(p for p in plans if p is not None))
    if not known:
        return Standing("unplanned", "No plan was fixed before these runs: what they show was found by looking.")
    digests = tuple(p.digest for p in known)
    without = sum(p is None for p in plans)
    first = known[0]
    tail = "" if not without else f" {without} of the {len(plans)} runs were begun without a plan."
    if len(known) > 1:
        tail += f" The plan was changed between runs: {'; '.join(changes(first, known[-1]))}."
    question = first.question(result.x, result.y)
    if question is None:
        names = ", ".join(f"{q.x} and {q.y}" for q in first.questions)
        text = f"Exploratory: {result.x} and {result.y} is no question of plan {first.digest} ({names}).{tail}"
        return Standing("exploratory", text, digests)
    differs = question.differs(result, controls)
    if not differs:
        text = f"Planned: question '{question.name}' of plan {first.digest}, fixed before the first run.{tail}"
        return Standing("planned", text, digests, question.name)
    listed = ", ".join(f"{k}: {_said(a)} planned, {_said(b)} here" for k, (a, b) in differs.items())
    text = (
        f"Exploratory: question '{question.name}' of plan {first.digest} was to be answered otherwise ({listed}).{tail}"
    )
    return Standing("changed", text, digests, question.name, differs)


def changes(old: Plan, new: Plan) -> list[str]:
    """What differs between two plans, question by question, in words."""
    before, after = ({q.name: q for q in p.questions} for p in (old, new))
    lines = [f"'{name}' was dropped" for name in before if name not in after]
    lines += [f"'{name}' was added" for name in after if name not in before]
    for name in before:
        if name in after and before[name] != after[name]:
            a, b = asdict(before[name]), asdict(after[name])
            listed = ", ".join(f"{k}: {_said(a[k])} became {_said(b[k])}" for k in a if a[k] != b[k])
            lines.append(f"'{name}': {listed}")
    return lines


def _said(value: object) -> str:
    return (" and ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)
