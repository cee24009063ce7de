"""The UNet and the decoder of a finished prior trained on with one GPU, for a given time: a step is one CUDA graph.

    python -m priors.training.cuda --seconds 490 --out outputs/training/emoji64

The text encoder, the autoencoder's encoder and the CLIP stay as they are. Every drawing's latents, at all of its
placements on all backgrounds, and the embeddings of all captions are computed once and lie on the GPU, where a step
draws its batch.
"""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from priors.training.clip import tokenize
from priors.training.data import BACKGROUNDS, NAMES, PACKAGES, Pictures, caption, fetch, render_drawings
from priors.training.muon import orthogonalise
from priors.training.unet import is_muon as unet_muon
from priors.training.unet import make_scheduler


@dataclass
class Config:
    start: Path = Path("priors/emoji64")  # The finished prior.
    out: Path = Path("outputs/training/emoji64")  # A copy of it with the new weights.
    packages: Path = Path("outputs/train_emoji64/packages")  # The drawings' npm packages.
    seconds: float = 490
    batch: int = 256
    decoder_batch: int = 64
    placements: int = 32
    lr: float = 1e-3
    ema_decay: float = 0.9997


class Graph:
    """AdamW, or Muon for the parameters that is_muon(name) names, on loss(); one step is captured as a CUDA graph."""

    def __init__(self, model: torch.nn.Module, loss: Callable, lr: float, is_muon: Callable, ema_decay: float):
        named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        self.loss, self.peak, self.ema_decay = loss, lr, ema_decay
        self.names, self.parameters = map(list, zip(*named, strict=True))
        self.matrices = [value for name, value in named if is_muon(name)]
        self.momenta = [torch.zeros_like(value) for value in self.matrices]
        self.average = [value.detach().clone() for value in self.parameters]
        self.lr = torch.tensor(1e-6, device="cuda")
        others = [value for name, value in named if not is_muon(name)]
        self.adam = torch.optim.AdamW(others, lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, capturable=True)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(5):  # Captured kernels have to be warm.
                self.step()
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def step(self):
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        with torch.no_grad():
            self.muon_step()
            torch._foreach_lerp_(self.average, self.parameters, 1 - self.ema_decay)
        for value in self.parameters:
            value.grad = None

    def muon_step(self):
        """As priors.training.muon.Muon, with matrices of one shape in one batch."""
        torch._foreach_lerp_(self.momenta, [value.grad for value in self.matrices], 0.05)
        by_shape = {}
        for value, momentum in zip(self.matrices, self.momenta, strict=True):
            by_shape.setdefault(value.shape, []).append((value, momentum))
        for shape, pairs in by_shape.items():
            nesterov = torch.stack([value.grad.lerp(momentum, 0.95).flatten(1) for value, momentum in pairs])
            updates = orthogonalise(nesterov) * 0.2 * max(nesterov.shape[1:]) ** 0.5
            for (value, _), update in zip(pairs, updates, strict=True):
                value.mul_(1 - self.lr * 0.01).sub_(update.view(shape) * self.lr)

    def run(self, count: int, progress: float):
        """Warm-up over 300 steps, then a cosine down to a hundredth; progress: the fraction of the time that has
        passed."""
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, progress)))
        self.lr.fill_(self.peak * min(1, (count + 1) / 300) * cosine)
        self.graph.replay()

    def weights(self) -> dict[str, torch.Tensor]:
        """The exponential moving average, in float16."""
        return {name: value.half().cpu() for name, value in zip(self.names, self.average, strict=True)}


def draw(cumulative: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count,) by cumulative probabilities, (K,) or, for each index its own, (count, K)."""
    shape = (count, 1) if cumulative.dim() == 2 else (count,)
    index = torch.searchsorted(cumulative.contiguous(), torch.rand(shape, device=cumulative.device))
    return index.view(count).clamp(max=cumulative.shape[-1] - 1)


def cumulative(weights: torch.Tensor) -> torch.Tensor:
    return (weights / weights.sum(-1, keepdim=True)).cumsum(-1).cuda()


@torch.no_grad()
def latent_bank(vae: AutoencoderKL, steady: Pictures) -> torch.Tensor:
    """Latents (drawings, placements, backgrounds, 4, 16, 16), float16."""
    count, placements = steady.rgba.shape[:2]
    bank = torch.empty(count, placements, len(BACKGROUNDS), 4, 16, 16, dtype=torch.float16, device="cuda")
    each = torch.arange(placements)
    for drawing in range(count):
        for background in range(len(BACKGROUNDS)):
            images = steady.compose(torch.full_like(each, drawing), each, torch.full_like(each, background))
            latents = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
            bank[drawing, :, background] = latents.half()
    return bank


@torch.no_grad()
def embeddings(config: Config, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all captions (names, backgrounds, 1 + hands, L, D), and of the empty one (L, D)."""
    encoder = CLIPTextModel.from_pretrained(config.start, subfolder="text_encoder").float().cuda().eval()
    tokenizer = CLIPTokenizer.from_pretrained(config.start, subfolder="tokenizer")
    texts = [
        caption(name, background, hand) for name in names for background in BACKGROUNDS for hand in (None, *PACKAGES)
    ]
    hidden = [encoder(ids.cuda()).last_hidden_state for ids in tokenize(tokenizer, [*texts, ""]).split(512)]
    *table, empty = torch.cat(hidden)
    return torch.stack(table).unflatten(0, (len(names), len(BACKGROUNDS), 1 + len(PACKAGES))), empty


def unet_loss(config: Config, unet: UNet2DConditionModel, vae: AutoencoderKL, steady: Pictures) -> Callable:
    """→ a function without arguments: the mean squared error on a batch, timesteps drawn by min-SNR-5."""
    bank, pairs = latent_bank(vae, steady), steady.pairs
    names, hands = [name for category in NAMES.values() for name in category], [None, *PACKAGES]
    table, empty = embeddings(config, names)
    name_of = torch.tensor([names.index(name) for name, _ in pairs]).cuda()
    hand_of = torch.tensor([hands.index(hand) for _, hand in pairs]).cuda()
    white = torch.ones(len(BACKGROUNDS))
    white[0] = 5  # A third of the compositions: a prompt without a colour asks for white.
    backgrounds = cumulative(steady.allowed * white)
    alphas_cumprod = make_scheduler().alphas_cumprod.cuda()
    timesteps = cumulative((5 * (1 - alphas_cumprod) / alphas_cumprod).clamp(0.05, 1))

    def loss():
        drawings = torch.randint(len(pairs), (config.batch,), device="cuda")
        placements = torch.randint(bank.shape[1], (config.batch,), device="cuda")
        background = draw(backgrounds[drawings], config.batch)
        z, t = bank[drawings, placements, background].float(), draw(timesteps, config.batch)
        noise, a = torch.randn_like(z), alphas_cumprod[t][:, None, None, None]
        named, dropped = torch.rand(2, config.batch, device="cuda") < torch.tensor([[0.5], [0.1]], device="cuda")
        text = table[name_of[drawings], background, hand_of[drawings] * named]
        text = torch.where(dropped[:, None, None], empty, text)
        return F.mse_loss(unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, text).sample, noise)

    return loss


def decoder_loss(config: Config, vae: AutoencoderKL, train: Pictures) -> Callable:
    """→ a function without arguments: that of priors.training.autoencoder.polish_decoder on a batch."""
    rgba, allowed, colours = train.rgba.cuda(), cumulative(train.allowed), train.colours.cuda()

    def loss():
        drawings = torch.randint(len(rgba), (config.decoder_batch,), device="cuda")
        placements = torch.randint(rgba.shape[1], (config.decoder_batch,), device="cuda")
        colour = colours[draw(allowed[drawings], config.decoder_batch)][:, None, None]
        picture = rgba[drawings, placements].float() / 255
        images = (picture[..., :3] * picture[..., 3:] + colour * (1 - picture[..., 3:])).movedim(-1, 1) * 2 - 1
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample()
        decoded = vae.decode(latents).sample
        errors = (decoded - images).square().mean((1, 2, 3))
        return 0.1 * (errors + 1e-5).log().mean() + 0.5 * F.l1_loss(decoded, images)

    return loss


def main(config: Config) -> None:
    drawings = fetch(config.packages)
    steady = Pictures(*render_drawings(drawings, config.placements, 102, 0.25), "cuda")
    train = Pictures(*render_drawings(drawings, 24, 100, 1.0), "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    unet = UNet2DConditionModel.from_pretrained(config.start, subfolder="unet").float().cuda().train()
    vae = AutoencoderKL.from_pretrained(config.start, subfolder="vae").float().cuda()
    vae.requires_grad_(False)
    decoder = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).requires_grad_(True)

    def decoder_muon(name):
        return name.endswith(("conv1.weight", "conv2.weight", "upsamplers.0.conv.weight"))

    first = Graph(unet, unet_loss(config, unet, vae, steady), config.lr, unet_muon, config.ema_decay)
    second = Graph(decoder, decoder_loss(config, vae, train), config.lr, decoder_muon, 0.999)
    start, count = time.time(), 0
    while (progress := (time.time() - start) / config.seconds) < 1:
        for _ in range(10):
            first.run(count, progress)
            if count % 3 == 0:
                second.run(count // 3, progress)
            count += 1
        torch.cuda.synchronize()
    print(f"{count} steps of {config.batch} (unet), {-(-count // 3)} of {config.decoder_batch} (decoder)")

    shutil.copytree(config.start, config.out, dirs_exist_ok=True)
    unet.half().load_state_dict(first.weights())
    unet.save_pretrained(config.out / "unet")
    vae.half().load_state_dict(second.weights(), strict=False)
    vae.save_pretrained(config.out / "vae")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
