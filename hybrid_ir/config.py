"""The schema of everything in ``conf/``: types, ranges and rules that hold between keys.

Hydra composes a configuration, pydantic validates it as a whole. Nothing here imports torch, so a mistake is
reported within two seconds. The docstring under a field is what ``python -m hybrid_ir.config describe`` prints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    StrictBool,
    field_serializer,
    field_validator,
    model_validator,
)

from hybrid_ir import languages as _languages

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, field docstrings become descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        frozen=True,
        coerce_numbers_to_str=True,  # a name or a prefix that is a number is read as one from the command line
    )


Precision = Annotated[
    Literal["32", "bf16", "64"], BeforeValidator(lambda value: str(value) if type(value) is int else value)
]


def _check_languages(codes: list[str] | None) -> list[str] | None:
    if codes is None:
        return None
    if not codes:
        raise ValueError("is empty; name at least one language, or null for all")
    for code in codes:
        _languages.check_code(code)
    if len(set(codes)) != len(codes):
        raise ValueError("names a language twice")
    return codes


# ----------------------------------------------------------------------------------------------------------- data


class ValidationConfig(Section):
    """Items held out of training, by passage: no passage of a held-out item is ever trained on, in any language."""

    queries_per_language: NonNegativeInt = 100
    """Held-out questions aimed at in each language; 0 holds nothing out (then there is no default monitor)."""
    max_share: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1
    """At most this share of a language's questions is held out."""
    languages: list[str] | None = None
    """Languages of the held-out questions and passages, for a validation that costs less; null takes all. What is held
    out is held out in every language."""
    seed: int = 0
    """Seed of the choice; separate from the run's seed so that all runs of a sweep hold out the same items."""

    _languages_known = field_validator("languages")(_check_languages)


class DataConfigBase(Section):
    languages: list[str] | None = None
    """Languages to train on (ISO 639-1 codes); null takes all that the source has."""
    cap: PositiveInt | None = None
    """At most this many items, a sample by their ids: the same in every run, in all languages of an item, and part of
    the sample of a greater cap."""
    cap_per_language: PositiveInt | None = None
    """At most this many items of each language, sampled likewise: an item may lose its versions in some languages."""
    validation: ValidationConfig = ValidationConfig()
    num_workers: NonNegativeInt = 0
    """Processes that make batches beside the training process; 0 is fastest when token ids are cached."""
    verify_cache: bool = False
    """Check the full hashes of cached files at the start, not only their sizes."""
    exclude_overlap_with: list[str] = []
    """Chosen benchmarks, e.g. [xquad_r]: an item with a run of words in common with their queries or relevant
    documents, in any language, is not trained on."""
    overlap_words: Annotated[int, Field(ge=3, le=100)] = 8
    """Words of such a run; in scripts that run words together as many characters as say the same."""

    _languages_known = field_validator("languages")(_check_languages)

    @model_validator(mode="after")
    def _validated_languages_are_trained(self) -> DataConfigBase:
        extra = sorted(set(self.validation.languages or []) - set(self.languages or self.validation.languages or []))
        if extra:
            raise ValueError(f"validation.languages has {', '.join(extra)}, which data.languages has not")
        return self

    @field_validator("exclude_overlap_with")
    @classmethod
    def _benchmarks_known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in BENCHMARKS:
                raise ValueError(f"{name!r} is no benchmark; there are {', '.join(BENCHMARKS)}")
        if len(set(value)) != len(value):
            raise ValueError("names a benchmark twice")
        return value


class CldrDataConfig(DataConfigBase):
    """CLDR world facts: built in, parallel in every language, nothing to download."""

    source: Literal["cldr"] = "cldr"
    languages: list[str] | None = list(_languages.MIRACL)
    """Languages of the questions and passages: any that CLDR has; the default is MIRACL's 18."""


class ParallelJsonlConfig(DataConfigBase):
    """Parallel JSONL files: one object a line with id, language, query, passage."""

    source: Literal["parallel_jsonl"] = "parallel_jsonl"
    path: str | list[str]
    """File, list of files, or globs; plain or gzip."""
    on_bad_line: Literal["raise", "skip"] = "raise"
    """raise: stop at the first bad line; skip: leave bad lines out, counted and reported."""
    max_items: dict[str, PositiveInt] = {}
    """At most this many items of a source (its name is the line's `source`, else the file's stem)."""
    licenses: dict[str, str] = {}
    """Licence of each source by its name, e.g. cc-by-sa-4.0; stands in the model card, which says "not stated" of the
    others."""

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("is empty; give a file, a list of files, or a glob")
        return value


def _check_commit(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", value):
        raise ValueError("is not a commit; give its 40 hex digits, so that the same data is read every time")
    return value


Commit = Annotated[str, AfterValidator(_check_commit)]


class PublishedDataConfig(DataConfigBase):
    """A published data set: its train files under their published names."""

    path: str | None = None
    """Folder with the files under their published names; null downloads them."""


class MlqaTranslateTrainConfig(PublishedDataConfig):
    """MLQA translate-train: SQuAD's train questions and paragraphs, machine-translated; parallel by question."""

    source: Literal["mlqa_translate_train"] = "mlqa_translate_train"
    on_bad_line: Literal["raise", "skip"] = "raise"
    """raise: stop at the first id that stands twice with other texts; skip: leave it out, counted and reported."""


class HubDataConfig(PublishedDataConfig):
    """A published data set of the Hugging Face hub."""

    revision: Commit
    """Commit on the hub, 40 hex digits; not used with a folder."""


class _NegativesConfig(HubDataConfig):
    negatives: NonNegativeInt = 0
    """Explicit negatives kept of each question, the first ones; `loss.num_negatives` draws from them."""


class _LinesConfig(HubDataConfig):
    on_bad_line: Literal["raise", "skip"] = "raise"
    """raise: stop at the first bad line; skip: leave bad lines out, counted and reported."""


class MmarcoConfig(_NegativesConfig, _LinesConfig):
    """mMARCO: MS MARCO's train questions and passages in 14 languages, machine-translated; parallel by question."""

    source: Literal["mmarco"] = "mmarco"
    revision: Commit = "6d039c4638c0ba3e46a9cb7b498b145e7edc6230"
    """Commit on the hub, 40 hex digits; not used with a folder."""
    positives: Literal["triples", "qrels"] = "triples"
    """Where a question's passages stand: the published triples, or MS MARCO's `qrels.train.tsv`, which has more
    questions and must be put as `data/qrels.train.tsv` into the folder by hand."""


class MiraclTrainConfig(_NegativesConfig, _LinesConfig):
    """MIRACL's train questions and the passages judged relevant to them, in 16 languages; not parallel."""

    source: Literal["miracl_train"] = "miracl_train"
    revision: Commit = "5be20db9509754dadad47689368639fcec739c00"
    """Commit of the topics and judgments on the hub, 40 hex digits; not used with a folder."""
    corpus_revision: Commit = "d921ec7e349ce0d28daf30b2da9da5ee698bef0d"
    """Commit of the corpora on the hub, 40 hex digits; not used with a folder."""


class MrTydiConfig(_NegativesConfig, _LinesConfig):
    """Mr. TyDi's train questions and passages in 11 languages; not parallel."""

    source: Literal["mr_tydi"] = "mr_tydi"
    revision: Commit = "3506bca8a88cdb49d8d35e954365ca6053e4346a"
    """Commit on the hub, 40 hex digits; not used with a folder."""


class SwimIrConfig(_LinesConfig):
    """SWIM-IR, monolingual: synthetic questions on Wikipedia passages in 10 languages; not parallel."""

    source: Literal["swim_ir"] = "swim_ir"
    revision: Commit = "834c20f0ceef6a68e029fb4447d17d20bb0288c3"
    """Commit on the hub, 40 hex digits; not used with a folder."""


class MfaqConfig(_LinesConfig):
    """MFAQ: questions and answers of FAQ pages in 21 languages; not parallel."""

    source: Literal["mfaq"] = "mfaq"
    revision: Commit = "72248e10c1bbe5e3c3710e5e969a41947ca43937"
    """Commit on the hub, 40 hex digits; not used with a folder."""


class SentencePairsConfig(DataConfigBase):
    """Sentences and their translations: aligned text files (Moses), TSV, JSONL or Parquet."""

    source: Literal["sentence_pairs"] = "sentence_pairs"
    path: str | list[str]
    """File, list of files, or globs. Aligned files are named `NAME.<language>`, a line of one translates the same line
    of the others."""
    language_columns: dict[str, str] = {}
    """Column (JSONL, Parquet: its name; TSV: its number from 1) of each language, e.g. data.language_columns.sw=2; {}
    where the files say it (`NAME.<language>`, or columns english and non_english in a folder `en-<language>`)."""
    on_bad_line: Literal["raise", "skip"] = "raise"
    """raise: stop at the first bad line; skip: leave bad lines out, counted and reported."""
    licenses: dict[str, str] = {}
    """Licence of each source by its name (a file's, without its endings) for the model card."""

    @field_validator("language_columns")
    @classmethod
    def _two_languages(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) == 1:
            raise ValueError("names one language; a sentence and its translation are in two")
        _check_languages(list(value) or None)
        return value


class HubColumnsConfig(Section):
    """Columns of a data set by what they hold; `name.inner` is a field of a column that holds objects."""

    query: str = "query"
    """Column of the question."""
    passage: str = "passage"
    """Column of the passage."""
    id: str | None = None
    """Column of the question's id, which its language versions share; null: no row is a version of another."""
    passage_id: str | None = None
    """Column of the passage's id, which its language versions share; null: equal passages are joined."""
    language: str | None = None
    """Column of the language code; null where `data.configurations` says it."""
    negatives: list[str] = []
    """Columns of explicit negatives, each with a text or a list of texts, e.g. [negative_1,negative_2]."""


class HubDatasetConfig(DataConfigBase):
    """Any data set that the library `datasets` reads, on the hub or in a folder, its columns named here."""

    source: Literal["hf"] = "hf"
    path: str
    """Name on the Hugging Face hub, or a folder or file (Parquet, JSONL, CSV, ...)."""
    revision: Commit | None = None
    """Commit on the hub, 40 hex digits; must be given for a data set of the hub."""
    configurations: dict[str, str] = {}
    """Configuration of each language, e.g. data.configurations.sw=sw-pair; {} reads the default one, whose rows say
    their language in a column."""
    split: str = "train"
    """Split to read; one for evaluation is refused."""
    columns: HubColumnsConfig = HubColumnsConfig()
    on_bad_line: Literal["raise", "skip"] = "raise"
    """raise: stop at the first bad row; skip: leave bad rows out, counted and reported."""
    licenses: dict[str, str] = {}
    """Licence of the source, by its name (the last part of `path`), for the model card."""

    @model_validator(mode="after")
    def _languages_said(self) -> HubDatasetConfig:
        if not self.path.strip():
            raise ValueError("data.path=: is empty; give a name on the Hugging Face hub, a folder or a file")
        if bool(self.configurations) == (self.columns.language is not None):
            raise ValueError(
                f"data.columns.language={self.columns.language or 'null'}: "
                + (
                    "data.configurations says the languages too; leave one of the two out"
                    if self.configurations
                    else "nothing says which language a row is in; name the column, or the configuration of each "
                    "language (data.configurations.sw=NAME)"
                )
            )
        _check_languages(list(self.configurations) or None)
        return self


PartConfig = Annotated[
    CldrDataConfig
    | ParallelJsonlConfig
    | MmarcoConfig
    | MlqaTranslateTrainConfig
    | MiraclTrainConfig
    | MrTydiConfig
    | SwimIrConfig
    | MfaqConfig
    | SentencePairsConfig
    | HubDatasetConfig,
    Field(discriminator="source"),
]

PART_SECTIONS: dict[str, type[DataConfigBase]] = {
    section.model_fields["source"].default: section for section in get_args(get_args(PartConfig)[0])
}
"""Section of each option of ``data`` that can be a part of a mixture, by its ``source``."""
KEYS_OF_THE_WHOLE = set(DataConfigBase.model_fields) - {"languages", "cap", "cap_per_language"}
"""Keys of ``data`` that a mixture has once, not for each part."""


class MixtureConfig(DataConfigBase):
    """Several data sets at once, each a part with a name."""

    source: Literal["mixture"] = "mixture"
    parts: dict[str, PartConfig]
    """Parts by names of your own: each has a `source`, the option of `data` that it is (default: its name), and that
    option's keys, e.g. data.parts.forum.source=parallel_jsonl data.parts.forum.path=FILE data.parts.forum.cap=5000.
    Validation, workers, cache and overlap are keys of the whole. A part is one source to `sampler.sources`."""
    join_ids: bool = False
    """true: equal ids of items, and of passages, in two parts mean the same, as in two files of one; false: nothing."""

    @field_validator("parts", mode="before")
    @classmethod
    def _parts_named(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if not value:
            raise ValueError("data.parts={}: has no part; give one, e.g. data.parts.mmarco.path=DIR")
        return {name: _named_part(str(name), section) for name, section in value.items()}

    @model_validator(mode="after")
    def _parts_have_these_languages(self) -> MixtureConfig:
        for name, part in self.parts.items():
            if self.languages is None or part.languages == type(part).model_fields["languages"].default:
                continue
            extra = [code for code in part.languages or () if code not in self.languages]
            if extra:
                raise ValueError(
                    f"data.parts.{name}.languages=[{','.join(part.languages or ())}]: data.languages has no "
                    f"{', '.join(extra)}; add it there, or leave it out here"
                )
        return self

    @field_serializer("parts")
    def _own_keys(self, parts: dict[str, Any], info: FieldSerializationInfo) -> dict[str, Any]:
        """Without the keys of the whole, which parts do not take."""
        mode = "json" if info.mode_is_json() else "python"
        return {
            name: part.model_dump(mode=mode, exclude=KEYS_OF_THE_WHOLE, exclude_defaults=info.exclude_defaults)
            for name, part in parts.items()
        }


def _named_part(name: str, section: Any) -> Any:
    """A part as it is given, with its ``source``.

    Raises:
        ValueError: its name is none, it does not say what it is, or it has a key of the whole.
    """
    from hybrid_ir.schema_keys import nearest  # which knows this module

    key = f"data.parts.{name}"
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"{key}: is no name of a part; use letters, digits and _, a letter first")
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        return section
    source = section.get("source", name)
    if source not in PART_SECTIONS:
        near = nearest(str(source), PART_SECTIONS)
        hint = f'did you mean "{near}"? ' if near else ""
        what = "no such option of data" if "source" in section else "must be given, since no option has the part's name"
        raise ValueError(
            f"{key}.source={section.get('source', 'null')}: {what}; {hint}options: {', '.join(PART_SECTIONS)}"
        )
    for whole in sorted(KEYS_OF_THE_WHOLE & set(section)):
        raise ValueError(f"{key}.{whole}={section[whole]}: is for all parts together; set data.{whole}")
    return {**section, "source": source}


DataConfig = Annotated[PartConfig | MixtureConfig, Field(discriminator="source")]

NOT_PARALLEL = (MiraclTrainConfig, MrTydiConfig, SwimIrConfig, MfaqConfig)
"""Data sets whose items have one language each: no cross-lingual row can be made of them."""


def data_sections(data: DataConfig) -> dict[str, PartConfig]:
    """What is read, by its dotted key: the section ``data`` itself, or the parts of a mixture."""
    if isinstance(data, MixtureConfig):
        return {f"data.parts.{name}": part for name, part in data.parts.items()}
    return {"data": data}


def cross_lingual_only(data: DataConfig) -> set[str]:
    """Parts of a mixture of which no monolingual row is made: in bitext a sentence would be its own passage."""
    if not isinstance(data, MixtureConfig):
        return set()
    return {name for name, part in data.parts.items() if isinstance(part, SentencePairsConfig)}


def key_of_part(key: str) -> str:
    """A dotted key of a part of a mixture as that of a section ``data``; any other key as it is."""
    return re.sub(r"^data\.parts\.\w+\.", "data.", key)


def said_of_part(name: str, message: str) -> str:
    """A message about a section ``data`` as one about a part of a mixture: with the keys that the user typed."""
    own = {field for section in PART_SECTIONS.values() for field in section.model_fields} - KEYS_OF_THE_WHOLE
    return re.sub(rf"(?<![\w./])data\.(?=(?:{'|'.join(sorted(own))})\b)", f"data.parts.{name}.", message)


# -------------------------------------------------------------------------------------------------------- sampler


class SourceMixConfig(Section):
    """How several sources share the batches."""

    draw: Literal["row", "batch"] = "row"
    """row: a batch mixes sources; batch: every batch comes from one source."""
    weights: dict[str, NonNegativeFloat] | None = None
    """Relative weight of each source by name, 0 leaves it out; null weighs by size to the power `exponent`."""
    exponent: Fraction = 1.0
    """Power of a source's number of items when there are no weights: 1 in proportion to size, 0 all equal."""


_PRESET_RATIO = {"x_x_mono": 1.0, "x_y": 0.0, "x_x": 1.0, "english": 1.0}


class SamplerConfig(Section):
    """What a batch is (arXiv 2408.10536, section 3; arXiv 2004.05484, section 5)."""

    preset: Literal["hybrid", "x_x_mono", "x_y", "x_x", "english"] = "hybrid"
    """hybrid: monolingual batches with probability mono_ratio, else cross-lingual rows. x_x_mono: every batch in one
    language. x_y: every row's passage in another language than its query. x_x: each row in one language, languages
    mixed in the batch (the warning example). english: English only."""
    mono_ratio: Fraction = 0.5
    """Share of monolingual batches: 1 is x_x_mono, 0 is x_y."""
    mono_draw: Literal["bernoulli", "exact"] = "bernoulli"
    """bernoulli: each batch drawn on its own; exact: over any n batches the share is within 1/n of the ratio."""
    language_exponent: Fraction = 0.0
    """A monolingual batch's language is drawn in proportion to its number of items to this power: 0 uniform (the
    paper's), 1 by size; values between temper."""
    language_weights: dict[str, float] = {}
    """Relative weight of a language, e.g. sampler.language_weights.sw=2; 1 where none is given. It multiplies the
    chance of the language in the monolingual draw, and of a pair in the cross-lingual draw by its two languages'."""
    cross_draw: Literal["pair_first", "item_first"] = "pair_first"
    """pair_first: an ordered language pair uniformly, then an item that has both; item_first: an item, then an
    ordered pair of its languages. The same on fully parallel data, different experiments on ragged data."""
    small_languages: Literal["error", "drop"] = "error"
    """A language with fewer distinct passages than the batch cannot fill a monolingual batch: error names it, drop
    leaves it out of the monolingual draw and reports it."""
    sources: SourceMixConfig = SourceMixConfig()

    @field_validator("language_weights")
    @classmethod
    def _weights_of_languages(cls, value: dict[str, float]) -> dict[str, float]:
        for code, weight in value.items():
            said = f"sampler.language_weights.{code}={weight:g}"
            try:
                _languages.check_code(code)
            except ValueError as error:
                raise ValueError(f"{said}: {error}") from None
            if weight <= 0:
                raise ValueError(f"{said}: must be above 0; leave a language out with data.languages")
        return value

    @model_validator(mode="after")
    def _preset_agrees(self) -> SamplerConfig:
        if self.preset == "english" and self.language_weights:
            code, weight = next(iter(self.language_weights.items()))
            raise ValueError(
                f"sampler.language_weights.{code}={weight:g}: sampler=english draws one language alone; leave it out"
            )
        wanted = _PRESET_RATIO.get(self.preset)
        if wanted is not None and self.mono_ratio != wanted:
            raise ValueError(
                f"sampler.mono_ratio={self.mono_ratio:g}: contradicts sampler={self.preset}, which fixes it at "
                f"{wanted:g}; use sampler=hybrid to set the ratio"
            )
        return self


# ---------------------------------------------------------------------------------------------------------- model


class EncoderConfigBase(Section):
    pooling: Literal["mean", "cls"] = "mean"
    """mean of the last hidden states over the tokens, or the first token's state."""
    query_prefix: str = ""
    """Text put before every query, e.g. 'query: '."""
    passage_prefix: str = ""
    """Text put before every passage, e.g. 'passage: '."""
    max_query_length: Annotated[int, Field(ge=4)] = 32
    """Tokens of a query at most, prefix and special tokens included."""
    max_passage_length: Annotated[int, Field(ge=4)] = 128
    """Tokens of a passage at most, prefix and special tokens included."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the encoder."""


class SmallModelConfig(EncoderConfigBase):
    """A small BERT-shaped encoder from scratch, with a tokenizer trained on the corpus."""

    kind: Literal["small"] = "small"
    vocab_size: Annotated[int, Field(ge=300)] = 16384
    """Size of the tokenizer's vocabulary."""
    hidden_size: PositiveInt = 128
    """Width of the encoder and of the embeddings."""
    num_layers: PositiveInt = 2
    """Transformer layers."""
    num_heads: PositiveInt = 4
    """Attention heads; divides hidden_size."""
    intermediate_size: PositiveInt = 512
    """Width of the feed-forward layers."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout of hidden states and attention; equality across devices and chunks is claimed at 0."""
    max_query_length: Annotated[int, Field(ge=4)] = 64
    """Tokens of a query at most, prefix and special tokens included."""
    max_passage_length: Annotated[int, Field(ge=4)] = 64
    """Tokens of a passage at most, prefix and special tokens included."""

    @model_validator(mode="after")
    def _heads_divide(self) -> SmallModelConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"model.num_heads={self.num_heads}: does not divide model.hidden_size={self.hidden_size}")
        return self


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) on linear layers: they alone are trained, and are merged into the
    layers' weights when the model is exported. Needs the extra `peft`."""

    rank: NonNegativeInt = 0
    """Rank of the adapters; 0 has none and trains the encoder itself."""
    alpha: PositiveFloat | None = None
    """Adapters are scaled by alpha / rank; null = twice the rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout of an adapter's input; equality across devices and chunks is claimed at 0."""
    target_modules: list[str] | None = None
    """Names of the linear layers that get an adapter, whole or the last parts of them, e.g. [query,value]; null = all
    linear layers of the encoder."""

    @model_validator(mode="after")
    def _adapters_wanted(self) -> LoraConfig:
        if self.target_modules is not None:
            shown = f"model.lora.target_modules=[{','.join(self.target_modules)}]"
            if not self.target_modules:
                raise ValueError(f"{shown}: names no layer; name some, or null for all linear layers")
            if len(set(self.target_modules)) != len(self.target_modules):
                raise ValueError(f"{shown}: names a layer twice; name it once")
        if self.rank == 0:
            set_anyway = {"alpha": self.alpha, "dropout": self.dropout or None, "target_modules": self.target_modules}
            for key, value in set_anyway.items():
                if value is not None:
                    given = f"[{','.join(value)}]" if isinstance(value, list) else f"{value:g}"
                    raise ValueError(
                        f"model.lora.{key}={given}: has no effect with model.lora.rank=0, which trains the encoder "
                        f"itself; set model.lora.rank, e.g. to 8, or leave it out"
                    )
        return self


class PretrainedModelConfig(EncoderConfigBase):
    """Any encoder that transformers' AutoModel loads, from a folder or the Hugging Face hub."""

    kind: Literal["pretrained"] = "pretrained"
    name_or_path: str
    """Folder of a model, folder of a run, or name on the Hugging Face hub."""
    revision: str | None = None
    """Commit on the hub (40 hex digits for a number that is published)."""
    dense: bool | None = None
    """A dense layer with tanh after pooling, as LaBSE has; null = what the folder says (its modules.json)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout of hidden states and attention; null = as in the checkpoint."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint. Off: a stranger's model folder cannot execute anything."""
    keep_layers: PositiveInt | None = None
    """The encoder's first n transformer layers only, in the exported model too; null = all."""
    freeze_embeddings: bool = False
    """Do not train what is below the first layer: embeddings of tokens, positions and token types, normalisation."""
    freeze_layers: NonNegativeInt = 0
    """Do not train the lowest n transformer layers, nor the embeddings below them; with LoRA: no adapters in them."""
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _layers_left(self) -> PretrainedModelConfig:
        if self.keep_layers is not None and self.freeze_layers > self.keep_layers:
            raise ValueError(
                f"model.freeze_layers={self.freeze_layers}: model.keep_layers={self.keep_layers} leaves fewer layers; "
                f"use {self.keep_layers - 1} or less"
            )
        return self

    @field_validator("name_or_path")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; give a model folder or a name on the Hugging Face hub")
        return value


ModelConfig = Annotated[SmallModelConfig | PretrainedModelConfig, Field(discriminator="kind")]


class SavedModelConfig(Section):
    """The model of ``evaluate.py``; null means: what the model folder says."""

    name_or_path: str
    """Folder of a run, folder of a model, or name on the Hugging Face hub."""
    revision: str | None = None
    """Commit on the hub."""
    pooling: Literal["mean", "cls"] | None = None
    """Overrides the folder's pooling."""
    dense: bool | None = None
    """Overrides whether the folder's dense layer is used."""
    query_prefix: str | None = None
    """Overrides the folder's query prefix."""
    passage_prefix: str | None = None
    """Overrides the folder's passage prefix."""
    max_query_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens of a query at most, prefix and special tokens included."""
    max_passage_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens of a passage at most, prefix and special tokens included."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint."""


# ----------------------------------------------------------------------------------------------- loss, optimizer


class LossConfig(Section):
    """InfoNCE over cosine similarities with in-batch negatives, in fp32."""

    temperature: PositiveFloat = 0.02
    """Similarities are divided by it."""
    learn_temperature: bool = False
    """Train the temperature (its logarithm), from `temperature` on, kept within the two bounds."""
    min_temperature: PositiveFloat = 0.005
    """Lower bound of a learned temperature."""
    max_temperature: PositiveFloat = 1.0
    """Upper bound of a learned temperature."""
    other_positives: bool = True
    """Other rows' positives are negatives too (usual practice); false keeps the explicit negatives only, as the
    paper's formula is printed."""
    num_negatives: NonNegativeInt = 0
    """Explicit negatives of each row, a fixed number."""
    both_directions: bool = False
    """Also score passages against the batch's queries, and average the two losses."""
    mask_same_passage: bool = True
    """Leave passages with the id of the row's own passage out of the denominator."""

    @model_validator(mode="after")
    def _has_negatives(self) -> LossConfig:
        if not self.other_positives and self.num_negatives == 0:
            raise ValueError(
                "loss.other_positives=false: leaves no negatives with loss.num_negatives=0; set "
                "loss.num_negatives to 1 or more, or loss.other_positives=true"
            )
        if not self.min_temperature <= self.temperature <= self.max_temperature:
            raise ValueError(
                f"loss.temperature={self.temperature:g}: outside [loss.min_temperature, loss.max_temperature] = "
                f"[{self.min_temperature:g}, {self.max_temperature:g}]"
            )
        return self


class OptimizerConfig(Section):
    """AdamW; biases and normalisation weights are not decayed."""

    lr: PositiveFloat = 3e-5
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of the weights that are not biases or normalisation."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's betas."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape after the warm-up; constant is the one that a resume may prolong."""
    warmup_ratio: Fraction = 0.1
    """Share of max_steps in which the rate climbs from 0."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Gradients are clipped to this L2 norm; null does not clip."""


# -------------------------------------------------------------------------------------------------------- trainer


class TrainerConfig(Section):
    """Where and how long to train."""

    name: Literal["cpu", "gpu", "ddp", "fsdp"] = "cpu"
    """The preset that was chosen."""
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    """Kind of device."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work."""
    devices: PositiveInt = 1
    """Devices on each machine; the global batch is divided among all."""
    num_nodes: PositiveInt = 1
    """Machines; start torchrun on each of them."""
    precision: Precision = "32"
    """32: fp32; bf16: mixed precision, loss in fp32; 64: for exactness tests."""
    max_steps: PositiveInt = 1000
    """Optimizer steps."""
    val_check_interval: PositiveInt | None = 250
    """Steps between evaluations; null evaluates at the end only."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after this many evaluations without a better monitor; null never stops early."""
    log_every_n_steps: PositiveInt = 10
    """Steps between logged values of the training loss."""
    deterministic: bool = True
    """Deterministic kernels where torch has them."""
    chunk_tokens: PositiveInt | None = 1024
    """Tokens that go through the encoder at a time, padding included: each device's part of a batch, once drawn, is
    encoded in chunks of like length, queries and passages apart; null: no limit."""
    chunk_rows: PositiveInt | None = None
    """The same in texts; with both, whichever is reached first. With neither a batch is padded to its longest text."""
    grad_cache: bool = False
    """Keep the activations of one chunk at a time (GradCache, arXiv 2101.06983): memory does not grow with the batch,
    and the encoder's forward pass is computed twice. The gradient is the same."""


class CheckpointConfig(Section):
    """What is kept of a run."""

    every_n_steps: PositiveInt = 200
    """Steps between checkpoints from which the run can be resumed."""
    monitor: str | None = None
    """Logged name that decides which checkpoint is best; null takes the mean average precision of the held-out items,
    `val/validation/multilingual/map` (`.../monolingual/map` with one language)."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of the monitor is better."""
    export: Literal["best", "last"] = "best"
    """Weights that become `model/` and are evaluated at the end."""
    keep_optimizer: bool = False
    """Keep the optimizer's state when the run is complete, so that it can be prolonged."""


# ------------------------------------------------------------------------------------------------------ evaluation


class EvaluationConfig(Section):
    """How texts are encoded and searched for evaluation."""

    tokens_per_batch: PositiveInt | None = None
    """Padded tokens encoded at a time; null: 1024 on the CPU, 8192 on a GPU."""
    shard_size: PositiveInt = 4096
    """Texts in a shard; sorting by length, encoding and products happen inside shards, so that results do not depend
    on the number of processes (on the CPU: of processes with as many threads each)."""
    at_start: bool = False
    """Also evaluate before the first step: the untrained encoder's row beside the trained one's."""
    save_runs: bool = False
    """Write the rankings as TREC run files under `runs/`."""
    run_depth: PositiveInt = 100
    """Documents per query in a run file."""
    metrics: list[str] = []
    """Metrics beside the standard ones: precision@k, recall@k, ndcg@k, mrr@k for any k, e.g. [recall@20]."""
    language_bias_k: PositiveInt = 10
    """Depth at which the multilingual pool's rankings are looked at for language bias."""
    cache_embeddings: bool = False
    """Keep embeddings on disk, in the cache, for the next evaluation of the same weights on the same texts."""

    @field_validator("metrics")
    @classmethod
    def _metrics_known(cls, values: list[str]) -> list[str]:
        for value in values:
            if not METRIC.fullmatch(value):
                raise ValueError(
                    f"{value!r} is no metric; give precision@k, recall@k, ndcg@k or mrr@k with k from 1, e.g. recall@20"
                )
        if len(set(values)) != len(values):
            raise ValueError("names a metric twice")
        return values


METRIC = re.compile(r"(?:precision|recall|ndcg|mrr)@[1-9][0-9]{0,5}")
"""Metrics at a depth."""


class LanguageRemovalConfig(Section):
    """Language information removed from the embeddings after training, with no training; fitted on passages only."""

    method: Literal["none", "centring", "lir", "lsar"] = "none"
    """centring: each language's mean passage embedding is subtracted; lir: each language's leading principal
    directions are projected out (arXiv 2109.04727); lsar: the subspace of the languages' means is projected out
    (arXiv 2401.05792)."""
    components: PositiveInt | None = None
    """Directions that lir (per language) and lsar (in all) remove; null: 1 for lir, languages - 1 for lsar."""

    @model_validator(mode="after")
    def _components_used(self) -> LanguageRemovalConfig:
        if self.components is not None and self.method in ("none", "centring"):
            raise ValueError(
                f"language_removal.components={self.components}: language_removal.method={self.method} removes no "
                f"directions; use lir or lsar"
            )
        return self


class BenchmarkConfigBase(Section):
    languages: list[str] | None = None
    """Languages to evaluate; null takes all that are there."""
    limit: PositiveInt | None = None
    """Keep the first N question ids, against the whole pool."""
    during_training: bool = True
    """Also run every val_check_interval, not only at the end."""
    during_training_limit: PositiveInt | None = None
    """`limit` for the runs during training."""
    queries: str | None = None
    """File of rewritten or expanded queries, TSV (`id<TAB>text` or `id<TAB>language<TAB>text`) or JSONL: their texts
    replace the benchmark's."""
    passage_queries: str | None = None
    """JSONL file of texts generated for passages, e.g. queries in other languages (xQG, arXiv 2305.03950): their
    embeddings are averaged into the passage's."""
    passage_queries_weight: Fraction = 0.5
    """Weight of the mean embedding of a passage's generated texts; the passage's own has the rest."""

    _languages_known = field_validator("languages")(_check_languages)


class CldrBenchmarkConfig(BenchmarkConfigBase):
    """Questions on CLDR facts about entities and in question kinds that were held out of training."""

    languages: list[str] | None = list(_languages.MIRACL)
    """Languages to evaluate; the default is MIRACL's 18."""


Candidate = Literal["sentence", "sentence_with_paragraph"]


class LareqaBenchmarkConfig(BenchmarkConfigBase):
    """A data set in LAReQA's format (arXiv 2004.05484)."""

    path: str | None = None
    """Folder with `<language>.json` files as LAReQA publishes them; null downloads them into the cache."""
    candidate: Candidate = "sentence"
    """Text of a candidate: the sentence, or the pair (sentence, paragraph) truncated in the paragraph."""


class XquadRBenchmarkConfig(LareqaBenchmarkConfig):
    """XQuAD-R (LAReQA, arXiv 2004.05484): find the sentence that answers, within and across 11 languages."""


class MlqaRBenchmarkConfig(LareqaBenchmarkConfig):
    """MLQA-R (LAReQA, arXiv 2004.05484): as XQuAD-R, 7 languages, each question in 2 to 4 of them; CC BY-NC 4.0."""


class MiraclBenchmarkConfig(BenchmarkConfigBase):
    """MIRACL (Zhang et al. 2023, TACL): monolingual passage retrieval in 18 languages, judged by native speakers."""

    path: str | None = None
    """Folder in MIRACL's published layout (`miracl-v1.0-<l>/topics|qrels`, `miracl-corpus-v1.0-<l>/docs-*.jsonl.gz`);
    null takes the files from the Hugging Face hub."""
    split: Literal["dev", "train"] = "dev"
    """Topics and judgments: dev (all 18 languages), or train (not de, yo)."""
    depth: PositiveInt = 1000
    """Documents retrieved for a query; what ranks below counts as not retrieved, as in published MIRACL runs."""
    during_training: bool = False
    """Also run every val_check_interval, not only at the end; corpora are large, so this is off."""

    @model_validator(mode="after")
    def _has_languages(self) -> MiraclBenchmarkConfig:
        there = [code for code in _languages.MIRACL if self.split == "dev" or code not in ("de", "yo")]
        for code in self.languages or ():
            if code not in there:
                raise ValueError(
                    f"benchmark.miracl.languages={code}: MIRACL has no {self.split} topics in it; "
                    f"it has {', '.join(there)}"
                )
        return self


class MtebBenchmarkConfig(BenchmarkConfigBase):
    """Retrieval tasks of MTEB, run by mteb's own code (needs the extra `mteb`)."""

    tasks: list[str] = []
    """Names of tasks, e.g. [BelebeleRetrieval, MIRACLRetrievalHardNegatives]."""
    during_training: bool = False
    """Stays false: mteb runs on the finished model only."""

    @model_validator(mode="after")
    def _some_task(self) -> MtebBenchmarkConfig:
        if not self.tasks:
            raise ValueError("benchmark.mteb.tasks=[]: names no task; e.g. benchmark.mteb.tasks=[BelebeleRetrieval]")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"benchmark.mteb.tasks=[{','.join(self.tasks)}]: names a task twice; name it once")
        if self.during_training:
            raise ValueError(
                "benchmark.mteb.during_training=true: mteb runs on the finished model only; set it to false"
            )
        for key in ("limit", "during_training_limit", "queries", "passage_queries"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"benchmark.mteb.{key}={getattr(self, key)}: mteb takes its tasks whole, as they are; leave it out"
                )
        return self


class BeirBenchmarkConfig(BenchmarkConfigBase):
    """Data of your own in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv, plain or (the first two)
    gzip."""

    path: str
    """Folder with these files, whose lines have a `language` (or all one: `languages`); or with such a folder for each
    language (`sw`) or pair of query and corpus language (`en-sw`)."""
    split: str = "test"
    """Judgments: the file `qrels/<split>.tsv`."""
    languages: list[str] | None = None
    """Languages to evaluate; null takes all that are there. A single one is the language of lines that name none."""
    settings: list[Literal["monolingual", "cross_lingual", "multilingual"]] | None = None
    """What to measure; null takes all that the judgments allow."""
    depth: PositiveInt | None = None
    """Documents retrieved for a query: the corpus is streamed, and there is no multilingual setting. null ranks the
    whole pool, whose embeddings are then in memory."""
    during_training: bool = False
    """Also run every val_check_interval, not only at the end."""

    @model_validator(mode="after")
    def _settings_possible(self) -> BeirBenchmarkConfig:
        if not re.fullmatch(r"[\w.-]+", self.split):
            raise ValueError(f"benchmark.beir.split={self.split}: is no file name; for qrels/test.tsv give test")
        if self.settings is not None:
            shown = f"benchmark.beir.settings=[{','.join(self.settings)}]"
            if not self.settings:
                raise ValueError(f"{shown}: names none; give some, or null for all that the judgments allow")
            if len(set(self.settings)) != len(self.settings):
                raise ValueError(f"{shown}: names a setting twice; name it once")
            if self.depth is not None and "multilingual" in self.settings:
                raise ValueError(
                    f"{shown}: the multilingual setting ranks the whole pool; leave it out, or set "
                    f"benchmark.beir.depth=null"
                )
        return self


BENCHMARKS: dict[str, type[BenchmarkConfigBase]] = {
    "beir": BeirBenchmarkConfig,
    "cldr": CldrBenchmarkConfig,
    "miracl": MiraclBenchmarkConfig,
    "mlqa_r": MlqaRBenchmarkConfig,
    "mteb": MtebBenchmarkConfig,
    "xquad_r": XquadRBenchmarkConfig,
}
"""Schema of each benchmark by the key under ``benchmark``."""


# ---------------------------------------------------------------------------------------------- logger, launcher


API_KEY = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])|wandb_v\d+_\w{20,}")
"""What an API key of Weights & Biases looks like."""


class LoggerConfig(Section):
    """Where curves go besides the files of the run."""

    name: Literal["csv", "wandb", "tensorboard", "none"] = "csv"
    """csv: `metrics.csv` in the run's folder, which the next two write too; wandb: Weights & Biases, offline when not
    logged in; tensorboard: event files in the run's folder."""
    project: str = Field("hybrid-ir", min_length=1, max_length=128)
    """Weights & Biases project."""
    entity: str | None = None
    """Weights & Biases entity; null is your default."""
    group: str | None = None
    """Weights & Biases group; null is the sweep's id in a sweep."""
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = []
    """Tags beside those made from batching, ratio, seed, model and data."""

    @field_validator("project")
    @classmethod
    def _project_is_a_name(cls, value: str) -> str:
        if found := sorted(set(value) & set("/\\#?%:")):
            raise ValueError(f"has {' '.join(found)}, which Weights & Biases does not take; leave it out")
        return value


class LocalLauncherConfig(Section):
    """The jobs of a sweep on this machine, each in a process of its own."""

    kind: Literal["local"] = "local"
    """Where jobs run: on this machine."""
    jobs: PositiveInt = 1
    """Jobs that run side by side; on one machine each gets its share of the CPU threads."""
    time_limit_minutes: PositiveFloat | None = None
    """A job that takes longer is stopped and reported as failed; null has no limit."""


class SlurmLauncherConfig(Section):
    """The jobs of a sweep as an array of Slurm's batch jobs, each with one task on every node."""

    kind: Literal["slurm"] = "slurm"
    jobs: PositiveInt = 8
    walltime_minutes: PositiveInt = 1440
    """Time limit of a batch job; one that reaches it saves its state and goes on when its turn comes again."""
    max_timeouts: NonNegativeInt = 10
    """How often a job is put in the queue again after it has reached its time limit."""
    signal_seconds: Annotated[int, Field(ge=30)] = 120
    """Seconds before its time limit at which a job is told to save its state."""
    partition: str | None = None
    """Partition; null is the cluster's default."""
    account: str | None = None
    """Account that is charged; null is your default."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    gpus_per_node: NonNegativeInt | None = None
    """GPUs of a job on each node; null: `trainer.devices`, none with `trainer.accelerator=cpu`."""
    cpus_per_node: PositiveInt | None = None
    """CPUs of a job on each node, which its devices share; null is the partition's default."""
    memory_gb: PositiveInt | None = None
    """Memory of a job on each node; null is the partition's default."""
    setup: list[str] = []
    """Lines of shell before the job, e.g. `module load cuda`."""
    sbatch: dict[str, StrictBool | str] = {}
    """Further options of sbatch, e.g. `launcher.sbatch.mail-user=me@example.org`; true gives one without a value, false
    leaves out what would be given (`requeue`)."""

    @model_validator(mode="after")
    def _signal_before_the_end(self) -> SlurmLauncherConfig:
        if self.signal_seconds >= 60 * self.walltime_minutes:
            raise ValueError(
                f"launcher.signal_seconds={self.signal_seconds}: must be less than "
                f"launcher.walltime_minutes={self.walltime_minutes}, which are {60 * self.walltime_minutes} s"
            )
        return self


def _with_kind(raw: Any) -> Any:
    return {"kind": "local", **raw} if isinstance(raw, dict) else raw  # runs of earlier versions do not state it


LauncherConfig = Annotated[
    LocalLauncherConfig | SlurmLauncherConfig, Field(discriminator="kind"), BeforeValidator(_with_kind)
]


# ----------------------------------------------------------------------------------------------------- the whole


class _Common(Section):
    seed: int = Field(1, ge=0, lt=2**32)
    """Seed of everything random in the run: weights, batches."""
    threads: PositiveInt | None = None
    """CPU threads of torch; null takes all cores. Bits depend on it, so the resolved number is kept with the run."""
    output_dir: str | None = None
    """Folder of the run; null makes `outputs/<date>_<time>`. Must be empty or absent."""
    sweep: str | None = None
    """With `-m`: name (under `sweeps/`) or folder of a sweep, which is begun or, where it exists, gone on with."""
    evaluation: EvaluationConfig = EvaluationConfig()
    benchmark: dict[str, Any] = {}
    """Benchmarks by name, chosen with `benchmark=[...]`."""

    @model_validator(mode="before")
    @classmethod
    def _no_api_key(cls, raw: Any) -> Any:
        """Before all else: the configuration is kept in files, and a message about a value shows it."""
        from hybrid_ir.schema_keys import flatten  # which knows this module

        secret = os.environ.get("WANDB_API_KEY", "")
        for name, value in flatten(raw if isinstance(raw, dict) else {}).items():
            text = str(value)
            if (len(secret) >= 40 and secret in text) or (name.startswith("logger.") and API_KEY.search(text)):
                raise ValueError(
                    f"{name}=(not shown): holds an API key of Weights & Biases, which would stand in the run's files; "
                    f"leave it out, and log in with wandb login, or set WANDB_API_KEY"
                )
        return raw

    @field_validator("benchmark", mode="after")
    @classmethod
    def _benchmarks(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {name: validate_benchmark(name, section) for name, section in value.items()}


def validate_benchmark(name: str, section: Any) -> BenchmarkConfigBase:
    """Validates one section under ``benchmark``.

    Raises:
        ValueError: the benchmark is not known, or a key of it is wrong.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark.{name}: unknown benchmark; known: {', '.join(sorted(BENCHMARKS))}")
    schema = BENCHMARKS[name]
    return section if isinstance(section, schema) else schema.model_validate(section or {})


class TrainConfig(_Common):
    """Everything that ``train.py`` can be told."""

    resume: str | None = None
    """Folder of a run to continue exactly."""
    dry_run: bool = False
    """Estimate tokens, hours and disk from a few timed steps, then stop; the same as `--dry-run`."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Rows of the global batch: over all devices, whatever their number."""
    data: DataConfig
    sampler: SamplerConfig = SamplerConfig()
    model: ModelConfig
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logger: LoggerConfig = LoggerConfig()
    launcher: LauncherConfig = LocalLauncherConfig()

    @model_validator(mode="after")
    def _whole(self) -> TrainConfig:
        world = self.trainer.devices * self.trainer.num_nodes
        if self.batch_size % world:
            raise ValueError(
                f"batch_size={self.batch_size}: not divisible by trainer.devices * trainer.num_nodes = {world}; "
                f"use {self.batch_size // world * world or world} or {(self.batch_size // world + 1) * world}"
            )
        if self.trainer.strategy == "fsdp" and world > 1:
            if self.trainer.chunk_tokens is not None:
                raise ValueError(
                    f"trainer.chunk_tokens={self.trainer.chunk_tokens}: with trainer.strategy=fsdp all devices encode "
                    f"the same number of chunks, which tokens do not give; use trainer.chunk_rows, and "
                    f"trainer.chunk_tokens=null"
                )
            if self.model.compile:
                raise ValueError(
                    "model.compile=true: is not for weights that are sharded; leave it out, or use trainer=ddp"
                )
        sections = data_sections(self.data)
        if all(isinstance(part, NOT_PARALLEL) for part in sections.values()) and self.sampler.mono_ratio < 1:
            raise ValueError(
                f"sampler.mono_ratio={self.sampler.mono_ratio:g}: cross-lingual rows need items in two languages, "
                f"data={self.data.source} has none; use sampler=x_x_mono"
            )
        if all(isinstance(part, SentencePairsConfig) for part in sections.values()) and self.sampler.mono_ratio > 0:
            raise ValueError(
                f"sampler.mono_ratio={self.sampler.mono_ratio:g}: in a monolingual row of data=sentence_pairs a "
                f"sentence would be its own passage; use sampler=x_y"
            )
        for key, part in sections.items():
            kept = getattr(part, "negatives", None)
            if kept is not None and kept < self.loss.num_negatives:
                raise ValueError(
                    f"loss.num_negatives={self.loss.num_negatives}: {key}.negatives={kept} keeps fewer of each "
                    f"question; set {key}.negatives={self.loss.num_negatives} or more"
                )
        if isinstance(self.data, MixtureConfig):
            self._weights_of_parts(self.data)
        for name in self.data.exclude_overlap_with:
            if name not in self.benchmark:
                raise ValueError(
                    f"data.exclude_overlap_with=[{','.join(self.data.exclude_overlap_with)}]: {name} is not among the "
                    f"chosen benchmarks; add it, 'benchmark=[{','.join([*self.benchmark, name])}]'"
                )
        chosen = self.data.languages
        if chosen is not None:
            if self.sampler.mono_ratio < 1 and len(chosen) < 2:
                raise ValueError(
                    f"sampler.mono_ratio={self.sampler.mono_ratio:g}: cross-lingual rows need two languages, "
                    f"data.languages has {len(chosen)} ({', '.join(chosen)}); add one, or use sampler=x_x_mono"
                )
            if self.sampler.preset == "english" and "en" not in chosen:
                raise ValueError("sampler.preset=english: data.languages does not have en; add it")
            for code, weight in self.sampler.language_weights.items():
                if code not in chosen:
                    raise ValueError(
                        f"sampler.language_weights.{code}={weight:g}: data.languages has no {code}; add it there, or "
                        f"leave it out here"
                    )
        return self

    def _weights_of_parts(self, data: MixtureConfig) -> None:
        """What the data would say of wrong names, before it is read."""
        from hybrid_ir.schema_keys import nearest  # which knows this module

        weights = self.sampler.sources.weights
        for name, weight in (weights or {}).items():
            if name not in data.parts:
                near = nearest(name, data.parts)
                hint = f'did you mean "{near}"? ' if near else ""
                raise ValueError(
                    f"sampler.sources.weights.{name}={weight:g}: no part of this name; {hint}the mixture has "
                    f"{', '.join(data.parts)}"
                )
        forgotten = [name for name in data.parts if weights is not None and name not in weights]
        if forgotten and not data.join_ids:  # then a part may have no items of its own, which the plan knows
            raise ValueError(
                f"sampler.sources.weights.{forgotten[0]}: must be given, as of every part (0 leaves it out)"
            )


class EvaluateConfig(_Common):
    """Everything that ``evaluate.py`` can be told."""

    model: SavedModelConfig
    accelerator: Literal["cpu", "gpu", "auto"] = "auto"
    """Kind of device."""
    devices: PositiveInt = 1
    """Devices that share the shards."""
    precision: Precision = "32"
    """Precision of the encoder; scores are always fp32."""
    language_removal: LanguageRemovalConfig = LanguageRemovalConfig()
    launcher: LocalLauncherConfig = LocalLauncherConfig()

    @model_validator(mode="after")
    def _something_to_do(self) -> EvaluateConfig:
        if not self.benchmark:
            raise ValueError("benchmark=[]: nothing to evaluate; choose one, e.g. 'benchmark=[cldr]'")
        if "mteb" in self.benchmark and self.language_removal.method != "none":
            raise ValueError(
                f"language_removal.method={self.language_removal.method}: is not applied to what mteb runs; evaluate "
                f"benchmark=[mteb] without it"
            )
        return self


if __name__ == "__main__":
    from hybrid_ir.config_command import main

    raise SystemExit(main())
