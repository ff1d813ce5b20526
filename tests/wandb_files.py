"""What Weights & Biases keeps in a folder, read back; and the environment of a user who has an API key."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as records_of

SECRET = "0123456789abcdef0123456789abcdef01234567"
"""What an API key looks like."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """The tests' environment with a user who has an API key, and no settings of Weights & Biases but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return {**kept, "HOME": str(home), "WANDB_API_KEY": SECRET, **more}


def parts(run: Path) -> list[Path]:
    """Folders in which a run is kept, where ``wandb sync`` looks."""
    return sorted(path for path in (run / "wandb").glob("*run-*") if not path.is_symlink())


def records(part: Path, kind: str) -> list[Any]:
    """Records of one kind of a run's ``.wandb`` file: a log in LevelDB's format of protobuf messages."""
    (path,) = part.glob("*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    found, pieces, position, block = [], [], 7, 32768
    while position + 7 <= len(content):
        _, length, piece = struct.unpack("<IHB", content[position : position + 7])
        if block - position % block < 7 or piece == 0:  # what is left of a block is padding
            position += block - position % block
            continue
        pieces.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if piece in (1, 4):  # a whole record, or the last piece of one
            record = records_of.Record.FromString(b"".join(pieces))
            pieces = []
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def wandb_table(part: Path, name: str) -> tuple[list[str], list[list[Any]]]:
    (path,) = (part / "files" / "media" / "table").glob(f"{name}_*.table.json")
    content = json.loads(path.read_text())
    return content["columns"], content["data"]
