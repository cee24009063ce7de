"""The CLIP of the embedded prior: its tokenizer, its two towers, and the judge that they become."""

from collections import Counter

import torch
import torch.nn.functional as F
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from priors.training.data import BACKGROUNDS, NAMES, PACKAGES, SIZE, all_captions, caption
from priors.training.fit import fit

TEXT_LENGTH = 32


def learn_merges(words):
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) until every word is one token → the merges, in order.

    Of the pairs that are equally frequent the first in the alphabet is merged. The tokenizers library leaves that
    to chance, and a training that is resumed would give its tokens other numbers.
    """
    spelled, merges = [[*word[:-1], word[-1] + "</w>"] for word in words], []
    while pairs := Counter(pair for word in spelled for pair in zip(word, word[1:], strict=False)):
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((first, second))
        for word in spelled:
            place = 0
            while (place := place + 1) < len(word):
                if word[place - 1 : place + 1] == [first, second]:
                    word[place - 1 : place + 1] = [first + second]
    return merges


def make_tokenizer():
    """CLIP's byte-pair encoding, its merges learned from the captions until every word of theirs is one token."""
    merges = learn_merges(sorted({word for text in all_captions() for word in text.split()}))
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


def speckle(images, generator):
    """A little noise, up to a deviation of 0.1, keeps the CLIP from reading what no eye can see."""
    level = 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images + (level * torch.randn(images.shape, generator=generator)).to(images.device)


def make_clip(tokenizer, patch_size, **vision):
    """A small CLIPModel for 64×64 pictures."""
    tower = dict(num_attention_heads=4, projection_dim=128)
    text = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3)
    special = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return CLIPModel(
        CLIPConfig(
            text_config=dict(tower, **text, **special, vocab_size=len(tokenizer), max_position_embeddings=TEXT_LENGTH),
            vision_config=dict(tower, **vision, image_size=SIZE, patch_size=patch_size),
            projection_dim=128,
        )
    )


def train_clip(config, train, tokenizer):
    """Both towers from nothing. The text tower stays as it is from here on: the prior is conditioned on it."""
    torch.manual_seed(config.seed + 1)
    clip = make_clip(tokenizer, 8, hidden_size=128, intermediate_size=512, num_hidden_layers=4).to(config.device)
    texts = {text: ids for text, ids in zip(all_captions(), tokenize(tokenizer, all_captions()), strict=True)}
    by_name = {}
    for index, (name, _) in enumerate(train.pairs):
        by_name.setdefault(name, []).append(index)
    by_name = list(by_name.values())

    def loss(generator):
        """InfoNCE. A name is in the batch twice, on two backgrounds, so that both the name and the background count."""
        drawings, backgrounds, captions = [], [], []
        for n in torch.randperm(len(by_name), generator=generator)[: config.clip_batch // 2].tolist():
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
        images = speckle(images, generator)
        ids = torch.stack(captions)
        ids = ids[
            :, : (ids != tokenizer.pad_token_id).sum(1).max() + 1
        ]  # Attention is causal: padding only costs time.
        return clip(ids.to(config.device), normalise(images), return_loss=True).loss

    return fit("clip", clip, loss, steps=config.clip_steps, lr=config.clip_lr, folder=config.work, seed=config.seed)


@torch.no_grad()
def pooled_texts(clip, tokenizer, device):
    """The text tower's pooled output for every caption: (names, backgrounds, 1 + hands, width)."""
    ids = tokenize(tokenizer, all_captions())
    pooled = torch.cat([clip.text_model(part.to(device)).pooler_output for part in ids.split(256)])
    return pooled.unflatten(0, (-1, len(BACKGROUNDS), 1 + len(PACKAGES)))


def train_judge(config, train, clip, tokenizer):
    """A new vision tower against all captions at once, the text tower locked (Zhai et al. 2022, arXiv 2111.07991).

    In a batch of 32 names few look alike. Here each picture must find its name among all names, its background
    among all backgrounds and its hand among all hands, the rest of the caption being right. Patches of 16 pixels: a
    wide look at few patches learns drawings several times faster than a narrow one at many.
    """
    judge = clip
    if clip.config.vision_config.patch_size != 16:  # a judge that exists already goes on
        torch.manual_seed(config.seed + 4)
        judge = make_clip(tokenizer, 16, hidden_size=192, intermediate_size=768, num_hidden_layers=3).to(config.device)
        judge.text_model.load_state_dict(clip.text_model.state_dict())
        judge.text_projection.load_state_dict(clip.text_projection.state_dict())
    judge.train()
    judge.text_model.requires_grad_(False)
    texts = pooled_texts(clip, tokenizer, config.device)
    index = {name: i for i, name in enumerate(n for category in NAMES.values() for n in category)}
    names = torch.tensor([index[name] for name, _ in train.pairs])
    hands = torch.tensor([1 + list(PACKAGES).index(hand) for _, hand in train.pairs])

    def loss(generator):
        drawings = torch.randint(len(train.pairs), (config.judge_batch,), generator=generator)
        images, backgrounds = train.draw(drawings, generator)
        images = speckle(images, generator)
        seen = F.normalize(judge.get_image_features(normalise(images)).pooler_output, dim=-1)
        features = F.normalize(judge.text_projection(texts), dim=-1)
        name, hand = names[drawings], hands[drawings]
        said = hand * (torch.rand(len(hand), generator=generator) < 0.5)  # half of the captions name the hand

        def cross_entropy(candidates, target):  # candidates: (B, K, width)
            logits = judge.logit_scale.exp() * torch.einsum("bkd,bd->bk", candidates, seen)
            return F.cross_entropy(logits, target.to(config.device))

        return (
            cross_entropy(features[:, backgrounds, said].transpose(0, 1), name)
            + 0.3 * cross_entropy(features[name, :, said], backgrounds)
            + 0.3 * cross_entropy(features[name, backgrounds, 1:], hand - 1)
        )

    return fit(
        "judge", judge, loss, steps=config.judge_steps, lr=config.judge_lr, folder=config.work, seed=config.seed + 4
    )
