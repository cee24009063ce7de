"""The autoencoder of the embedded prior."""

import re

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from priors.training.data import SIZE
from priors.training.fit import fit


def edges(images):
    """Differences of neighbouring pixels, across and down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def reconstruction_loss(decoded, images):
    """L1 + 2 L2 + ½ L1 of the image gradients, which is what keeps outlines crisp."""
    sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(decoded), edges(images), strict=True))
    return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + 0.5 * sharp


def draw_posterior(config, batch, vae, train, generator):
    """A batch of compositions in [-1, 1], their posterior, and latents drawn from it."""
    drawings = torch.randint(len(train.pairs), (batch,), generator=generator)
    images = train.draw(drawings, generator)[0] * 2 - 1
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(config.device)
    return images, posterior, posterior.mean + posterior.std * noise


def train_vae(config, train):
    torch.manual_seed(config.seed)
    vae = AutoencoderKL(
        sample_size=SIZE,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    ).to(config.device)

    def loss(generator):
        images, posterior, latents = draw_posterior(config, config.vae_batch, vae, train, generator)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction_loss(vae.decode(latents).sample, images) + 1e-4 * kl

    return fit("vae", vae, loss, steps=config.vae_steps, lr=config.vae_lr, folder=config.work, seed=config.seed)


def polish_decoder(config, vae, train):
    """Trains the decoder on while the encoder stands still: the latents, and all that was learned of them, stay
    valid."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True).train()

    def loss(generator):
        with torch.no_grad():
            images, _, latents = draw_posterior(config, config.decoder_batch, vae, train, generator)
        decoded = vae.decode(latents).sample
        # The logarithm makes it the mean PSNR, so that plain drawings, which are nearly done, go on counting.
        errors = (decoded - images).square().mean((1, 2, 3))
        return 0.1 * (errors + 1e-5).log().mean() + 0.5 * F.l1_loss(decoded, images)

    def muon(name):
        return re.search(r"(resnets\.\d+\.conv[12]|upsamplers\.0\.conv)\.weight$", name)

    polished = fit(
        "decoder",
        decoder,
        loss,
        steps=config.decoder_steps,
        lr=config.decoder_lr,
        folder=config.work,
        seed=config.seed + 3,
        muon=muon,
    )
    decoder.load_state_dict(polished.state_dict())
    return vae.eval()


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
