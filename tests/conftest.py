"""What all tests share: offline mode, a private cache, the folder of real data where it is at hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("hybrid_ir", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("hybrid_ir")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache."""
    os.environ["HYBRID_IR_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def signals_stay() -> Iterator[None]:
    """Commands that run in this process take its signals over; afterwards they are as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real multilingual data and a pretrained encoder, not part of the project."""
    folder = Path(os.environ.get("HYBRID_IR_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set HYBRID_IR_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def e5_small(shared: Path) -> Path:
    """Folder of a real pretrained multilingual encoder (12 layers, 384 dimensions)."""
    return shared / "models" / "e5-small"
