"""Model folders and the hub: what a folder says about its encoder, and loading it without running its code.

What a folder says about itself (pooling, dense layer, prompts, lengths) is read from the files that
sentence-transformers writes, and from ``hybrid_ir.json`` where `export.py` made the folder.
"""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hybrid_ir.config import PretrainedModelConfig
from hybrid_ir.errors import ConfigError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Pooling = Literal["mean", "cls"]

METADATA_FILE = "hybrid_ir.json"
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model"
)  # fmt: skip
_DROPOUT_KEYS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "hidden_dropout",
    "embedding_dropout", "mlp_dropout",
)  # fmt: skip


def max_positions(transformer: PreTrainedModel) -> int | None:
    """Tokens that the encoder has positions for, None where it knows no limit (relative positions)."""
    config = transformer.config
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    embeddings = getattr(transformer, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    # RoBERTa counts positions from the padding token's on: 514 rows for 512 tokens.
    padding = getattr(table, "padding_idx", None)
    return positions if padding is None else positions - padding - 1


@dataclass(frozen=True)
class ModelFolder:
    """What a model's folder says about itself; None where it is silent."""

    transformer_folder: Path
    pooling: str | None = None
    dense_folder: Path | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_query_length: int | None = None
    max_passage_length: int | None = None

    def load_dense(self, wanted: bool | None, name: str, hidden_size: int) -> nn.Linear | None:
        """The dense layer: the folder's (``wanted`` is None), required (True) or left out (False).

        Where it is required and the folder has none, BERT's pooler is taken, a linear layer with tanh too: LaBSE's
        dense layer is its checkpoint's pooler.

        Raises:
            UserError: it is required and there is neither, or the folder's is of another form.
        """
        if wanted is False or (wanted is None and self.dense_folder is None):
            return None
        if self.dense_folder is not None:
            settings = _read_json(self.dense_folder / "config.json", name)
            activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
            if activation.rsplit(".", 1)[-1] != "Tanh" or settings.get("use_residual"):
                raise UserError(
                    f"model.name_or_path={name}: its dense layer has activation {activation}"
                    f"{' and a residual connection' if settings.get('use_residual') else ''}, only tanh is supported; "
                    f"set model.dense=false to leave it out"
                )
            weight, bias = _find_linear(self.dense_folder, "linear", name)
        else:
            weight, bias = _find_linear(self.transformer_folder, "pooler.dense", name)
        if weight is None:
            raise UserError(
                f"model.dense=true: {name} has neither a dense layer in its modules.json nor a BERT pooler in its "
                f"weights; set model.dense=false"
            )
        if weight.shape[1] != hidden_size:
            raise UserError(
                f"model.name_or_path={name}: its dense layer takes {weight.shape[1]} features, "
                f"its transformer gives {hidden_size}; set model.dense=false to leave it out"
            )
        dense = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        with torch.no_grad():
            dense.weight.copy_(weight)
            if bias is not None:
                dense.bias.copy_(bias)
        return dense


def read_folder(folder: Path, name: str) -> ModelFolder:
    """Reads pooling, dense layer, prompts and lengths of a model folder.

    Args:
        folder: A transformers folder, with or without the files of sentence-transformers and ``hybrid_ir.json``.
        name: What the user called it, for messages.

    Raises:
        UserError: a file is malformed, or describes a model that this encoder cannot be.
    """
    transformer_folder, pooling, dense_folder = folder, None, None
    query_prefix = passage_prefix = None
    length: int | None = None
    if (folder / "modules.json").is_file():
        modules = _read_json(folder / "modules.json", name, list)
        try:
            parts = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in modules]
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{folder / 'modules.json'}: no list of modules with type and path; copy it again"
            ) from error
        for kind, path in parts:
            place = (folder / path).resolve()
            if not place.is_relative_to(folder.resolve()):
                raise UserError(
                    f"{folder / 'modules.json'}: path {path} leaves the model folder; do not use this model"
                )
            if kind == "Transformer":
                transformer_folder = folder / path
            elif kind == "Pooling":
                pooling = _pooling_mode(_read_json(folder / path / "config.json", name), name)
            elif kind == "Dense" and dense_folder is None:
                dense_folder = folder / path
            elif kind != "Normalize":
                raise UserError(
                    f"model.name_or_path={name}: its modules.json has a {kind} layer, supported are Transformer, "
                    f"Pooling, one Dense and Normalize; name the folder of its transformer alone"
                )
        settings_file = transformer_folder / "sentence_bert_config.json"
        if settings_file.is_file():
            settings = _read_json(settings_file, name)
            if settings.get("do_lower_case"):
                raise UserError(
                    f"{settings_file}: do_lower_case=true is not supported; lower the texts and set it to false"
                )
            length = _length(settings.get("max_seq_length"))
    if not (transformer_folder / "config.json").is_file():
        raise UserError(
            f"model.name_or_path={name}: no config.json in {transformer_folder}; name the folder of a model"
        )
    # Now: the tokenizer is loaded first, and would be blamed for what is wrong with this file.
    _read_json(transformer_folder / "config.json", name)
    prompts_file = folder / "config_sentence_transformers.json"
    if prompts_file.is_file():
        settings = _read_json(prompts_file, name)
        prompts = settings.get("prompts") or {}
        default = prompts.get(settings.get("default_prompt_name"))
        query_prefix = _first_given(prompts.get("query"), default)
        # Saving fills in an empty "document" where the model's author said "passage": what is not empty is meant.
        given = [prompts.get(key) for key in ("document", "passage", "corpus")]
        passage_prefix = _first_given(*filter(None, given), *given, default)
    said: dict[str, Any] = {
        "pooling": pooling,
        "query_prefix": query_prefix,
        "passage_prefix": passage_prefix,
        "max_query_length": length,
        "max_passage_length": length,
    }
    if (folder / METADATA_FILE).is_file():
        own = _read_json(folder / METADATA_FILE, name)
        said.update({key: own[key] for key in said if own.get(key) is not None})
    return ModelFolder(transformer_folder, dense_folder=dense_folder, **said)


def find_model_folder(name: str, revision: str | None = None, with_code: bool = False) -> Path:
    """The local folder of a model: a folder, a run's ``model/``, or a snapshot of the Hugging Face hub.

    Args:
        name: Folder of a run, folder of a model, or name on the hub.
        revision: Commit on the hub; without meaning for a folder.
        with_code: Fetch the Python files of the model too.

    Raises:
        UserError: there is no such folder, it holds no model, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            logger.warning("model.revision=%s has no effect: %s is a folder", revision, name)
        if (folder / "model").is_dir() and not (folder / "config.json").is_file():
            folder = folder / "model"
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            if (folder / "config.yaml").is_file() or (folder / "checkpoints").is_dir():
                raise UserError(
                    f"model.name_or_path={name}: the run is not complete, it has no model/ yet; "
                    f"finish it with `python train.py resume={name}`"
                )
            raise UserError(f"model.name_or_path={name}: the folder has no config.json; name the folder of a model")
        return folder
    if folder.exists():
        raise UserError(f"model.name_or_path={name}: is a file; name the folder that it is in")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"model.name_or_path={name}: no such folder; give a model folder or a name on the hub")
    return _fetch(name, revision, with_code)


def _fetch(name: str, revision: str | None, with_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    # Exports for other runtimes are many times the size of the weights.
    unwanted = ["onnx/*", "openvino/*", "*.onnx", "*.msgpack", "*.h5", "*.ot", "*.gguf", "*.tflite", "*.pt", "*.pth"]
    pickles = ["*.bin"]
    code = [] if with_code else ["*.py"]
    try:
        folder = Path(snapshot_download(name, revision=revision, ignore_patterns=[*unwanted, *code, *pickles]))
        if not list(folder.rglob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, ignore_patterns=[*unwanted, *code]))
    except Exception as error:  # the hub's client raises from a dozen places, HTTP and file system among them
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"model.name_or_path={name}: is no folder here and could not be fetched from the Hugging Face hub "
            f"({_one_line(error)}); fetch it where there is a network with `hf download {name}{at} --local-dir DIR` "
            f"and set model.name_or_path=DIR"
        ) from error
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise UserError(f"model.name_or_path={name}: has no config.json on the hub; give the name of a model")
    return folder


def load_tokenizer(folder: Path, name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(
            f"model.name_or_path={name}: no tokenizer in {folder} (looked for {', '.join(_TOKENIZER_FILES)}); "
            f"copy the files of its tokenizer there"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # malformed files surface as errors of many libraries
        raise UserError(
            f"model.name_or_path={name}: the tokenizer in {folder} cannot be loaded ({_one_line(error)}); copy it again"
        ) from error
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"model.name_or_path={name}: its tokenizer has no padding token; set pad_token in tokenizer_config.json"
        )
    return tokenizer


def load_transformer(
    folder: Path, name: str, trust_remote_code: bool, dropout: float | None, keep_layers: int | None = None
) -> PreTrainedModel:
    from transformers import MODEL_MAPPING, AutoConfig, AutoModel

    if (folder / "adapter_config.json").is_file():  # transformers adds it to the weights, but only where peft is there
        raise UserError(
            f"model.name_or_path={name}: {folder} has an adapter (adapter_config.json) beside the weights; merge it "
            f"into them (peft's merge_and_unload), or remove that file"
        )
    if not trust_remote_code:
        _refuse_code(folder / "config.json", name)
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(
            f"model.name_or_path={name}: config.json in {folder} cannot be read ({_one_line(error)}); copy it again"
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model.name_or_path={name}: is an encoder-decoder ({config.model_type}); name an encoder")
    if dropout is not None:
        keys = [key for key in _DROPOUT_KEYS if hasattr(config, key)]
        if not keys:
            raise ConfigError(f"model.dropout={dropout:g}: {name} ({config.model_type}) has no dropout; leave it null")
        for key in keys:
            setattr(config, key, dropout)
    if keep_layers is not None:
        _keep_layers(config, keep_layers, name)
    arguments: dict[str, Any] = {}
    if type(config) in MODEL_MAPPING:
        model_class = MODEL_MAPPING[type(config)]
        # The pooler is not used: under DDP its weights would be parameters without a gradient.
        if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
            arguments["add_pooling_layer"] = False
    try:
        # Without dtype, weights keep the type that they were saved in: fp16 trains badly and is slow on a CPU.
        # Weights are read as safetensors where there are any, else as a pickle of tensors alone (weights_only).
        transformer, report = AutoModel.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            local_files_only=not trust_remote_code,
            weights_only=True,
            output_loading_info=True,
            **arguments,
        )
    except Exception as error:
        raise UserError(
            f"model.name_or_path={name}: the weights in {folder} cannot be loaded ({_one_line(error)}); "
            f"use a copy with model.safetensors (a pickle is read only if it holds nothing but tensors)"
        ) from error
    missing = sorted(report["missing_keys"])
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"])
    if missing or wrong:
        keys = missing + wrong
        raise UserError(
            f"model.name_or_path={name}: {len(keys)} of the encoder's weights are missing or of another shape in "
            f"{folder} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}); copy the model again"
        )
    return transformer.train()  # from_pretrained leaves it in evaluation mode


def _keep_layers(config: Any, keep: int, name: str) -> None:
    """Cuts the configuration to its first ``keep`` layers: no others are made, and their weights are not read."""
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise ConfigError(
            f"model.keep_layers={keep}: {name} ({config.model_type}) does not say how many layers it has; leave it null"
        )
    if keep > layers:
        raise ConfigError(f"model.keep_layers={keep}: {name} has {layers} layers; use {layers} or less")
    config.num_hidden_layers = keep
    for key, kinds in list(vars(config).items()):
        if key.endswith("layer_types") and isinstance(kinds, list):  # one for each layer, as ModernBERT has
            setattr(config, key, kinds[:keep])


_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def _refuse_code(config_file: Path, name: str) -> None:
    """Says by which key a model may run its own code, when transformers itself does not know its architecture.

    Where it does, its own class is used and the folder's code is left alone.
    """
    from transformers import CONFIG_MAPPING

    settings = _read_json(config_file, name)
    if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"model.name_or_path={name}: the model needs code of its own ({config_file} has auto_map), which is not "
            f"run; set model.trust_remote_code=true if you have read that code and trust it"
        )
    parts = [settings]  # of parts of the model too
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, dict)]
        for key in _IMPLEMENTATIONS:
            if "/" in json.dumps(part.get(key)):  # a repository of the hub, whose code transformers would fetch and run
                raise UserError(
                    f"model.name_or_path={name}: the model asks for code of the hub ({config_file} has {key}="
                    f"{json.dumps(part[key])}), which is not run; remove that key, or set "
                    f"model.trust_remote_code=true if you trust it"
                )


def _find_linear(folder: Path, suffix: str, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of the linear layer whose key ends in ``suffix``; None, None where there is none."""
    found: dict[str, Tensor] = {}
    wanted = re.compile(rf"(?:^|\.){re.escape(suffix)}\.(weight|bias)$")
    files = sorted(folder.glob("*.safetensors"))
    try:
        if files:
            from safetensors import safe_open

            for file in files:
                with safe_open(str(file), framework="pt") as tensors:
                    for key in tensors.keys():  # noqa: SIM118 - no mapping, it has no __iter__
                        if match := wanted.search(key):
                            found[match[1]] = tensors.get_tensor(key)
        else:
            for file in sorted(folder.glob("pytorch_model*.bin")):
                state = torch.load(file, map_location="cpu", weights_only=True)
                for key, tensor in state.items():
                    if match := wanted.search(key):
                        found[match[1]] = tensor
    except Exception as error:
        raise UserError(
            f"model.name_or_path={name}: {file} cannot be read ({_one_line(error)}); use a copy in safetensors"
        ) from error
    return found.get("weight"), found.get("bias")


def warn_if_different(name: str, said: ModelFolder, config: PretrainedModelConfig) -> None:
    """The configuration wins over the folder; that they differ is more often a mistake than a wish."""
    for key, theirs, ours in (
        ("pooling", said.pooling, config.pooling),
        ("query_prefix", said.query_prefix, config.query_prefix),
        ("passage_prefix", said.passage_prefix, config.passage_prefix),
    ):
        if theirs is not None and theirs != ours:
            logger.warning("model.%s=%r is used, where the files of %s say %r", key, ours, name, theirs)


def _pooling_mode(settings: dict[str, Any], name: str) -> str:
    if settings.get("include_prompt") is False:
        raise UserError(
            f"model.name_or_path={name}: its pooling leaves the prompt out (include_prompt=false), which is not "
            f"supported; name another model"
        )
    mode = settings.get("pooling_mode")
    if mode is None:
        old = {
            "pooling_mode_cls_token": "cls",
            "pooling_mode_max_tokens": "max",
            "pooling_mode_mean_tokens": "mean",
            "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
            "pooling_mode_weightedmean_tokens": "weightedmean",
            "pooling_mode_lasttoken": "lasttoken",
        }
        mode = [new for key, new in old.items() if settings.get(key)] or ["mean"]
    return mode if isinstance(mode, str) else "+".join(mode)


def _first_given(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _read_json(file: Path, name: str, kind: type = dict) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.name_or_path={name}: {file} cannot be read ({_one_line(error)}); copy it again"
        ) from error
    if not isinstance(content, kind):
        raise UserError(
            f"model.name_or_path={name}: {file} holds no {'object' if kind is dict else 'list'}; copy it again"
        )
    return content


def _one_line(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):  # torch advises to run its code
        return "it is damaged, or holds more than tensors, which could run code"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
