"""A LoRA on the prior's network, as VSD learns one. Hu et al. 2021, arXiv 2106.09685."""

import contextlib

import torch


class LoRA:
    """One adapter of a network, made by add_lora. parameters: its factors, in float32."""

    def __init__(self, layers: list, name: str, parameters: list[torch.nn.Parameter]):
        self.layers, self.name, self.parameters = layers, name, parameters

    @contextlib.contextmanager
    def active(self):
        """Inside, the network has this adapter and no other; outside it is bit for bit the network without any."""
        for layer in self.layers:
            layer.set_adapter(self.name)
            layer.enable_adapters(True)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.enable_adapters(False)


def add_lora(network: torch.nn.Module, name: str, rank: int, seed: int) -> LoRA:
    """A new adapter on the query, key, value and output projections of every attention. It is inactive.

    It begins as the identity: one of its two factors is random, the other 0. An earlier one of this name is removed.
    """
    from peft import LoraConfig, inject_adapter_in_model  # peft takes seconds to import, and most methods need none.
    from peft.functional import cast_adapter_dtype
    from peft.tuners.lora import LoraLayer

    for module in network.modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            module.delete_adapter(name)
    vars(network).pop("peft_config", None)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    with torch.random.fork_rng(devices=[]):  # The same numbers on every device.
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network, name)
    cast_adapter_dtype(network, name)  # float16 is too coarse to learn in.
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    return LoRA(layers, name, [value for key, value in network.named_parameters() if f".{name}." in key])
