"""Training a part of a pretrained encoder: frozen embeddings and layers, and low-rank adapters (LoRA).

An adapter adds ``B A x * alpha / rank`` to the output of a linear layer, with ``A`` ``[rank, in]``, ``B``
``[out, rank]`` and the layer itself frozen (Hu et al. 2021, arXiv 2106.09685, section 4.1). ``B`` begins at zero, so
the adapted encoder begins as the encoder. The sum ``W + B A * alpha / rank`` is a plain weight again, which is what is
exported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hybrid_ir.config import LoraConfig, PretrainedModelConfig, SmallModelConfig
from hybrid_ir.errors import ConfigError, UserError

if TYPE_CHECKING:
    from hybrid_ir.modeling.encoder import BiEncoder

_ADAPTER = "default"  # the name that peft gives an adapter; ours has one


def restrict_training(encoder: BiEncoder, config: PretrainedModelConfig) -> None:
    """Freezes what the configuration says and adds its adapters, in place.

    What is frozen has ``requires_grad`` False: no gradient, no optimizer state, and DDP does not wait for it. Its
    dropout stays, which is part of what the layers above it were trained with. The adapters' ``A`` is drawn from
    torch's random state.

    Raises:
        ConfigError: the encoder does not have these layers, or nothing is left to train.
        UserError: adapters are asked for and peft cannot be imported.
    """
    frozen: set[nn.Parameter] = set()
    if config.freeze_layers:
        layers = transformer_layers(encoder.transformer)
        if config.freeze_layers > len(layers):
            has = (
                f"{config.name_or_path} has {len(layers)} layers; use {len(layers) - 1} or less"
                if layers
                else f"{config.name_or_path} ({encoder.transformer.config.model_type}) has no list of layers; set it "
                f"to 0, and model.freeze_embeddings=true where these are to be frozen"
            )
            raise ConfigError(f"model.freeze_layers={config.freeze_layers}: {has}")
        for layer in layers[: config.freeze_layers]:
            frozen.update(parameter for part in layer for parameter in part.parameters())
    if config.freeze_embeddings or config.freeze_layers:
        frozen.update(_embeddings(encoder.transformer))
    for parameter in frozen:
        parameter.requires_grad_(False)
    if config.lora.rank:
        _add_adapters(encoder, config.lora)
    elif not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ConfigError(
            f"model.freeze_layers={config.freeze_layers}: leaves nothing of {config.name_or_path} to train; use "
            f"{config.freeze_layers - 1} or less"
        )


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's ``state_dict`` as if it had no adapters: they are added to the weights that they adapt.

    Without adapters it is the ``state_dict``. The module is unchanged.
    """
    state = dict(module.state_dict())
    for name, layer in _adapted(module, shared=True):
        prefix = f"{name}." if name else ""
        for key in [key for key in state if key.startswith(prefix)]:
            value = state.pop(key)
            inner, base, parameter = key.removeprefix(prefix).partition("base_layer.")
            if base and not inner:
                delta = layer.get_delta_weight(_ADAPTER).detach() if parameter == "weight" else 0
                state[prefix + parameter] = value + delta
    return state


def describe_training(encoder: BiEncoder, config: SmallModelConfig | PretrainedModelConfig) -> str:
    """One line: how many parameters the encoder has, how many are trained, and why not all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in encoder.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, wanted in sizes if wanted)
    if trained == total:
        return f"encoder: {_count(total)} parameters, all trained"
    why = []
    if isinstance(config, PretrainedModelConfig):
        if config.lora.rank:
            names = list(dict.fromkeys(name.rpartition(".")[2] for name, _ in _adapted(encoder)))
            why.append(f"LoRA rank {config.lora.rank} on {', '.join(names)}")
        if config.freeze_layers:
            layers = len(transformer_layers(encoder.transformer))
            why.append(f"embeddings and the lowest {config.freeze_layers} of {layers} layers frozen")
        elif config.freeze_embeddings:
            why.append("embeddings frozen")
    return f"encoder: {_count(total)} parameters, {_count(trained)} trained" + (f" ({'; '.join(why)})" if why else "")


def _count(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number:,}"


# ---------------------------------------------------------------------------------------------------- parts of a model


def _layer_lists(transformer: Any) -> dict[str, nn.ModuleList]:
    """The module lists that are as long as the encoder is deep, by name: one, as a rule; XLM keeps the attentions of
    all layers in one list and their feed-forward parts in another; empty where layers share their weights (ALBERT)."""
    depth = getattr(transformer.config, "num_hidden_layers", None)
    found: dict[str, nn.ModuleList] = {}
    for name, module in transformer.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)  # experts of a layer, say
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside:
            found[name] = module
    return found


def transformer_layers(transformer: Any) -> list[tuple[nn.Module, ...]]:
    """The parts of each transformer layer, the lowest first; empty where the model has no list of layers."""
    return list(zip(*_layer_lists(transformer).values(), strict=True))


def _embeddings(transformer: Any) -> list[nn.Parameter]:
    """All that stands below the first layer: embeddings of tokens, positions and token types, their normalisation, and
    what brings them to the layers' width."""
    together = getattr(transformer, "embeddings", None)
    module = together if isinstance(together, nn.Module) else transformer.get_input_embeddings()
    found = list(module.parameters())
    first = next(iter(_layer_lists(transformer)), None)
    if first is not None:
        # Modules are registered in the order in which they are applied, as a rule; final norms come after the layers.
        names = [name for name, _ in transformer.named_parameters()]
        begin = next(row for row, name in enumerate(names) if name.startswith(f"{first}."))
        found.extend(transformer.get_parameter(name) for name in names[:begin])
    return found


def _adapted(module: nn.Module, shared: bool = False) -> list[tuple[str, Any]]:
    """Name and module of each layer that has an adapter; ``shared`` repeats one that is in several places."""
    named = module.named_modules(remove_duplicate=not shared)
    return [(name, layer) for name, layer in named if hasattr(layer, "get_delta_weight")]


# ----------------------------------------------------------------------------------------------------------- adapters


def _add_adapters(encoder: BiEncoder, config: LoraConfig) -> None:
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"model.lora.rank={config.rank}: peft cannot be imported ({error}); run pip install 'hybrid-ir[peft]'"
        ) from None
    # Exactly: what a subclass makes of its weight is its own affair.
    linear = {name: layer for name, layer in encoder.named_modules() if type(layer) is nn.Linear}
    chosen = _matching(linear, config.target_modules)
    free = {name: layer for name, layer in chosen.items() if layer.weight.requires_grad}
    if not free:
        raise ConfigError(
            f"model.lora.rank={config.rank}: the linear layers that would get an adapter "
            f"({', '.join(dict.fromkeys(name.rpartition('.')[2] for name in chosen)) or 'none found'}) are all frozen "
            f"by model.freeze_layers or model.freeze_embeddings; freeze less, or set model.lora.rank=0"
        )
    name, narrowest = min(free.items(), key=lambda item: min(item[1].in_features, item[1].out_features))
    limit = min(narrowest.in_features, narrowest.out_features)
    if config.rank > limit:
        raise ConfigError(
            f"model.lora.rank={config.rank}: {name} has {narrowest.in_features} inputs and {narrowest.out_features} "
            f"outputs; use {limit} or less"
        )
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank if config.alpha is None else config.alpha,
        lora_dropout=config.dropout,
        # As a pattern of whole names: a name in a list also means the layers that end in it.
        target_modules="|".join(re.escape(name) for name in free),
    )
    # Freezes all that is no adapter. peft.get_peft_model would wrap the encoder, and its state_dict with it.
    peft.inject_adapter_in_model(settings, encoder, _ADAPTER)


def _matching(linear: dict[str, nn.Linear], wanted: list[str] | None) -> dict[str, nn.Linear]:
    if wanted is None:
        return linear
    found: dict[str, nn.Linear] = {}
    for part in wanted:
        matches = {name: layer for name, layer in linear.items() if name == part or name.endswith(f".{part}")}
        if not matches:
            there = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear)) or "no linear layer"
            raise ConfigError(
                f"model.lora.target_modules=[{','.join(wanted)}]: the encoder has no linear layer {part}; use some of "
                f"{there}"
            )
        found.update(matches)
    return found
