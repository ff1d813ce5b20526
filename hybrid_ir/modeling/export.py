"""A trained encoder as a folder that the rest of the field loads.

The folder is at once a transformers model (``AutoModel``, ``AutoTokenizer``) and a sentence-transformers model
(``SentenceTransformer``, whose ``encode_query`` and ``encode_document`` apply the prefixes), and carries
``hybrid_ir.json``, from which `BiEncoder.from_config` takes what those two cannot say: sentence-transformers knows one
maximum length, ours are two. There it is the longer one, so a query of more than ``max_query_length`` tokens is cut
here and not there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import hybrid_ir
from hybrid_ir.errors import UserError

if TYPE_CHECKING:
    from hybrid_ir.modeling.encoder import BiEncoder

# The module names of sentence-transformers before version 6, which version 6 understands too.
_MODULES = "sentence_transformers.models"


def save_model(encoder: BiEncoder, folder: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Writes the encoder in fp32, whole or not at all: into a temporary folder beside ``folder``, then renamed.

    An existing ``folder`` is replaced. Adapters are merged into the weights that they adapt: the folder holds a plain
    model, which loads without peft.

    Args:
        encoder: What to save; unchanged.
        folder: Where.
        metadata: Anything that JSON can hold, kept under ``metadata`` in ``hybrid_ir.json``.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another output_dir") from error
    try:
        _write(encoder, temporary, metadata)
        # mkdtemp makes folders, and safetensors files, for the owner alone; a model is as public as its run's folder.
        temporary.chmod(0o777 & ~_umask())
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(0o666 & ~_umask())
        _replace(temporary, folder)
    except Exception as error:
        # safetensors and tokenizers report what the system said in errors of their own
        if not isinstance(error, OSError) and "os error" not in str(error):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{folder}: cannot be written ({reason}); make room or check rights") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(encoder: BiEncoder, folder: Path, metadata: dict[str, Any] | None) -> None:
    from hybrid_ir.modeling.adapters import merged_state
    from hybrid_ir.modeling.model_folder import METADATA_FILE

    weights = {name: _fp32(tensor) for name, tensor in merged_state(encoder.transformer).items()}
    encoder.transformer.save_pretrained(str(folder), state_dict=weights)
    # The weights' type is the model's in memory; what was just written is fp32.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    _dump(config, folder / "config.json")
    encoder.tokenizer.save_pretrained(str(folder))
    tokenizer_file = folder / "tokenizer_config.json"
    tokenizer_config = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    if tokenizer_config.get("tokenizer_class") == "TokenizersBackend":
        # The name of the same class that transformers 4 knows too.
        tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("is_local", "local_files_only"):  # how it was loaded here, of no meaning elsewhere
        tokenizer_config.pop(key, None)
    _dump(tokenizer_config, tokenizer_file)

    _dump({"max_seq_length": max(encoder.max_query_length, encoder.max_passage_length), "do_lower_case": False},
          folder / "sentence_bert_config.json")  # fmt: skip
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.Transformer"}]

    def add_module(kind: str) -> Path:
        number = len(modules)
        path = f"{number}_{kind}"
        modules.append({"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"})
        (folder / path).mkdir()
        return folder / path

    pooling = add_module("Pooling")
    _dump(
        {
            "word_embedding_dimension": int(encoder.transformer.config.hidden_size),
            "pooling_mode_cls_token": encoder.pooling == "cls",
            "pooling_mode_mean_tokens": encoder.pooling == "mean",
            "include_prompt": True,
        },
        pooling / "config.json",
    )
    if encoder.dense is not None:
        from safetensors.torch import save_file

        dense = add_module("Dense")
        _dump(
            {
                "in_features": encoder.dense.in_features,
                "out_features": encoder.dense.out_features,
                "bias": encoder.dense.bias is not None,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
            dense / "config.json",
        )
        state = {f"linear.{name}": _fp32(tensor) for name, tensor in merged_state(encoder.dense).items()}
        save_file(state, str(dense / "model.safetensors"), metadata={"format": "pt"})
    normalize = add_module("Normalize")
    _dump({}, normalize / "config.json")
    _dump(modules, folder / "modules.json")
    _dump(
        {
            "model_type": "SentenceTransformer",
            "prompts": {
                "query": encoder.query_prefix,
                # encode_document takes "document"; callers who name the prompt, as E5's do, say "passage".
                "document": encoder.passage_prefix,
                "passage": encoder.passage_prefix,
            },
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        folder / "config_sentence_transformers.json",
    )
    _dump(
        {
            "version": hybrid_ir.__version__,
            "pooling": encoder.pooling,
            "query_prefix": encoder.query_prefix,
            "passage_prefix": encoder.passage_prefix,
            "max_query_length": encoder.max_query_length,
            "max_passage_length": encoder.max_passage_length,
            "metadata": metadata or {},
        },
        folder / METADATA_FILE,
    )


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _replace(source: Path, target: Path) -> None:
    """Renames ``source`` to ``target``; what was there is moved aside first, since no rename replaces a full folder."""
    if not target.exists():
        os.replace(source, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        os.replace(target, aside / "old")
        try:
            os.replace(source, target)
        except OSError:
            os.replace(aside / "old", target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _dump(content: Any, file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
