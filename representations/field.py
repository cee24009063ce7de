"""A neural field: a network from a position on the canvas to its colour, at any resolution."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
import torch
from PIL import Image
from pydantic import PositiveInt

from priors.settings import Positive, when
from representations.paint import FitSettings, GroupRate
from representations.representation import Representation
from representations.start import start_images

# The default of network_lr, by encoding.
NETWORK_LR = {"siren": 2e-3, "fourier": 3e-3, "hashgrid": 3e-3}
FREQUENCY = {"siren": 15.0, "fourier": 6.0}  # SIREN's 30 was chosen for pictures of 512×512.

Side = Annotated[PositiveInt, pydantic.Field(le=8192)]


@dataclass
class FieldSettings(FitSettings):
    encoding: Literal["siren", "fourier", "hashgrid"] = "siren"
    """How positions are encoded: Sitzmann et al. 2020 (arXiv 2006.09661), Tancik et al. 2020 (arXiv 2006.10739) or
    Müller et al. 2022 (arXiv 2201.05989)."""
    hidden_width: PositiveInt = 64
    """Units in each hidden layer."""
    hidden_layers: PositiveInt = 2
    """Hidden layers of the network."""
    frequency: Annotated[Positive | None, when(encoding=["siren", "fourier"])] = None
    """ω₀ of siren's sines, or the standard deviation of fourier's frequencies, in waves across the longer side of
    the canvas. None: 15 for siren, 6 for fourier."""
    hash_levels: Annotated[PositiveInt, when(encoding="hashgrid")] = 6
    """Levels of the hash grid, from 4×4 cells to one cell per pixel."""
    hash_size: Annotated[PositiveInt, when(encoding="hashgrid")] = 4096
    """Entries in the table of each level. A larger grid shares them, by a hash of the position."""
    hash_features: Annotated[PositiveInt, when(encoding="hashgrid")] = 4
    """Features per table entry."""
    render_size: tuple[Side, Side] | None = None
    """Height and width of final_00.png …. None: the prior's."""
    network_lr: GroupRate | None = None
    """Learning rate of the network, times --rep.lr. None: 0.002 for siren, 0.003 otherwise."""
    table_lr: Annotated[GroupRate, when(encoding="hashgrid")] = 0.02
    """Learning rate of the hash grid's tables."""


class Field(Representation):
    """B networks, evaluated at all pixels by one batched matrix product per layer.

    layer_0, layer_1 … (B, inputs + 1, outputs)    weights, with the biases in the last row
    table (B, levels, entries, features)           of the hash grid

    The colour is the sigmoid of the last layer's output. That layer starts with weights 0 and the logit of the start's
    mean colour as bias, so that the first picture is flat. A start from noise is not flat: its logits have the standard
    deviation --rep.init-std.
    """

    Settings = FieldSettings

    def __init__(self, config, prior, particles):
        self.config, self.prior = config, prior
        self.frequency, self.groups = config.frequency or FREQUENCY.get(config.encoding), {}
        inputs = self.start_encoding(particles)
        for layer in range(config.hidden_layers):
            bound = (6 / inputs) ** 0.5
            if config.encoding == "siren":
                bound = 1 / inputs if layer == 0 else bound / self.frequency
            weights = bound * (2 * particles.rand(inputs + 1, config.hidden_width) - 1)
            self.groups[f"layer_{layer}"] = torch.nn.Parameter(weights.float())
            inputs = config.hidden_width
        self.inputs = self.encode_places(prior.image_size)
        if config.init == "noise":
            self.groups["last"] = torch.nn.Parameter(self.noise_layer(particles.randn(inputs + 1, 3).float()))
        else:
            pictures = start_images(config, prior, particles)
            last = torch.zeros(len(particles), inputs + 1, 3, device=prior.device)
            last[:, -1] = pictures.mean((2, 3)).clamp(0.01, 0.99).logit()
            self.groups["last"] = torch.nn.Parameter(last)
            if config.init in ("image", "source"):
                self.fit(pictures)
        self.mask = particles.source_mask

    def start_encoding(self, particles):
        """Draws the random parts of the encoding → the number of inputs of the first layer."""
        config = self.config
        if config.encoding == "siren":
            return 2
        if config.encoding == "fourier":
            self.projection = self.frequency * math.pi * particles.randn(2, config.hidden_width)
            return 2 * config.hidden_width
        growth = (max(self.prior.image_size) / 4) ** (1 / max(1, config.hash_levels - 1))
        self.cells = [round(4 * growth**level) for level in range(config.hash_levels)]
        std = 0.1 if config.init == "noise" else 1e-4
        tables = std * particles.randn(config.hash_levels, config.hash_size, config.hash_features)
        self.groups["table"] = torch.nn.Parameter(tables.float())
        return config.hash_levels * config.hash_features

    def noise_layer(self, last):
        """A last layer (B, inputs + 1, 3), scaled and shifted so that its logits have mean 0 and standard deviation
        --rep.init-std."""
        last[:, -1] = 0
        self.groups["last"] = last
        logits = self.logits(self.inputs).detach()  # (B, H · W, 3)
        last *= self.config.init_std / (logits - logits.mean(1, keepdim=True)).flatten(1).std(1).view(-1, 1, 1)
        last[:, -1] -= self.logits(self.inputs).detach().mean(1)
        return last

    def rate(self, name):
        if name == "table":
            return self.config.table_lr
        return self.config.network_lr or NETWORK_LR[self.config.encoding]

    def encode_places(self, size):
        """The inputs of the first layer at all pixels of a picture (H, W): for siren their positions (1, H · W, 2) in
        [-1, 1], for fourier (B, H · W, inputs), for hashgrid the table entries around each pixel and their weights."""
        places = pixel_centers(size, self.prior.device)
        if self.config.encoding == "fourier":
            turns = places @ self.projection  # (B, H · W, width)
            return torch.cat([turns.sin(), turns.cos()], -1)
        if self.config.encoding == "hashgrid":
            return hash_corners((places + 1) / 2, self.cells, self.config.hash_size)
        return places[None]

    def logits(self, inputs, rows=slice(None)):
        """Inputs from encode_places → (B, H · W, 3)."""
        group = {name: value[rows] for name, value in self.groups.items()}
        if "table" in group:
            x = look_up(group.pop("table"), *inputs)
        else:
            x = inputs[rows] if len(inputs) > 1 else inputs.expand(len(group["last"]), -1, -1)
        *hidden, last = group.values()
        for layer in hidden:
            x = torch.baddbmm(layer[:, -1:], x, layer[:, :-1])
            x = (self.frequency * x).sin() if self.config.encoding == "siren" else x.relu()
        return torch.baddbmm(last[:, -1:], x, last[:, :-1])

    def draw(self, inputs, size, rows=slice(None)):
        return self.logits(inputs, rows).sigmoid().mT.unflatten(-1, size)

    def images(self, rows=slice(None)):
        """(B, 3, H, W) in (0, 1), differentiable."""
        return self.masked(self.draw(self.inputs, self.prior.image_size, rows), rows)

    def files(self):
        """final_00.png … at --rep.render-size."""
        size = self.config.render_size
        if not size:
            return {}
        with torch.no_grad():
            images = self.draw(self.encode_places(size), size)
        pixels = (images * 255).round().byte().movedim(1, -1).cpu().numpy()
        return {f"final_{row:02d}.png": Image.fromarray(picture).save for row, picture in enumerate(pixels)}


def pixel_centers(size, device):
    """(H · W, 2), x and y from -1 to 1 over the longer side of a picture (H, W)."""
    (H, W), longest = size, max(size)
    x, y = ((2 * torch.arange(count, device=device) + 1 - count) / longest for count in (W, H))
    return torch.stack([x.repeat(H), y.repeat_interleave(W)], -1)


def hash_corners(places, cells, entries):
    """Positions (P, 2) in [0, 1] and the cells per side of each grid → the table entries of their cells' four corners,
    long (levels, P, 4), and the corners' weights (levels, P, 4), which sum to 1. Müller et al. 2022, section 3:
    a grid that fits into its table has one entry per corner."""
    indices, weights = [], []
    for count in cells:
        scaled = places * count
        low = scaled.floor().clamp(0, count - 1)
        part = scaled - low
        near, x, y = torch.stack([1 - part, part], -1), low.long()[:, :1], low.long()[:, 1:]  # near (P, 2, 2)
        x, y = x + torch.tensor([0, 1, 0, 1], device=x.device), y + torch.tensor([0, 0, 1, 1], device=x.device)
        dense = (count + 1) ** 2 <= entries
        indices.append(x + y * (count + 1) if dense else (x ^ (y * 2654435761)) % entries)
        weights.append((near[:, 1, :, None] * near[:, 0, None, :]).flatten(1))
    return torch.stack(indices), torch.stack(weights)


def look_up(tables, indices, weights):
    """Tables (B, levels, entries, features), indices and weights from hash_corners → interpolated features
    (B, P, levels · features)."""
    levels = torch.arange(len(indices), device=tables.device)[:, None, None]
    corners = tables[:, levels, indices]  # (B, levels, P, 4, features)
    return (corners * weights[..., None].to(tables)).sum(3).transpose(1, 2).flatten(2)
