"""The bi-encoder: one transformer for queries and passages, pooled and normalised.

What a folder says about itself (pooling, dense layer, prompts, lengths) is read from the files that
sentence-transformers writes, and from ``hybrid_ir.json`` where `export.py` made the folder.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from hybrid_ir.config import PretrainedModelConfig, SavedModelConfig, SmallModelConfig
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.modeling.tokenizer import MODEL_MAX_LENGTH, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Kind = Literal["query", "passage"]
Pooling = Literal["mean", "cls"]
Text = str | tuple[str, str]
"""A text, or a pair (sentence, paragraph) that the tokenizer joins, truncated in the paragraph."""

METADATA_FILE = "hybrid_ir.json"
DEFAULT_MAX_LENGTH = 512
"""Tokens of a text where neither configuration nor model folder says: the tokenizer's limit, but at most this."""

_TOKENIZE_CHUNK = 4096  # texts handed to the tokenizer at a time: an Encoding takes far more memory than its ids
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model"
)  # fmt: skip
_DROPOUT_KEYS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "hidden_dropout",
    "embedding_dropout", "mlp_dropout",
)  # fmt: skip


class BiEncoder(nn.Module):
    """A transformer, pooling, an optional dense layer with tanh, and L2 normalisation.

    Queries and passages share all weights and differ in their prefix and maximum length only.

    Args:
        transformer: Encoder whose output has ``last_hidden_state`` ``[batch, tokens, hidden]``.
        tokenizer: A transformers tokenizer with a padding token.
        pooling: ``mean`` of the last hidden states over the tokens, or ``cls``, the first token's state.
        dense: Linear layer after pooling, followed by tanh, as LaBSE has (arXiv 2007.01852); None has none.
        query_prefix: Text put before every query.
        passage_prefix: Text put before every passage.
        max_query_length: Tokens of a query at most, prefix and special tokens included.
        max_passage_length: The same of a passage.

    Raises:
        ConfigError: a length is above what the transformer has positions for.
    """

    transformer: PreTrainedModel
    dense: nn.Linear | None

    def __init__(
        self,
        transformer: PreTrainedModel,
        tokenizer: Any,
        pooling: Pooling = "mean",
        dense: nn.Linear | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        max_query_length: int = 32,
        max_passage_length: int = 128,
    ) -> None:
        super().__init__()
        limit = max_positions(transformer)
        for key, length in (("max_query_length", max_query_length), ("max_passage_length", max_passage_length)):
            if limit is not None and length > limit:
                raise ConfigError(f"model.{key}={length}: the encoder has {limit} positions; use {limit} or less")
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.dense = dense
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        self.max_query_length = max_query_length
        self.max_passage_length = max_passage_length
        self.tokens_per_batch = 8192
        """Padded tokens that ``encode`` puts through the transformer at a time."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self.dense.out_features if self.dense is not None else self.transformer.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def extra_repr(self) -> str:
        return (
            f"pooling={self.pooling}, query_prefix={self.query_prefix!r}, passage_prefix={self.passage_prefix!r}, "
            f"max_query_length={self.max_query_length}, max_passage_length={self.max_passage_length}"
        )

    # ---------------------------------------------------------------------------------------------- embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeds a padded batch.

        Args:
            input_ids: ``[batch, tokens]`` int64, padded on the right.
            attention_mask: ``[batch, tokens]``, 1 at tokens and 0 at padding.

        Returns:
            ``[batch, dim]``, L2-normalised, fp32 (fp64 where the weights are): pooling and normalisation leave
            autocast, which would round unit vectors to 8 bits.
        """
        # Token type ids are left out: BERT-like encoders then take zeros, with which their pairs are encoded too.
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            if self.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = attention_mask.to(hidden.dtype).unsqueeze(-1)
                pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            if self.dense is not None:
                # Of the weights' type, which sharding in bf16 may have changed.
                pooled = torch.tanh(self.dense(pooled.to(self.dense.weight.dtype))).to(pooled.dtype)
            return nn.functional.normalize(pooled, dim=-1)

    @torch.no_grad()
    def encode(self, texts: Sequence[Text], kind: Kind, tokens_per_batch: int | None = None) -> Tensor:
        """Embeds any number of texts in evaluation mode, whatever mode the encoder is in.

        Texts are sorted by their number of tokens and cut into batches of at most ``tokens_per_batch`` tokens,
        padding included (one text at least); None takes the attribute's. The cut depends on the texts and it alone.

        Returns:
            ``[len(texts), dim]`` fp32 on the CPU, in the order of ``texts``.
        """
        return self.encode_token_ids(self.tokenize(texts, kind), tokens_per_batch)

    @torch.no_grad()
    def encode_token_ids(self, token_ids: Sequence[Sequence[int]], tokens_per_batch: int | None = None) -> Tensor:
        """As `encode`, of texts that are tokens already (as `tokenize` returns them)."""
        embeddings = torch.empty(len(token_ids), self.dim, dtype=torch.float32)
        # Modules may be in different modes (frozen parts): each is put back into its own.
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            for rows in _length_sorted_batches(
                [len(ids) for ids in token_ids], tokens_per_batch or self.tokens_per_batch
            ):
                input_ids, attention_mask = self.pad([token_ids[row] for row in rows])
                output = self(input_ids.to(self.device), attention_mask.to(self.device))
                embeddings[torch.tensor(rows)] = output.float().cpu()
        finally:
            for module, mode in modes:
                module.training = mode
        return embeddings

    # -------------------------------------------------------------------------------------------------- tokens

    def prefix(self, kind: Kind) -> str:
        """The text put before a query or a passage."""
        return self.query_prefix if kind == "query" else self.passage_prefix

    def max_length(self, kind: Kind) -> int:
        """Tokens of a query or a passage at most, prefix and special tokens included."""
        return self.max_query_length if kind == "query" else self.max_passage_length

    def tokenize(self, texts: Sequence[Text], kind: Kind) -> list[list[int]]:
        """Token ids of each text with prefix and special tokens, truncated to the kind's maximum length.

        Of a pair (sentence, paragraph) the sentence takes the prefix and the paragraph is truncated. A sentence that
        leaves the paragraph no room stands with an empty one, truncated itself if need be.
        """
        prefix, limit = self.prefix(kind), self.max_length(kind)
        result: list[list[int]] = [[] for _ in texts]
        single = [row for row, text in enumerate(texts) if isinstance(text, str)]
        self._tokenize_into(result, single, [prefix + cast(str, texts[row]) for row in single], limit, "longest_first")
        pairs = {row: (prefix + text[0], text[1]) for row, text in enumerate(texts) if not isinstance(text, str)}
        if pairs:
            specials = self.tokenizer.num_special_tokens_to_add(pair=True)
            room = limit - specials
            sentences: list[list[int]] = [[] for _ in texts]
            # The tokenizer refuses a pair whose second text would have to vanish: these are told apart beforehand.
            rows = list(pairs)
            self._tokenize_into(sentences, rows, [pairs[row][0] for row in rows], None, "longest_first", specials=False)
            fits = [row for row in rows if len(sentences[row]) < room]
            full = [row for row in rows if len(sentences[row]) >= room]
            self._tokenize_into(result, fits, [pairs[row] for row in fits], limit, "only_second")
            if room > 0:
                self._tokenize_into(result, full, [(pairs[row][0], "") for row in full], limit, "only_first")
            else:
                self._tokenize_into(result, full, [pairs[row][0] for row in full], limit, "longest_first")
        return result

    def _tokenize_into(
        self,
        result: list[list[int]],
        rows: Sequence[int],
        texts: Sequence[Text],
        max_length: int | None,
        strategy: str,
        specials: bool = True,
    ) -> None:
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        for start in range(0, len(rows), _TOKENIZE_CHUNK):
            chunk = list(texts[start : start + _TOKENIZE_CHUNK])
            if fast:
                ids = self._encode_fast(chunk, max_length, strategy, specials)
            else:
                ids = self._encode_slow(chunk, max_length, strategy, specials)
            for row, text_ids in zip(rows[start : start + _TOKENIZE_CHUNK], ids, strict=True):
                result[row] = text_ids

    def _encode_fast(
        self, texts: list[Text], max_length: int | None, strategy: str, specials: bool
    ) -> Iterable[list[int]]:
        # Straight to the Rust tokenizer: the wrapper's dictionaries of lists cost as much again as the tokens.
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        if max_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(max_length=max_length, strategy=strategy)
        try:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=specials)
        finally:
            # The setting would be saved with the tokenizer.
            backend.no_truncation()
        return (encoding.ids for encoding in encodings)

    def _encode_slow(
        self, texts: list[Text], max_length: int | None, strategy: str, specials: bool
    ) -> Iterable[list[int]]:
        first = [text if isinstance(text, str) else text[0] for text in texts]
        second = None if isinstance(texts[0], str) else [text[1] for text in texts]
        encoded = self.tokenizer(
            first,
            second,
            add_special_tokens=specials,
            truncation=strategy if max_length is not None else False,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return cast("Iterable[list[int]]", encoded["input_ids"])

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Pads token ids on the right to the longest: ``input_ids`` and ``attention_mask``, ``[batch, tokens]``."""
        return pad_token_ids(token_ids, self.tokenizer.pad_token_id)

    # -------------------------------------------------------------------------------------------- construction

    @classmethod
    def from_config(
        cls,
        model_config: SmallModelConfig | PretrainedModelConfig | SavedModelConfig,
        tokenizer_texts: Iterable[str] | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> BiEncoder:
        """Builds the encoder that the configuration describes.

        ``small`` is initialised from torch's random state, with ``tokenizer``, or one trained on ``tokenizer_texts``;
        the others have a tokenizer of their own.
        ``pretrained`` follows the configuration and, for the dense layer where it is null, the folder. A saved model
        follows its folder wherever the configuration is null: ``hybrid_ir.json``, then the files of
        sentence-transformers; where the folder is silent, mean pooling, no prefix, and the tokenizer's limit but at
        most 512 tokens.

        Raises:
            UserError: the model cannot be found, read, or loaded without running its code.
            ConfigError: the configuration asks for what the model cannot do.
            ValueError: ``small`` with neither ``tokenizer_texts`` nor ``tokenizer``.
        """
        if isinstance(model_config, SmallModelConfig):
            if tokenizer is None:
                if tokenizer_texts is None:
                    raise ValueError("a small model needs a tokenizer, or tokenizer_texts to train one on")
                tokenizer = train_tokenizer(tokenizer_texts, model_config.vocab_size)
            encoder = cls._from_scratch(model_config, tokenizer)
        else:
            encoder = cls._from_folder(model_config)
        if not isinstance(model_config, SavedModelConfig):
            if model_config.gradient_checkpointing:
                # The reentrant form loses gradients under DDP and needs inputs that require them.
                transformer, arguments = encoder.transformer, {"use_reentrant": False}
                if hasattr(transformer, "activation_checkpointing_enable"):  # the name in later transformers 5
                    transformer.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments)
                else:
                    transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
            if model_config.compile:
                # In place, so that the keys of state_dict stay those of the plain module.
                encoder.transformer.compile(dynamic=True)
        return encoder

    @classmethod
    def _from_scratch(cls, config: SmallModelConfig, tokenizer: PreTrainedTokenizerFast) -> BiEncoder:
        from transformers import BertConfig, BertModel

        bert_config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=max(MODEL_MAX_LENGTH, config.max_query_length, config.max_passage_length),
            type_vocab_size=1,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            attn_implementation="sdpa",
            dtype="float32",
        )
        return cls(
            BertModel(bert_config, add_pooling_layer=False),
            tokenizer,
            pooling=config.pooling,
            query_prefix=config.query_prefix,
            passage_prefix=config.passage_prefix,
            max_query_length=config.max_query_length,
            max_passage_length=config.max_passage_length,
        )

    @classmethod
    def _from_folder(cls, config: PretrainedModelConfig | SavedModelConfig) -> BiEncoder:
        name = config.name_or_path
        folder = find_model_folder(name, config.revision, config.trust_remote_code)
        said = read_folder(folder, name)
        tokenizer = _load_tokenizer(said.transformer_folder, name, config.trust_remote_code)
        dropout = config.dropout if isinstance(config, PretrainedModelConfig) else None
        transformer = _load_transformer(said.transformer_folder, name, config.trust_remote_code, dropout)

        if isinstance(config, PretrainedModelConfig):
            pooling: Pooling = config.pooling
            query_prefix, passage_prefix = config.query_prefix, config.passage_prefix
            max_query_length, max_passage_length = config.max_query_length, config.max_passage_length
            _warn_if_different(name, said, config)
        else:
            chosen = config.pooling or said.pooling or "mean"
            if chosen not in ("mean", "cls"):
                raise UserError(
                    f"model.name_or_path={name}: its pooling is {chosen}, which is not supported; "
                    f"set model.pooling to mean or cls to override it"
                )
            pooling = cast(Pooling, chosen)
            query_prefix = config.query_prefix if config.query_prefix is not None else said.query_prefix or ""
            passage_prefix = config.passage_prefix if config.passage_prefix is not None else said.passage_prefix or ""
            positions = max_positions(transformer)
            limit = min(
                DEFAULT_MAX_LENGTH,
                # Tokenizers without a limit say so by a number of the order of 1e30.
                int(min(getattr(tokenizer, "model_max_length", DEFAULT_MAX_LENGTH) or DEFAULT_MAX_LENGTH, 10**6)),
                positions if positions is not None else DEFAULT_MAX_LENGTH,
            )
            max_query_length = config.max_query_length or said.max_query_length or limit
            max_passage_length = config.max_passage_length or said.max_passage_length or limit

        dense = said.load_dense(config.dense, name, int(transformer.config.hidden_size))
        return cls(
            transformer,
            tokenizer,
            pooling=pooling,
            dense=dense,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
            max_query_length=max_query_length,
            max_passage_length=max_passage_length,
        )


def pad_token_ids(token_ids: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pads token ids on the right to the longest of them.

    Returns:
        ``input_ids`` and ``attention_mask``, both ``[len(token_ids), longest]`` int64.
    """
    lengths = torch.tensor([len(ids) for ids in token_ids], dtype=torch.int64)
    longest = int(lengths.max()) if len(token_ids) else 0
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    input_ids = torch.full((len(token_ids), longest), pad_token_id, dtype=torch.int64)
    input_ids[mask] = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.int64)
    return input_ids, mask.to(torch.int64)


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


def _length_sorted_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Rows of each batch, longest first (memory runs out at once or never); ties keep the order of the rows."""
    batches: list[list[int]] = []
    widest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and widest * (len(batches[-1]) + 1) <= tokens_per_batch:
            batches[-1].append(row)
        else:
            batches.append([row])
            widest = lengths[row]
    return batches


# ------------------------------------------------------------------------------------------------- model folders


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
        modules = _read_json(folder / "modules.json", name)
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


def _load_tokenizer(folder: Path, name: str, trust_remote_code: bool) -> Any:
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


def _load_transformer(folder: Path, name: str, trust_remote_code: bool, dropout: float | None) -> PreTrainedModel:
    from transformers import MODEL_MAPPING, AutoConfig, AutoModel

    if not (folder / "config.json").is_file():
        raise UserError(f"model.name_or_path={name}: no config.json in {folder}; name the folder of a model")
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


def _warn_if_different(name: str, said: ModelFolder, config: PretrainedModelConfig) -> None:
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


def _read_json(file: Path, name: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.name_or_path={name}: {file} cannot be read ({_one_line(error)}); copy it again"
        ) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
