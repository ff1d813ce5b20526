"""``python -m hybrid_ir.modeling.push RUN_OR_MODEL_DIR REPO_ID``: a finished model onto the Hugging Face hub.

Everything is checked before anything is sent; ``--dry-run`` stops there. Imports no torch.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hybrid_ir import __version__
from hybrid_ir.cli import report_errors
from hybrid_ir.composition import one_line
from hybrid_ir.errors import ConfigError, DataError, UserError
from hybrid_ir.modeling.card import CARD_FILE, MODEL_ID
from hybrid_ir.run_folder import CONFIG_FILE, SUMMARY_FILE

_DESCRIPTION = """Uploads the model of a complete run, or a model folder, to the Hugging Face hub.

The repository is made if it is not there; one that is there gets a commit. What would be uploaded is checked and
printed first. Log in with `hf auth login`, or set HF_TOKEN.

  python -m hybrid_ir.modeling.push RUN you/retriever --dry-run
  python -m hybrid_ir.modeling.push RUN you/retriever --private --license apache-2.0
"""

_FILE = re.compile(
    r"README\.md|(LICENSE|NOTICE)(\.\w+)?"
    r"|(config|hybrid_ir|modules|sentence_bert_config|config_sentence_transformers)\.json"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt"
    r"|(sentencepiece\.bpe|spiece|tokenizer)\.model"
    r"|\d+_(Pooling|Normalize|Dense)/config\.json|\d+_Dense/model\.safetensors"
)
"""What a model folder holds, and a licence that one adds to it: no checkpoints, no pickles, no code."""
_WEIGHTS = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|pytorch_model.*\.bin(\.index\.json)?"
)
_SECRET = re.compile(
    rb"\b(hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,}|AKIA[0-9A-Z]{16})\b"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Access tokens of the hub, GitHub and AWS, and private keys."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return report_errors(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        validate_repo_id(options.repo_id)
    except HFValidationError as error:
        raise ConfigError(f"{options.repo_id}: no name of a repository ({one_line(error)}); give USER/NAME") from None
    folder = find_model(Path(options.folder).expanduser())
    files = model_files(folder)
    notes = _check_card(files, options.license)
    if not options.dry_run:
        _check_access()
    visibility = "private" if options.private else "as the hub makes it (public by default), or as it is"
    print(f"{constants.ENDPOINT}/{options.repo_id}: branch {options.revision}, visibility {visibility}")
    sizes = {name: path.stat().st_size for name, path in files.items()}
    for name, size in sizes.items():
        print(f"{size:15,}  {name}")
    print(f"{len(sizes)} files, {sum(sizes.values()) / 2**20:,.1f} MiB")
    for note in notes:
        print(f"note: {note}")
    if options.dry_run:
        print("dry run: nothing was uploaded")
        return 0
    url = upload(files, options.repo_id, options.private, options.revision, options.message, options.license)
    print(f"uploaded: {url}")
    return 0


# ----------------------------------------------------------------------------------------------------------- checks


def find_model(folder: Path) -> Path:
    """The model folder of a complete run, or the model folder itself.

    Raises:
        DataError: there is no such folder, it holds no model, or its run is not complete.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of a run or of a model")
    run = folder if (folder / CONFIG_FILE).is_file() else folder.absolute().parent
    if (run / CONFIG_FILE).is_file():
        if not (run / SUMMARY_FILE).is_file():
            raise DataError(f"{run}: the run is not complete; finish it with `python train.py resume={run}`")
        if run == folder:
            folder = run / "model"
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise DataError(
            f"{folder}: holds no model (config.json and safetensors); give the folder of a training run or of a model"
        )
    return folder


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model folder by their names in it, checked one by one.

    Raises:
        DataError: a file is none that a model folder holds, leads out of the folder, or has an access token in it.
    """
    files = {}
    root = folder.resolve()
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(place, name)
            if not path.resolve().is_relative_to(root):
                raise DataError(f"{path}: is a link out of the folder; put the file itself there")
        for name in names:
            path = Path(place, name)
            inside = path.relative_to(folder).as_posix()
            if not _FILE.fullmatch(inside):
                raise DataError(f"{path}: is none of the files that a model folder holds; move it elsewhere")
            if path.suffix != ".safetensors":
                _check_secrets(path)
            files[inside] = path
    return dict(sorted(files.items()))


def _check_secrets(path: Path) -> None:
    content, own = path.read_bytes(), (get_token() or "").encode()
    found = _SECRET.search(content)
    start = found.start() if found else content.find(own) if own else -1
    if start >= 0:
        line = content.count(b"\n", 0, start) + 1
        raise DataError(f"{path}:{line}: has what looks like an access token or a key; take it out")


def _check_card(files: Mapping[str, Path], license_id: str | None) -> list[str]:
    if CARD_FILE not in files:
        if license_id is not None:
            raise ConfigError(f"--license {license_id}: the model has no {CARD_FILE} to say so; write one")
        return [f"there is no {CARD_FILE}: the hub will show no card"]
    path = files[CARD_FILE]
    try:
        card = ModelCard.load(path)
    except Exception as error:  # yaml's and the hub's own
        raise DataError(f"{path}: its front matter cannot be read ({one_line(error)}); mend it") from error
    if card.data.get("license") is None and license_id is None:
        return [f"{CARD_FILE} states no licence of the model; choose one with --license, e.g. apache-2.0"]
    return []


def _check_access() -> None:
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE=1: nothing can be uploaded; unset it, or look with --dry-run")
    if get_token() is None:
        raise UserError("not logged in to the Hugging Face hub; log in with `hf auth login`, or set HF_TOKEN")


# ----------------------------------------------------------------------------------------------------------- upload


def upload(
    files: Mapping[str, Path],
    repo_id: str,
    private: bool = False,
    revision: str = constants.DEFAULT_REVISION,
    message: str = "Upload model",
    license_id: str | None = None,
) -> str:
    """Uploads files in one commit, so that nobody downloads half a model.

    Args:
        files: by name in the repository.
        repo_id: ``USER/NAME``, or ``NAME`` of the user who is logged in; made if it is not there.
        private: refuse a repository that is there and public.
        revision: branch; made if it is not there.
        message: of the commit.
        license_id: licence that the card states, in place of its own.

    Returns:
        URL of the commit.

    Raises:
        UserError: the hub cannot be reached or refuses, or a private repository is asked for and it is public.
    """
    api = HfApi(library_name="hybrid_ir", library_version=__version__)
    try:
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise UserError(f"--private: {repo_id} is there and is public; make it private on the hub, or leave it out")
        if revision != constants.DEFAULT_REVISION:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, _published(path, repo_id, license_id) if name == CARD_FILE else str(path))
            for name, path in files.items()
        ]
        # weights of an earlier model under other names would be loaded in place of these
        old = [name for name in api.list_repo_files(repo_id, revision=revision) if name not in files]
        operations += [CommitOperationDelete(name) for name in old if _WEIGHTS.fullmatch(name)]
        return str(api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises from a dozen places, HTTP and file system among them
        raise UserError(f"{repo_id}: could not be uploaded to {constants.ENDPOINT} ({one_line(error)})") from error


def _published(card_file: Path, repo_id: str, license_id: str | None) -> bytes:
    """The card with the repository's name in its code, and the licence that was chosen."""
    card = ModelCard(card_file.read_text(encoding="utf-8").replace(MODEL_ID, repo_id))
    if license_id is not None:
        card.data["license"] = license_id
    return str(card).encode()


# -------------------------------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{one_line(message)}; --help explains the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m hybrid_ir.modeling.push",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="RUN_OR_MODEL_DIR", help="folder of a complete run, or of a model")
    parser.add_argument("repo_id", metavar="REPO_ID", help="USER/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make it private; one that is there must be")
    parser.add_argument(
        "--revision", default=constants.DEFAULT_REVISION, metavar="BRANCH", help="made if it is not there (main)"
    )
    parser.add_argument("--message", type=_message, default="Upload model", metavar="TEXT", help="of the commit")
    parser.add_argument("--license", metavar="ID", help="licence that the card shall state, by the hub's name of it")
    parser.add_argument("--dry-run", action="store_true", help="check and print what would be uploaded, no more")
    return parser


def _message(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


if __name__ == "__main__":
    sys.exit(main())
