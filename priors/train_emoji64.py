"""Makes the embedded prior from nothing: fetches the drawings, renders, trains, evaluates, writes priors/emoji64/.

    pip install -r priors/requirements.txt        (and Node's npm, which fetches the drawings)
    python priors/train_emoji64.py

Runs on the CPU in a few hours or on CUDA in minutes, and goes on where it was when started again.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from emoji64_data import (  # noqa: E402
    BACKGROUNDS, NAMES, PACKAGES, SIZE, backgrounds_for, caption, fetch, render_drawings, words,
)  # fmt: skip
from fit import fit, save  # noqa: E402
from model_card import model_card  # noqa: E402

TEXT_LENGTH = 32


@dataclass
class Config:
    work: Path = Path("outputs/train_emoji64")  # Drawings, renderings and checkpoints while training.
    out: Path = Path(__file__).resolve().parent / "emoji64"  # Where the finished prior goes.
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    seed: int = 0
    variants: int = 24  # Random placements rendered of every drawing.
    vae_steps: int = 4000
    vae_batch: int = 8
    vae_lr: float = 1.5e-3
    clip_steps: int = 1200
    clip_batch: int = 32  # Names a batch; each is there twice, on two backgrounds.
    clip_lr: float = 1e-3
    unet_steps: int = 6000
    unet_batch: int = 16
    unet_lr: float = 1e-3


class Pictures:
    """Every drawing at many placements, and compositions of them drawn at random."""

    def __init__(self, rgba, pairs, device):
        self.rgba, self.pairs, self.device = rgba, pairs, device
        self.backgrounds = BACKGROUNDS
        self.colours = torch.tensor(list(BACKGROUNDS.values())) / 255
        names = list(BACKGROUNDS)
        allowed = [[c in backgrounds_for(name, rgba[i, 0]) for c in names] for i, (name, _) in enumerate(pairs)]
        self.allowed = torch.tensor(allowed, dtype=torch.float)

    def draw(self, drawings, generator):
        """Composes drawings (B,) at random placements on random backgrounds → images (B, 3, 64, 64), backgrounds (B,)."""
        placements = torch.randint(self.rgba.shape[1], drawings.shape, generator=generator)
        backgrounds = torch.multinomial(self.allowed[drawings], 1, generator=generator)[:, 0]
        return self.compose(drawings, placements, backgrounds), backgrounds

    def compose(self, drawings, placements, backgrounds):
        rgba = self.rgba[drawings, placements].to(self.device).float() / 255
        colour = self.colours[backgrounds].to(self.device)[:, None, None]
        return (rgba[..., :3] * rgba[..., 3:] + colour * (1 - rgba[..., 3:])).movedim(-1, 1)


def pictures(config, seed, variants, name):
    """Renders once, then reads from disk."""
    path = config.work / f"{name}.pt"
    if not path.exists():
        save(render_drawings(fetch(config.work / "packages"), variants, seed), path)
    return Pictures(*torch.load(path), config.device)


def edges(images):
    """Differences of neighbouring pixels, across and down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def train_vae(config, train):
    torch.manual_seed(config.seed)
    vae = AutoencoderKL(
        sample_size=SIZE, latent_channels=4, block_out_channels=(16, 32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    ).to(config.device)  # fmt: skip

    def loss(generator):
        drawings = torch.randint(len(train.pairs), (config.vae_batch,), generator=generator)
        images = train.draw(drawings, generator)[0] * 2 - 1
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(config.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(decoded), edges(images), strict=True))
        return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + 0.5 * sharp + 1e-4 * posterior.kl().mean() / 1024

    return fit("vae", vae, loss, steps=config.vae_steps, lr=config.vae_lr, folder=config.work, seed=config.seed)


def all_captions():
    """Every caption that can be drawn."""
    names = [name for category in NAMES.values() for name in category]
    return [caption(n, b, h) for n in names for b in BACKGROUNDS for h in (None, *PACKAGES)]


def make_tokenizer():
    """CLIP's byte-pair encoding, its merges learned from the captions until every word of theirs is one token."""
    vocabulary = sorted({word for text in all_captions() for word in text.split()})
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(vocabulary, trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>"))
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # Any byte can be spelled, though only captions were taught.
    tokens = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)


def tokenize(tokenizer, texts):
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def normalise(images):
    """[0, 1] → what the CLIP's image processor makes of it."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (images - mean) / std


def train_clip(config, train, tokenizer):
    torch.manual_seed(config.seed + 1)
    tower = dict(num_hidden_layers=3, num_attention_heads=4, hidden_size=128, intermediate_size=512, projection_dim=128)
    clip = CLIPModel(CLIPConfig(
        text_config=dict(
            tower, vocab_size=len(tokenizer), max_position_embeddings=TEXT_LENGTH, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(tower, num_hidden_layers=4, image_size=SIZE, patch_size=8),
        projection_dim=128,
    )).to(config.device)  # fmt: skip
    texts = {text: ids for text, ids in zip(all_captions(), tokenize(tokenizer, all_captions()), strict=True)}
    by_name = {}
    for index, (name, _) in enumerate(train.pairs):
        by_name.setdefault(name, []).append(index)
    by_name = list(by_name.values())

    def loss(generator):
        """InfoNCE. A name is in the batch twice, on two backgrounds, so that both the name and the background count."""
        drawings, backgrounds, captions = [], [], []
        for n in torch.randperm(len(by_name), generator=generator)[: config.clip_batch].tolist():
            pair = torch.tensor(by_name[n])[torch.randint(len(by_name[n]), (2,), generator=generator)]
            two = torch.multinomial(train.allowed[pair].prod(0), 2, generator=generator)
            for drawing, background in zip(pair.tolist(), two.tolist(), strict=True):
                name, hand = train.pairs[drawing]
                hand = hand if torch.rand((), generator=generator) < 0.5 else None
                captions.append(texts[caption(name, list(BACKGROUNDS)[background], hand)])
                drawings.append(drawing)
                backgrounds.append(background)
        drawings = torch.tensor(drawings)
        placements = torch.randint(train.rgba.shape[1], drawings.shape, generator=generator)
        images = train.compose(drawings, placements, torch.tensor(backgrounds))
        # A little noise keeps the judge from reading what no eye can see.
        level = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
        images = images + (level * torch.randn(images.shape, generator=generator)).to(config.device)
        ids = torch.stack(captions)
        ids = ids[:, : (ids != tokenizer.pad_token_id).sum(1).max() + 1]  # Attention is causal: padding only costs time.
        return clip(ids.to(config.device), normalise(images), return_loss=True).loss

    return fit("clip", clip, loss, steps=config.clip_steps, lr=config.clip_lr, folder=config.work, seed=config.seed)


@torch.no_grad()
def standardise(vae, train):
    """Folds an affine map into the two 1×1 convolutions at the latents: every channel gets mean 0 and deviation 1.

    quant_conv yields means and log-variances, 4 channels each; post_quant_conv takes latents back. The decoded pictures
    are the same as before, and a diffusion model sees latents of the scale that its noise schedule is made for.
    """
    generator = torch.Generator().manual_seed(3)
    drawings = torch.randint(len(train.pairs), (16, 64), generator=generator)
    latents = torch.cat([vae.encode(train.draw(d, generator)[0] * 2 - 1).latent_dist.mean for d in drawings])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
    scaled = (latents - mean[:, None, None]) / std[:, None, None]
    vae.register_to_config(scaling_factor=round(1 / scaled.std().item(), 5))
    return vae


@torch.no_grad()
def latent_bank(config, vae, train):
    """Every rendering on a random background, encoded once → latents (N, 4, 16, 16), drawings (N,), backgrounds (N,)."""
    path = config.work / "latents.pt"
    if path.exists():
        return torch.load(path)
    generator = torch.Generator().manual_seed(config.seed)
    drawings = torch.arange(len(train.pairs))
    latents, backgrounds = [], []
    for placement in tqdm(range(train.rgba.shape[1]), desc="encode"):
        chosen = torch.multinomial(train.allowed, 1, generator=generator)[:, 0]
        for part in drawings.split(64):
            images = train.compose(part, torch.full_like(part, placement), chosen[part])
            latents.append(vae.encode(images * 2 - 1).latent_dist.mean.cpu() * vae.config.scaling_factor)
        backgrounds.append(chosen)
    bank = torch.cat(latents), drawings.repeat(train.rgba.shape[1]), torch.cat(backgrounds)
    save(bank, path)
    return bank


def make_unet():
    """A small UNet that hears the caption twice: by cross-attention at 8×8 and 4×4, as Stable Diffusion does, and pooled,
    added to the timestep's embedding, which scales and shifts every block (addition_embed_type, as in DeepFloyd IF)."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4, in_channels=4, out_channels=4, block_out_channels=(48, 96, 192), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16, resnet_time_scale_shift="scale_shift",
        time_embedding_dim=384, addition_embed_type="text", addition_embed_type_num_heads=4,
    )  # fmt: skip


def make_scheduler():
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                         clip_sample=False, prediction_type="epsilon", steps_offset=1)  # fmt: skip


@torch.no_grad()
def embed(text_encoder, tokenizer, texts, device):
    """Last hidden states of the text encoder (N, length, 128), in half precision to keep all captions at hand."""
    parts = [text_encoder(tokenize(tokenizer, texts[i : i + 256]).to(device)).last_hidden_state.half()
             for i in range(0, len(texts), 256)]  # fmt: skip
    return torch.cat(parts)


def train_unet(config, bank, pairs, embeddings):
    """Epsilon prediction under min-SNR-5 weighting (Hang et al. 2023), the weight spent on how often a timestep is drawn."""
    torch.manual_seed(config.seed + 2)
    unet = make_unet().to(config.device)
    alphas_cumprod = make_scheduler().alphas_cumprod
    snr = alphas_cumprod / (1 - alphas_cumprod)
    density = (5 / snr).clamp(0.05, 1)
    latents, drawings, backgrounds = bank
    # White has a third of the compositions: it is what a prompt without a colour asks for.
    chance = 1 + 4.0 * (backgrounds == 0)

    def loss(generator):
        rows = torch.multinomial(chance, config.unet_batch, replacement=True, generator=generator)
        texts = []
        for row in rows.tolist():
            name, hand = pairs[drawings[row]]
            named, dropped = torch.rand(2, generator=generator) < torch.tensor([0.5, 0.1])
            text = caption(name, list(BACKGROUNDS)[backgrounds[row]], hand if named else None)
            texts.append(embeddings["" if dropped else text])
        z = latents[rows]
        t = torch.multinomial(density, len(z), replacement=True, generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        a = alphas_cumprod[t][:, None, None, None]
        noised = a.sqrt() * z + (1 - a).sqrt() * noise
        predicted = unet(noised.to(config.device), t.to(config.device), torch.stack(texts).float()).sample
        return F.mse_loss(predicted, noise.to(config.device))

    return fit("unet", unet, loss, steps=config.unet_steps, lr=config.unet_lr, folder=config.work, seed=config.seed)


def write_prior(config, vae, unet, clip, tokenizer):
    """The folder that users get: a StableDiffusionPipeline, its CLIP, its captions; weights in float16."""
    out = config.out
    scheduler = DDIMScheduler.from_config(make_scheduler().config, set_alpha_to_one=False)
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=clip.text_model, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to("cpu", torch.float16).save_pretrained(out, safe_serialization=True)
    tokenizer.backend_tokenizer.model.save(str(out / "tokenizer"))  # vocab.json and merges.txt, for older readers
    clip.to("cpu", torch.float16).save_pretrained(out / "clip")
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(out / "clip")
    captions = {
        "names": {category: [words(name) for name in names] for category, names in NAMES.items()},
        "backgrounds": BACKGROUNDS,
        "hands": list(PACKAGES),
        "words": sorted({word for text in all_captions() for word in text.split()}),
    }
    (out / "captions.json").write_text(json.dumps(captions, indent=1) + "\n")


def main(config):
    config.work.mkdir(parents=True, exist_ok=True)
    train = pictures(config, config.seed, config.variants, "train")
    vae = train_vae(config, train)
    tokenizer = make_tokenizer()
    clip = train_clip(config, train, tokenizer)
    vae = standardise(vae, train)
    texts = ["", *all_captions()]
    embeddings = dict(zip(texts, embed(clip.text_model, tokenizer, texts, config.device), strict=True))
    unet = train_unet(config, latent_bank(config, vae, train), train.pairs, embeddings)
    write_prior(config, vae, unet, clip, tokenizer)
    held_out = pictures(config, config.seed + 1, 2, "held_out")
    model_card(config.out, held_out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
