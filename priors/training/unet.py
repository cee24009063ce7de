"""The diffusion model of the embedded prior, and the latents and captions that it learns from."""

import re

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from tqdm import tqdm

from priors.training.clip import tokenize
from priors.training.data import BACKGROUNDS, SIZE, all_captions, caption
from priors.training.fit import fit, save


@torch.no_grad()
def latent_bank(config, vae, train):
    """Every rendering on a random background, encoded once → latents (N, 4, 16, 16), drawings (N,), backgrounds
    (N,)."""
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


def make_unet(config):
    """A small UNet that hears the caption twice: by cross-attention at 8×8 and 4×4, as Stable Diffusion does, and
    pooled, added to the timestep's embedding, which scales and shifts every block (addition_embed_type, as in
    DeepFloyd IF)."""
    torch.manual_seed(config.seed + 2)
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=384,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ).to(config.device)


def make_scheduler():
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type="epsilon",
        steps_offset=1,
    )


def is_muon(name: str) -> bool:
    """Whether Muon takes that parameter: convolutions and feed-forward layers, four fifths of the weights. The rest
    gains less than its matrices cost."""
    return bool(re.search(r"(resnets.*conv|samplers.*conv|\.ff\.).*weight$", name))


def train_unet(config, unet, text_encoder, tokenizer, bank, pairs):
    """UNet and text encoder together: epsilon prediction under min-SNR-5 weighting (Hang et al. 2023, arXiv
    2303.09556), the weight spent on how often a timestep is drawn."""
    model = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).train()
    texts = ["", *all_captions()]
    tokens = dict(zip(texts, tokenize(tokenizer, texts), strict=True))
    alphas_cumprod = make_scheduler().alphas_cumprod
    snr = alphas_cumprod / (1 - alphas_cumprod)
    density = (5 / snr).clamp(0.05, 1)
    latents, drawings, backgrounds = bank
    # White has a third of the compositions: it is what a prompt without a colour asks for.
    chance = 1 + 4.0 * (backgrounds == 0)

    def loss(generator):
        rows = torch.multinomial(chance, config.unet_batch, replacement=True, generator=generator)
        captions = []
        for row in rows.tolist():
            name, hand = pairs[drawings[row]]
            named, dropped = torch.rand(2, generator=generator) < torch.tensor([0.5, 0.1])
            text = caption(name, list(BACKGROUNDS)[backgrounds[row]], hand if named else None)
            captions.append(tokens["" if dropped else text])
        z = latents[rows]
        t = torch.multinomial(density, len(z), replacement=True, generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        a = alphas_cumprod[t][:, None, None, None]
        noised = a.sqrt() * z + (1 - a).sqrt() * noise
        embeddings = text_encoder(torch.stack(captions).to(config.device)).last_hidden_state
        predicted = unet(noised.to(config.device), t.to(config.device), embeddings).sample
        return F.mse_loss(predicted, noise.to(config.device))

    average = fit(
        "unet",
        model,
        loss,
        steps=config.unet_steps,
        lr=config.unet_lr,
        folder=config.work,
        seed=config.seed,
        muon=is_muon,
    )
    return average["unet"], average["text_encoder"]
