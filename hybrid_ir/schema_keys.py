"""Every key of the configuration with its type, default and docstring, read from the schema; near misses of a name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hybrid_ir.config import BENCHMARKS, KEYS_OF_THE_WHOLE, PART_SECTIONS

_ELSEWHERE = {
    "accumulate_grad_batches": "batch_size",
    "alpha": "sampler.mono_ratio",
    "epochs": "trainer.max_steps",
    "gpus": "trainer.devices",
    "learning_rate": "optimizer.lr",
    "max_epochs": "trainer.max_steps",
    "max_length": "model.max_passage_length",
    "max_seq_length": "model.max_passage_length",
    "model_name": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "num_epochs": "trainer.max_steps",
    "num_train_epochs": "trainer.max_steps",
    "output": "output_dir",
    "out": "output_dir",
    "per_device_train_batch_size": "batch_size",
    "ratio": "sampler.mono_ratio",
    "steps": "trainer.max_steps",
    "tau": "loss.temperature",
    "warmup_steps": "optimizer.warmup_ratio",
}
"""What other libraries and papers call some keys."""
_NUMBERS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: dotted name, e.g. ``sampler.mono_ratio``.
        type: what it takes, in words.
        default: value of the schema; ``...`` where one must be given.
        doc: docstring of the field.
        options: options of its group that have it, as ``group=option``; empty when every option has it.
        mapping: whether names below it are free (e.g. ``data.max_items.<source>``).
    """

    name: str
    type: str
    default: Any
    doc: str
    options: tuple[str, ...] = ()
    mapping: bool = False


def describe_type(field: FieldInfo) -> str:
    """What a field takes, in words: ``a number from 0 to 1``, ``one of max, min``, ``a whole number >= 1, or null``."""
    return _describe(field.annotation, list(field.metadata))


def _describe(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, types.UnionType):
        parts = [_describe(a, metadata) for a in arguments if a is not type(None)]
        return " or ".join(parts) + (", or null" if type(None) in arguments else "")
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in arguments)
    if origin is list:
        return "a list of " + _plural(_describe(arguments[0], []))
    if origin is tuple:
        return f"{len(arguments)} values, each {_describe(arguments[0], [])}"
    if origin is dict or annotation is dict:
        if arguments and union_members(arguments[1]):
            return "a mapping from names to sections"
        return "a mapping" if not arguments else f"a mapping from names to {_plural(_describe(arguments[1], []))}"
    return _NUMBERS.get(annotation, getattr(annotation, "__name__", str(annotation))) + _range(metadata)


def _plural(words: str) -> str:
    return {"text": "texts"}.get(words, words.replace("a whole number", "whole numbers").replace("a number", "numbers"))


def _flat(metadata: Iterable[Any]) -> Iterable[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flat(item.metadata)
        else:
            yield item


def _range(metadata: Iterable[Any]) -> str:
    low = high = ""
    low_value = high_value = None
    for item in _flat(metadata):
        if isinstance(item, annotated_types.Ge):
            low, low_value = f">= {item.ge}", item.ge
        elif isinstance(item, annotated_types.Gt):
            low = f"> {item.gt}"
        elif isinstance(item, annotated_types.Le):
            high, high_value = f"<= {item.le}", item.le
        elif isinstance(item, annotated_types.Lt):
            high = f"< {item.lt}"
    if low_value is not None and high_value is not None:
        return f" from {low_value:g} to {high_value:g}"
    return "".join(f" {bound}" for bound in (low and low + (" and" if high else ""), high) if bound)


def union_members(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The sections that a field may hold: several for a group whose options have different keys, else one or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return union_members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        found = [union_members(a) for a in get_args(annotation)]
        return tuple(member for members in found for member in members)
    return ()


def _tag_field(section: type[BaseModel]) -> str | None:
    return next((name for name in ("source", "kind") if name in section.model_fields), None)


def member_tag(section: type[BaseModel]) -> str | None:
    """Name by which a section is told from the others of its group (its ``source`` or ``kind``)."""
    name = _tag_field(section)
    return None if name is None else str(get_args(section.model_fields[name].annotation)[0])


def schema_keys(schema: type[BaseModel]) -> dict[str, Key]:
    """Every key of ``TrainConfig`` or ``EvaluateConfig``, in the order of the schema."""
    keys: dict[str, Key] = {}
    _walk(schema, "", (), keys)
    return keys


def part_keys(raw: Mapping[str, Any]) -> dict[str, Key]:
    """The keys of a mixture's parts, by the names that they have in a configuration.

    Args:
        raw: not validated yet; what is no part is passed over.
    """
    keys: dict[str, Key] = {}
    data = raw.get("data")
    parts = data.get("parts") if isinstance(data, Mapping) else None
    for name, section in (parts if isinstance(parts, Mapping) else {}).items():
        source = section.get("source", name) if isinstance(section, Mapping) else name
        if source in PART_SECTIONS:
            inner: dict[str, Key] = {}
            _walk(PART_SECTIONS[source], f"data.parts.{name}.", (), inner)
            own = {key: found for key, found in inner.items() if key.split(".")[3] not in KEYS_OF_THE_WHOLE}
            tag = f"data.parts.{name}.source"
            keys |= {
                **own,
                tag: Key(tag, f"one of {', '.join(PART_SECTIONS)}", source, "The option of `data` that it is."),
            }
    return keys


def _walk(schema: type[BaseModel], prefix: str, options: tuple[str, ...], keys: dict[str, Key]) -> None:
    for name, field in schema.model_fields.items():
        full = prefix + name
        members = union_members(field.annotation)
        if full == "benchmark":
            for benchmark, section in BENCHMARKS.items():
                _walk(section, f"benchmark.{benchmark}.", (), keys)
        elif len(members) > 1:
            shared = set.intersection(*(set(member.model_fields) for member in members))
            for member in members:
                _walk_member(member, full, shared, keys)
        elif members:
            _walk(members[0], full + ".", options, keys)
        else:
            _add(keys, full, field, options)


def _walk_member(member: type[BaseModel], group: str, shared: set[str], keys: dict[str, Key]) -> None:
    option = (f"{group}={member_tag(member)}",)
    inner: dict[str, Key] = {}
    _walk(member, group + ".", option, inner)
    for name, key in inner.items():
        if name == f"{group}.{_tag_field(member)}":
            tags = [keys[name].type.removeprefix("one of ")] if name in keys else []
            doc = "Set by the option of the group; the keys below depend on it."
            keys[name] = Key(name, "one of " + ", ".join([*tags, str(member_tag(member))]), ..., doc)
        elif name.split(".")[1] in shared:
            keys.setdefault(name, Key(key.name, key.type, key.default, key.doc, (), key.mapping))
        elif name in keys:
            known = keys[name]
            keys[name] = Key(known.name, known.type, known.default, known.doc, known.options + option, known.mapping)
        else:
            keys[name] = key


def _add(keys: dict[str, Key], full: str, field: FieldInfo, options: tuple[str, ...]) -> None:
    default = ... if field.is_required() else field.get_default(call_default_factory=True)
    kind = describe_type(field)
    doc = " ".join((field.description or "").split())
    keys[full] = Key(full, kind, default, doc, options, mapping="a mapping from names" in kind)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when none is alike."""
    known = list(known)
    folded = {k.lower().replace("-", "_"): k for k in known}
    wanted = name.lower().replace("-", "_")
    if wanted in folded:
        return folded[wanted]
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def nearest_key(name: str, known: Iterable[str]) -> str | None:
    """The known dotted key that ``name`` probably means, or None: its last part in the section that is meant, names of
    other libraries, the same last part in another section, and near misses."""
    known = list(known)
    section, _, last = name.lower().replace("-", "_").rpartition(".")
    home = nearest(section, {k.rpartition(".")[0] for k in known if "." in k}) if section else None
    inside = {k.rpartition(".")[2]: k for k in known if home is not None and k.rpartition(".")[0] == home}
    if last not in inside and _ELSEWHERE.get(last) in known:
        return _ELSEWHERE[last]
    tails: dict[str, str] = {}
    for key in sorted(known, key=len):
        tails.setdefault(key.rpartition(".")[2], key)
    starts = [key for tail, key in inside.items() if tail.startswith(last)]
    for found in (inside.get(last), starts[0] if starts else None, tails.get(last)):
        if found is not None:
            return found
    near = nearest(last, inside)
    if near is not None:
        return inside[near]
    whole, tail = nearest(name, known), nearest(last, tails)
    if whole is not None and (tail is None or _alike(name, whole) >= min(0.75, _alike(last, tail))):
        return whole
    return tails[tail] if tail is not None else None


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted key; an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves.update(flatten(value, f"{prefix}{name}."))
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
