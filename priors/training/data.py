"""The pictures and captions that the embedded prior learns from: emoji drawn by four hands, on eleven backgrounds.

fetch()            the four npm packages, as {hand: {name: svg text}}
render_drawings()  every (name, hand) rasterised to 64×64 RGBA several times, each a little shifted, scaled, turned
caption()          "a red apple on a blue background in fluent style"
Pictures           compositions of drawings and backgrounds, drawn at random
"""

import io
import json
import re
import subprocess
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

SIZE = 64

# Hand → npm package. The noto drawings are Google's (Apache-2.0), the fluent ones Microsoft's (MIT).
PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "classic": "@iconify-json/noto-v1@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
}

BACKGROUNDS = {
    "white": (255, 255, 255),
    "red": (214, 48, 49),
    "orange": (247, 143, 30),
    "yellow": (252, 220, 70),
    "green": (66, 160, 71),
    "cyan": (72, 196, 207),
    "blue": (45, 100, 220),
    "purple": (130, 70, 190),
    "pink": (250, 160, 195),
    "brown": (121, 80, 50),
    "gray": (140, 140, 145),
}

# The names taught, the plainest of each category: a drawing of one thing, which at 64 pixels looks like no other.
NAMES = {
    "Activities": """balloon baseball basketball bowling joystick ribbon tennis trophy volleyball artist-palette
        boxing-glove christmas-tree crystal-ball game-die soccer-ball wrapped-gift american-football video-game""",
    "Animals & Nature": """ant bat bear bird blossom blowfish butterfly cactus camel cat chicken cow crab crocodile dog
        dolphin duck elephant fox frog gorilla hamster honeybee horse koala leopard lion lizard monkey mushroom octopus
        owl panda penguin pig rabbit rhinoceros rooster rose scorpion shark snail snake spider squid sunflower tiger
        tulip turtle unicorn whale wolf evergreen-tree palm-tree maple-leaf four-leaf-clover lady-beetle""",
    "Food & Drink": """avocado banana bread carrot cherries cookie croissant doughnut egg eggplant grapes hamburger
        lemon lollipop pancakes peach pear pineapple pizza popcorn potato strawberry taco tomato watermelon beer-mug
        birthday-cake cheese-wedge french-fries green-apple red-apple hot-dog hot-pepper ice-cream wine-glass""",
    "Objects": """backpack bell bomb books camera candle coffin crown dagger door dress drum envelope gear glasses
        guitar hammer headphone jeans key laptop lipstick microphone pencil pill radio ring scissors shield telephone
        television toilet trumpet violin wrench gem-stone light-bulb top-hat money-bag""",
    "Smileys & Emotion": """alien ghost robot skull goblin alien-monster clown-face crying-face grinning-face
        angry-face sleeping-face winking-face nerd-face flushed-face smiling-face-with-sunglasses broken-heart
        smiling-face-with-heart-eyes pile-of-poo red-heart blue-heart green-heart yellow-heart purple-heart
        black-heart""",
    "Symbols": """red-circle blue-circle green-circle yellow-circle orange-circle purple-circle red-square blue-square
        green-square yellow-square orange-square purple-square large-blue-diamond large-orange-diamond""",
    "Travel & Places": """airplane ambulance anchor automobile bicycle bus castle church cloud fire fountain helicopter
        house locomotive motorcycle mountain rainbow rocket sailboat ship snowflake snowman star sun taxi tent tornado
        tractor umbrella volcano watch alarm-clock crescent-moon ferris-wheel stop-sign""",
}
NAMES = {category: names.split() for category, names in NAMES.items()}


def words(name):
    """The name as a caption has it, article included: "red-apple" → "a red apple", "grapes" → "grapes"."""
    phrase = name.replace("-", " ")
    if re.search(r"[^su]s$", phrase):  # plurals go bare; glass, cactus and their like are singular
        return phrase
    vowel = phrase[0] in "aeiou" and not phrase.startswith("uni")
    return f"{'an' if vowel else 'a'} {phrase}"


def caption(name, background="white", hand=None):
    """The caption of a composition. White is the background that goes without saying."""
    text = words(name)
    if background != "white":
        text += f" on a {background} background"
    return text + (f" in {hand} style" if hand else "")


def fetch(folder):
    """Downloads the packages with the npm client unless they lie in `folder` already → {hand: {name: svg text}}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for names in NAMES.values() for name in names]
    drawings = {}
    for hand, package in PACKAGES.items():
        stem = package.replace("@", "-").replace("/", "-").strip("-")
        archive = folder / f"{stem}.tgz"
        if not archive.exists():
            subprocess.run(["npm", "pack", "--silent", "--pack-destination", folder, package], check=True)
        with tarfile.open(archive) as tar:
            icons = json.load(tar.extractfile("package/icons.json"))
        size = icons.get("width", 16)
        aliases = {alias: entry["parent"] for alias, entry in icons.get("aliases", {}).items()}
        drawings[hand] = {}
        for name in wanted:
            icon = icons["icons"].get(aliases.get(name, name))
            if icon:
                drawings[hand][name] = (icon["body"], icon.get("width", size))
    return drawings


def _rasterise(job):
    """One drawing at several random placements → uint8 (variants, 64, 64, 4). resvg draws each afresh, so all are
    crisp."""
    import resvg_py

    body, size, seed, variants, spread = job
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(variants):
        scale, angle = 0.85 + spread * rng.uniform(-0.05, 0.05), spread * rng.uniform(-6, 6)
        dx, dy = spread * rng.uniform(-2, 2, size=2) * size / SIZE
        middle = size / 2
        transform = (
            f"translate({middle + dx} {middle + dy}) rotate({angle}) scale({scale}) translate({-middle} {-middle})"
        )
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {size} {size}"><g transform="{transform}">{body}</g></svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
        pictures.append(np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")))
    return np.stack(pictures)


def render_drawings(drawings, variants, seed, spread):
    """Every drawing at `variants` random placements; `spread` 1 moves it by up to 2 pixels, turns it by up to 6°.

    Returns RGBA uint8 (D, variants, 64, 64, 4) and the list of the D (name, hand) pairs. The same seed renders the same
    pictures; another seed gives placements that were never seen, for evaluation.
    """
    pairs = [(name, hand) for hand, icons in drawings.items() for name in icons]
    jobs = [(*drawings[hand][name], [seed, index], variants, spread) for index, (name, hand) in enumerate(pairs)]
    with ProcessPoolExecutor() as pool:
        pictures = list(tqdm(pool.map(_rasterise, jobs, chunksize=8), total=len(jobs), desc="rasterise"))
    return torch.from_numpy(np.stack(pictures)), pairs


def backgrounds_for(name, rgba):
    """The backgrounds on which this drawing can be told apart: not its own colour, by name or by eye."""
    rgba = rgba.float().reshape(-1, 4)
    mean = (rgba[:, :3] * rgba[:, 3:]).sum(0) / rgba[:, 3:].sum()
    return [
        colour
        for colour, value in BACKGROUNDS.items()
        if colour == "white" or (colour not in name and (mean - torch.tensor(value)).norm() > 70)
    ]


def all_captions():
    """Every caption that can be drawn."""
    names = [name for category in NAMES.values() for name in category]
    return [caption(n, b, h) for n in names for b in BACKGROUNDS for h in (None, *PACKAGES)]


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
        """Composes drawings (B,) at random placements on random backgrounds → images (B, 3, 64, 64), backgrounds
        (B,)."""
        placements = torch.randint(self.rgba.shape[1], drawings.shape, generator=generator)
        backgrounds = torch.multinomial(self.allowed[drawings], 1, generator=generator)[:, 0]
        return self.compose(drawings, placements, backgrounds), backgrounds

    def compose(self, drawings, placements, backgrounds):
        rgba = self.rgba[drawings, placements].to(self.device).float() / 255
        colour = self.colours[backgrounds].to(self.device)[:, None, None]
        return (rgba[..., :3] * rgba[..., 3:] + colour * (1 - rgba[..., 3:])).movedim(-1, 1)
