"""Makes the embedded prior from nothing: fetches the drawings, renders, trains, evaluates, writes priors/emoji64/.

    pip install -r training/requirements.txt        (and Node's npm, which fetches the drawings)
    python -m priors.training.emoji64

Runs on the CPU in a few hours or on CUDA in minutes, and goes on where it was when started again.
"""

import copy
import json
import sys
from dataclasses import asdict

import torch
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPProcessor, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from priors.training.autoencoder import polish_decoder, standardise, train_vae
from priors.training.clip import make_tokenizer, train_clip, train_judge
from priors.training.config import Config, pictures
from priors.training.data import BACKGROUNDS, NAMES, PACKAGES, SIZE, all_captions, words
from priors.training.edits import write_edits
from priors.training.model_card import model_card
from priors.training.unet import latent_bank, make_scheduler, make_unet, train_unet


def same_settings(config):
    """Refuses a work folder that was made with other settings: its parts would not fit together."""
    free = {
        "work",
        "out",
        "device",
        "scales",
        "decoder_steps",
        "judge_steps",
        "unet_steps",
    }  # nothing is built on what these end with
    settings = {name: str(value) for name, value in asdict(config).items() if name not in free}
    path = config.work / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        sys.exit(f"{path} has other settings than these: {settings}; name another --work folder, or remove this one")
    path.write_text(json.dumps(settings, indent=1))


def write_prior(config, vae, unet, text_encoder, tokenizer, clip, judge_tokenizer):
    """The folder that users get: a StableDiffusionPipeline, its CLIP, its captions; weights in float16."""
    out = config.out
    scheduler = DDIMScheduler.from_config(make_scheduler().config, set_alpha_to_one=False)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to("cpu", torch.float16).save_pretrained(out, safe_serialization=True)
    tokenizer.backend_tokenizer.model.save(str(out / "tokenizer"))  # vocab.json and merges.txt, for older readers
    clip.to("cpu", torch.float16).save_pretrained(out / "clip")
    for part in (
        "text_encoder",
        "clip",
    ):  # Stored in half precision, meant to be run in single, as the UNet and VAE are.
        file = out / part / "config.json"
        file.write_text(file.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    CLIPProcessor(image_processor=image_processor, tokenizer=judge_tokenizer).save_pretrained(out / "clip")
    captions = {
        "names": {category: [words(name) for name in names] for category, names in NAMES.items()},
        "backgrounds": BACKGROUNDS,
        "hands": list(PACKAGES),
        "words": sorted({word for text in all_captions() for word in text.split()}),
    }
    (out / "captions.json").write_text(json.dumps(captions, indent=1) + "\n")


def main(config):
    config.work.mkdir(parents=True, exist_ok=True)
    same_settings(config)
    train = pictures(config, config.seed, config.variants, "train")
    tokenizer = judge_tokenizer = make_tokenizer()
    if config.start:
        # Each text tower keeps the numbers that its tokens have had.
        tokenizer = CLIPTokenizer.from_pretrained(config.start, subfolder="tokenizer")
        judge_tokenizer = CLIPTokenizer.from_pretrained(config.start / "clip")
        vae = AutoencoderKL.from_pretrained(config.start, subfolder="vae").float()
        clip = CLIPModel.from_pretrained(config.start / "clip").float()
        unet = UNet2DConditionModel.from_pretrained(config.start, subfolder="unet").float()
        text_encoder = CLIPTextModel.from_pretrained(config.start, subfolder="text_encoder").float()
        vae, clip, unet, text_encoder = (model.to(config.device) for model in (vae, clip, unet, text_encoder))
    else:
        vae = standardise(train_vae(config, train), train)
        clip = train_clip(config, train, tokenizer)
        unet = make_unet(config)
        text_encoder = copy.deepcopy(clip.text_model).requires_grad_(True)
    steady = pictures(config, config.seed + 2, config.variants, "steady", config.spread)
    bank = latent_bank(config, vae, steady)
    unet, text_encoder = train_unet(config, unet, text_encoder, tokenizer, bank, steady.pairs)
    clip = train_judge(config, train, clip, judge_tokenizer)
    vae = polish_decoder(config, vae, train)
    write_prior(config, vae, unet, text_encoder, tokenizer, clip, judge_tokenizer)
    write_edits(config.work / "packages", config.out / "edits")
    held_out = pictures(config, config.seed + 1, 2, "held_out")
    model_card(config, held_out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
