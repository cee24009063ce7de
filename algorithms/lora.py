"""Trainable networks beside the frozen prior, as VSD's φ: a LoRA (Hu et al. 2021, arXiv 2106.09685), or a copy."""

import contextlib
import copy

import torch


class LoRA:
    """One adapter of a network, made by add_lora. parameters: its factors, in float32."""

    is_active = False

    def __init__(self, layers: list, name: str, parameters: list[torch.nn.Parameter]):
        self.layers, self.name, self.parameters = layers, name, parameters

    @contextlib.contextmanager
    def active(self):
        """Inside, only this adapter is active; outside, the network is bit-identical to one without adapters."""
        for layer in self.layers:
            layer.set_adapter(self.name)
            layer.enable_adapters(True)
        self.is_active = True
        try:
            yield
        finally:
            self.is_active = False
            for layer in self.layers:
                layer.enable_adapters(False)


ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def add_lora(network: torch.nn.Module, name: str, rank: int, seed: int, layers: str = "attention") -> LoRA:
    """A new, inactive adapter on the query, key, value and output projections of every attention, or, for layers "all",
    on every linear layer and convolution.

    It starts as the identity: one of its two factors is random, the other 0. An existing adapter of this name is
    removed.
    """
    from peft import LoraConfig, inject_adapter_in_model  # peft takes seconds to import; most methods do not need it.
    from peft.functional import cast_adapter_dtype
    from peft.tuners.lora import LoraLayer

    for module in network.modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            module.delete_adapter(name)
    vars(network).pop("peft_config", None)
    targets = ATTENTION if layers == "attention" else [key for key, part in network.named_modules() if adaptable(part)]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    with torch.random.fork_rng(devices=[]):  # the same numbers on every device
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network, name)
    cast_adapter_dtype(network, name)  # float16 is too coarse to learn in.
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    return LoRA(layers, name, [value for key, value in network.named_parameters() if f".{name}." in key])


def adaptable(module: torch.nn.Module) -> bool:
    """Linear layers and convolutions that are not already part of a LoRA; not depthwise ones, which have no rank."""
    from peft.tuners.lora import LoraLayer

    if isinstance(module, LoraLayer):
        module = module.get_base_layer()
    return type(module) is torch.nn.Linear or type(module) is torch.nn.Conv2d and module.groups == 1


class Copy:
    """A copy of the prior's network, fully trainable. parameters: in float32."""

    is_active = False

    def __init__(self, prior):
        self.prior = prior
        with torch.no_grad():
            self.network = copy.deepcopy(prior.denoiser).to(prior.device, torch.float32)
        named = [(key, value) for key, value in self.network.named_parameters() if ".lora_" not in key]
        self.parameters = [value.requires_grad_() for _, value in named]

    @contextlib.contextmanager
    def active(self):
        """Inside, the prior uses this network."""
        low = self.prior.dtype in (torch.float16, torch.bfloat16)
        own, self.prior.denoiser = self.prior.denoiser, self.network
        self.is_active = True
        try:
            with torch.autocast(self.prior.device.type, self.prior.dtype, enabled=low):
                yield
        finally:
            self.is_active = False
            self.prior.denoiser = own
