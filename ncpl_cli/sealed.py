"""A safetensors file that says what it is, and can prove it: facts about it and a digest in its metadata.

digest = SHA-256 of the facts, of the tensors' names, types and shapes, and of all their bytes. Standard library only:
whoever takes a file over need not load torch to see that it is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KNOWN = {"run", "identity", "position", "engine", "numerics", "digest"}
"""Facts that a checkpoint may state; those of before 0.2.0 have no digest."""

NAME = re.compile(r"epoch-(\d{8})\.safetensors")


class Refused(Exception):
    """A file that is not to be used, with the reason: `damaged (...)` or `of another run`."""


def seal(data: bytes, facts: Mapping[str, object]) -> bytes:
    """A serialised safetensors file with facts and digest in its metadata."""
    header, body = _split(data)
    header.pop("__metadata__", None)
    stated = {**facts, "digest": _digest(facts, header, body)}
    text = json.dumps({"__metadata__": {"ncpl": json.dumps(stated)}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def facts_of(data: bytes, run: str | None = None, epoch: int | None = None) -> dict[str, Any]:
    """What a checkpoint states, once it is proved: of this run, after this epoch, every bit as it was written.

    Raises Refused. A checkpoint of before 0.2.0 states no digest: its bits are taken as they are.
    """
    try:
        header, body = _split(data)
        facts = dict(json.loads(header.pop("__metadata__")["ncpl"]))
        stated, digest = facts.pop("digest", None), None
        if unknown := facts.keys() - KNOWN:
            raise Refused(f"damaged (it states {', '.join(sorted(unknown))})")
        digest = _digest(facts, header, body)
        of, after = str(facts["run"]), int(facts["position"]["epoch"])
        named = hashlib.sha256(str(facts["identity"]).encode()).hexdigest()[: len(of)]
    except (KeyError, TypeError, ValueError, AttributeError, struct.error, RecursionError) as error:
        raise Refused(f"damaged ({error or type(error).__name__})") from error
    if stated is not None and stated != digest:
        raise Refused("damaged (its bits are not those that were written)")
    if run is not None and of != run:
        raise Refused(f"of another run ({of})")
    if stated is not None and named != of:
        raise Refused("damaged (the run it states is not that of the identity it states)")
    if epoch is not None and after != epoch:
        raise Refused(f"damaged (it is the state after epoch {after})")
    return facts


def refusal(path: Path) -> str | None:
    """Why a checkpoint, by its place `<run>/epoch-<number>.safetensors`, cannot be used; None where it can."""
    number = NAME.fullmatch(path.name)
    try:
        facts_of(path.read_bytes(), path.parent.name, int(number.group(1)) if number else None)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    except Refused as why:
        return f"{path} is {why}"
    return None


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header as it is written, and the bytes of the tensors."""
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - 8:
        raise ValueError("it is cut off")
    return dict(json.loads(data[8 : 8 + length])), memoryview(data)[8 + length :]


def _digest(facts: Mapping[str, object], header: Mapping[str, object], body: memoryview) -> str:
    found = hashlib.sha256(json.dumps([dict(facts), dict(header)], sort_keys=True).encode())
    found.update(body)
    return found.hexdigest()


__all__ = ["NAME", "Refused", "facts_of", "refusal", "seal"]
