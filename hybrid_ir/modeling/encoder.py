"""The bi-encoder: one transformer for queries and passages, pooled and normalised.

What a model folder says about itself is read in :mod:`hybrid_ir.modeling.model_folder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from hybrid_ir.config import PretrainedModelConfig, SavedModelConfig, SmallModelConfig
from hybrid_ir.data.chunks import length_chunks
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.modeling.adapters import restrict_training
from hybrid_ir.modeling.model_folder import (
    Pooling,
    find_model_folder,
    load_tokenizer,
    load_transformer,
    max_positions,
    read_folder,
    warn_if_different,
)
from hybrid_ir.modeling.tokenizer import MODEL_MAX_LENGTH, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Kind = Literal["query", "passage"]
Text = str | tuple[str, str]
"""A text, or a pair (sentence, paragraph) that the tokenizer joins, truncated in the paragraph."""

DEFAULT_MAX_LENGTH = 512
"""Tokens of a text where neither configuration nor model folder says: the tokenizer's limit, but at most this."""

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 8192
"""Padded tokens encoded at a time where nothing else is asked for. On a CPU a batch whose activations stay in its
caches is fastest, and less is padded."""

_TOKENIZE_CHUNK = 4096  # texts handed to the tokenizer at a time: an Encoding takes far more memory than its ids


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
        self.tokens_per_batch: int | None = None
        """Padded tokens that ``encode`` puts through the transformer at a time; None: as many as suit the device."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self.dense.out_features if self.dense is not None else self.transformer.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def _batch_tokens(self) -> int:
        return self.tokens_per_batch or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS)

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
            ``[len(texts), dim]`` fp32 on the encoder's device, in the order of ``texts``.
        """
        return self.encode_token_ids(self.tokenize(texts, kind), tokens_per_batch)

    @torch.no_grad()
    def encode_token_ids(self, token_ids: Sequence[Sequence[int]], tokens_per_batch: int | None = None) -> Tensor:
        """As `encode`, of texts that are tokens already (as `tokenize` returns them)."""
        embeddings = torch.empty(len(token_ids), self.dim, dtype=torch.float32, device=self.device)
        # Modules may be in different modes (frozen parts): each is put back into its own.
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            lengths = [len(ids) for ids in token_ids]
            for rows in length_chunks(lengths, max_tokens=tokens_per_batch or self._batch_tokens):
                input_ids, attention_mask = self.pad([token_ids[row] for row in rows])
                output = self(input_ids.to(self.device), attention_mask.to(self.device))
                embeddings[torch.from_numpy(rows).to(self.device)] = output.float()
        finally:
            for module, mode in modes:
                module.training = mode
        return embeddings

    def fingerprint(self) -> str:
        """Hash of all that embeddings depend on: weights, tokenizer, prefixes, lengths, batches, type of numbers.

        64 hex digits; the same in any process. Takes a second for each gigabyte or so of weights.
        """
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            values = value.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
        device = self.device.type
        settings = {
            "transformer": self.transformer.config.to_json_string(use_diff=False),
            "tokenizer": self._tokenizer_text(),
            "said": self.extra_repr(),
            "tokens_per_batch": self._batch_tokens,
            "device": device,
            "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "no",
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def _tokenizer_text(self) -> str:
        if getattr(self.tokenizer, "is_fast", False):
            # Tokenising sets truncation and padding as it needs them: they are no part of what it is.
            said = json.loads(self.tokenizer.backend_tokenizer.to_str())
            return json.dumps({**said, "truncation": None, "padding": None}, sort_keys=True)
        return json.dumps([self.tokenizer.get_vocab(), repr(self.tokenizer)], sort_keys=True, default=str)

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
        ``pretrained`` follows the configuration and, for the dense layer where it is null, the folder; what of it is
        trained is in its parameters' ``requires_grad``, and adapters are drawn from torch's random state. A saved model
        follows its folder wherever the configuration is null: ``hybrid_ir.json``, then the files of
        sentence-transformers; where the folder is silent, mean pooling, no prefix, and the tokenizer's limit but at
        most 512 tokens.

        Raises:
            UserError: the model cannot be found, read, or loaded without running its code; or peft is missing.
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
        if isinstance(model_config, PretrainedModelConfig):
            restrict_training(encoder, model_config)
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
        tokenizer = load_tokenizer(said.transformer_folder, name, config.trust_remote_code)
        dropout = keep_layers = None
        if isinstance(config, PretrainedModelConfig):
            dropout, keep_layers = config.dropout, config.keep_layers
        transformer = load_transformer(said.transformer_folder, name, config.trust_remote_code, dropout, keep_layers)

        if isinstance(config, PretrainedModelConfig):
            pooling: Pooling = config.pooling
            query_prefix, passage_prefix = config.query_prefix, config.passage_prefix
            max_query_length, max_passage_length = config.max_query_length, config.max_passage_length
            warn_if_different(name, said, config)
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
