"""Files of data sets on the Hugging Face hub: at one commit, downloaded once, with what they need said before.

What is in the hub's cache is not asked for again, and with ``HF_HUB_OFFLINE=1`` nothing is. Every fault is one line
that says which file, where it is to be had, and where to put it by hand.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from hybrid_ir import cache
from hybrid_ir.errors import DataError, UserError

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file, or several, of a data set on the hub."""

    repository: str
    revision: str
    name: str
    """Path in the repository; ``*`` stands for anything but a slash."""

    @property
    def address(self) -> str:
        """Where it can be downloaded by hand; of several files, where they are listed."""
        if "*" in self.name:
            return f"{HUB}/datasets/{self.repository}/tree/{self.revision}/{self.name.rpartition('/')[0]}".rstrip("/")
        return f"{HUB}/datasets/{self.repository}/resolve/{self.revision}/{self.name}"


def say(text: str) -> None:
    """A line of progress, on the error stream."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text)


def files_in(folder: Path, name: str) -> list[Path]:
    """The files of a name in a folder, those of ``*`` in the order of the numbers in their names.

    Raises:
        DataError: the names say ``-of-<n>``, and there are not n.
    """
    if "*" not in name:
        return [folder / name] if (folder / name).is_file() else []
    found = sorted(
        (path for path in folder.glob(name) if path.is_file()),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
    )
    total = re.search(r"-of-(\d+)", found[0].name) if found else None
    if total and len(found) != int(total[1]):
        raise DataError(
            f"{found[0].parent}: has {len(found)} of the {int(total[1])} files {Path(name).name}; add the others"
        )
    return found


def snapshot(repository: str, revision: str) -> Path:
    """Folder in the hub's cache of what was downloaded of a data set; it may not be there."""
    from huggingface_hub import constants

    # as huggingface_hub names it, whose own function for it takes half a second to import
    return Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}" / "snapshots" / revision


def offline() -> bool:
    """Whether the hub is not to be asked (``HF_HUB_OFFLINE=1``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_offline(files: Sequence[HubFile], key: str) -> None:
    """Checks that files are in the hub's cache, where the hub is not to be asked.

    Args:
        files: those to look for.
        key: setting that takes a folder instead, e.g. ``data.path``.

    Raises:
        DataError: one is not.
    """
    if not offline():
        return
    for file in files:
        if not files_in(snapshot(file.repository, file.revision), file.name):
            raise _cannot(file, key, "HF_HUB_OFFLINE is set", "unset it")


def download(files: Sequence[HubFile], key: str) -> list[Path]:
    """Files of the hub, downloaded where they are not in its cache; the room that they need is said and checked first.

    Args:
        files: those to get; ``*`` gives all of that name.
        key: setting that takes a folder instead, for messages.

    Raises:
        DataError: a file is not on the hub, or cannot be downloaded: where it is, and where to put it by hand.
        UserError: the disk has not the room.
    """
    from huggingface_hub import constants

    check_offline(files, key)
    lock = cache.cache_dir() / "downloads.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # of several processes of a run, one downloads
        lacking = [file for file in files if not _complete(file)]
        if lacking:
            sizes = {file: size for file, size in _sizes(lacking, key).items() if not _complete(file)}
            _check_room(sizes, Path(constants.HF_HUB_CACHE))
            for number, (file, size) in enumerate(sizes.items(), start=1):
                say(f"file {number} of {len(sizes)}: {file.name} ({_bytes(size)})")
                _fetch(file, key)
    return [path for file in files for path in files_in(snapshot(file.repository, file.revision), file.name)]


def _complete(file: HubFile) -> bool:
    try:
        return bool(files_in(snapshot(file.repository, file.revision), file.name))
    except DataError:  # some of several
        return False


def _sizes(files: Sequence[HubFile], key: str) -> dict[HubFile, int]:
    """Each single file and its bytes."""
    from fnmatch import fnmatchcase

    from huggingface_hub import HfApi, RepoFile

    sizes: dict[HubFile, int] = {}
    api = HfApi()
    for file in files:
        about: dict[str, Any] = {"revision": file.revision, "repo_type": "dataset"}
        try:
            if "*" in file.name:
                folder = file.name.rpartition("/")[0]
                listed = list(api.list_repo_tree(file.repository, path_in_repo=folder or None, **about))
            else:
                listed = api.get_paths_info(file.repository, [file.name], **about)
        except Exception as error:
            raise _not_given(file, key, error) from None
        found = {each.path: each.size for each in listed if isinstance(each, RepoFile)}
        named = {name: size for name, size in found.items() if fnmatchcase(name, file.name)}
        if not named:
            raise _cannot(file, key, "it is not there at this commit", "check the commit")
        sizes |= {HubFile(file.repository, file.revision, name): size for name, size in named.items()}
    return sizes


def _check_room(sizes: Mapping[HubFile, int], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    need, free = sum(sizes.values()), shutil.disk_usage(folder).free
    repositories = ", ".join(dict.fromkeys(f"{file.repository}@{file.revision[:12]}" for file in sizes))
    say(f"downloading {len(sizes)} files of {repositories}: {_bytes(need)} into {folder}, {_bytes(free)} free")
    if need > free:
        raise UserError(
            f"{folder}: has {_bytes(free)} free, the download needs {_bytes(need)}; free space, or set HF_HOME to a "
            f"folder on a larger disk"
        )


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _fetch(file: HubFile, key: str) -> None:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(file.repository, file.name, repo_type="dataset", revision=file.revision)
    except Exception as error:
        raise _not_given(file, key, error) from None


def _not_given(file: HubFile, key: str, error: Exception) -> DataError:
    # the hub's client raises from a dozen places, HTTP and file system among them
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):  # also what the hub answers where access must be asked for
        page = f"{HUB}/datasets/{file.repository}"
        return _cannot(file, key, "the hub does not give it", f"accept the conditions on {page} and set HF_TOKEN")
    return _cannot(file, key, (str(error).strip() or type(error).__name__).splitlines()[0], "check the network")


def _cannot(file: HubFile, key: str, reason: str, remedy: str) -> DataError:
    return DataError(
        f"{file.name}: cannot be downloaded from {file.address} ({reason}); {remedy}, or put it by hand as {file.name} "
        f"into a folder and set {key} to that folder"
    )
