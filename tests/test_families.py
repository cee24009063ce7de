"""Every family of priors: sampling is diffusers' own, every method runs, and a flow is the same process as its
variance-preserving twin."""

import json
import shutil

import families
import pytest
import torch
from conftest import ROOT

import sds2d
from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from priors.device import per_row
from priors.families import capture_inputs, join, pack, unpack
from priors.noising import Noising
from priors.prior import Prior
from recording.probe import probe_timesteps

SIZES = {"flux-dev": (64, 64), "flux-schnell": (64, 64)}  # their pipelines default to 1024


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint(name): its folder, built once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = families.save(name, tmp_path_factory.mktemp("families") / name)
        return made[name]

    return folder


def load(folder, name, **options):
    """The checkpoint, with settings as the command line has them."""
    given = flags(folder, name)
    for key, value in options.items():
        words = value if isinstance(value, tuple) else () if value is True else (value,)
        given += [f"--prior.{key.replace('_', '-')}", *map(str, words)]
    return Checkpoint(sds2d.parse(given).prior)


def flags(folder, name):
    size = ["--prior.size", *map(str, SIZES[name])] if name in SIZES else []
    return ["--prior.path", str(folder), *size]


# ------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("name", families.BUILDERS)
def test_sampling_is_diffusers_own(name, checkpoint):
    """Ten steps of --algo.name ddim from the start that the pipeline is given."""
    import diffusers

    prior = load(checkpoint(name), name)
    options = {"height": prior.image_size[0], "width": prior.image_size[1], "num_inference_steps": 10}
    none = {"if": ["safety_checker", "watermarker"], "sd3-without-t5": ["tokenizer_3", "text_encoder_3"]}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(checkpoint(name), **dict.fromkeys(none.get(name, ())))
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    scale = 1.0 if "flux" in name else 3.0
    options["guidance_scale"] = 3.5 if "flux" in name else scale
    if name == "if":
        options |= {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    else:
        options |= {"latents": pack(z) if "flux" in name else z.clone(), "output_type": "latent"}
    if name.startswith("sd3") or name == "sana":
        options["sigmas"] = [1 - k / 10 for k in range(10)]
    if name in ("sana", "pixart"):
        options |= {"use_resolution_binning": False, "clean_caption": False}
    expected = pipeline("a fox", **options).images
    expected = unpack(expected, *z.shape[-2:]) if "flux" in name else expected

    config = sds2d.parse([*flags(checkpoint(name), name), "--algo.name", "ddim", "--steps", "10", "--particles", "1"])
    config.prompt, config.algo.guidance_scale, config.rep.kind = ("a fox",), scale, "latent"
    particles = Particles(prior, ["a fox"])
    method = ALGORITHMS["ddim"](prior, particles, config.algo, 10)
    for t in method.timesteps:
        z = z - method.gradient(z, t[None], particles, 0.0)
    error = (z - expected).norm() / expected.norm()
    assert error < 1e-5, f"{error:.1e}"


def test_a_timestep_without_a_picture_is_a_samplers(checkpoint):
    """With zero terminal SNR and v-prediction, sampling starts where ᾱ = 0, and methods draw t below."""
    prior = load(checkpoint("sd-zero-snr"), "")
    assert prior.alphas_cumprod[-1] == 0 and prior.noising.max_t == 998
    assert prior.sampling_timesteps(4).tolist() == [999, 749, 499, 249]
    for name in ("ddim", "sdedit", "pds", "sds"):
        source = ROOT / "priors/emoji64/edits/15_source.png"
        edit = ["--source-image", str(source), "--source-prompt", "a"] if ALGORITHMS[name].edits else []
        given = [*flags(prior.folder, ""), *edit, "--algo.name", name, "--steps", "4", "--log.timesteps"]
        given += [] if ALGORITHMS[name].is_sampler else ["--schedule.t-max", "1.0", "--schedule.timestep", "linear"]
        config = sds2d.parse([*given, *(["--algo.sdedit.strength", "1"] if name == "sdedit" else [])])
        parts = sds2d.build(config, prior)
        for step in range(4):
            gradient = sds2d.distill(parts, step).gradient
            assert gradient.isfinite().all() and parts.representation.images().isfinite().all(), name
            assert all(clean.isfinite().all() for clean in parts.algorithm.predictions.values()), name


# ---------------------------------------------------------------------------------------------------- every method

FAMILIES = [pytest.param(name, marks=pytest.mark.slow) for name in ("sd", "sd3-without-t5", "flux-schnell")]
FAMILIES += ["sdxl", "sd3", "flux-dev", "pixart", "sana", "if"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_runs(name, checkpoint, tmp_path):
    prior = load(checkpoint(name), name)
    for method, cls in ALGORITHMS.items():
        kind = "pixel" if name == "if" else "latent"
        if cls.is_sampler and kind == "pixel":  # Samplers have latents only.
            continue
        steps = ["--steps", "4", "--log.every", "2", "--log.timesteps", "0.5", "--log.tile", "16", "--particles", "2"]
        source = str(ROOT / "priors/emoji64/edits/15_source.png")
        edit = ["--source-image", source, "--source-prompt", "a red apple"] if cls.edits else []
        out = ["--out", str(tmp_path / method)]
        given = [*flags(checkpoint(name), name), "--algo.name", method, "--rep.kind", kind]
        assert sds2d.run(sds2d.parse([*given, *steps, *edit, *out]), prior).images.isfinite().all()


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "pixart", "sana", "if"])
@pytest.mark.parametrize("kind", ["pixel", "gaussian2d"])
def test_pixels_and_gaussians_run_at_any_size(name, kind, checkpoint, tmp_path):
    size = {"sana": ("32", "64"), "if": ("24", "16")}.get(name, ("64", "96"))
    given = ["--prior.path", str(checkpoint(name)), "--prior.size", *size, "--rep.kind", kind, "--steps", "4"]
    given += ["--particles", "1", "--log.timesteps", "--log.tile", "16", "--out", str(tmp_path / "run")]
    images, _ = sds2d.run(sds2d.parse(given))
    assert images.shape[2:] == tuple(map(int, size)) and images.isfinite().all()
    assert (tmp_path / "run" / "video.mp4").is_file() and (tmp_path / "run" / "index.html").is_file()


@pytest.mark.parametrize("method", [name for name in ALGORITHMS if name != "ism"])  # whose intervals are timesteps
def test_defaults_fit_any_number_of_timesteps(method, short):
    source = str(ROOT / "priors/emoji64/edits/15_source.png")
    edit = ["--source-image", source, "--source-prompt", "a"] if ALGORITHMS[method].edits else []
    steps = ["--steps", "5"] if ALGORITHMS[method].is_sampler else ["--steps", "3"]
    config = sds2d.parse([*flags(short.folder, ""), "--algo.name", method, "--particles", "1", *steps, *edit])
    parts = sds2d.build(config, short)
    assert all(0 <= t < 100 for t in probe_timesteps(config.log.timesteps, parts.algorithm))
    for step in range(config.steps):
        sds2d.distill(parts, step)
    assert parts.representation.images().isfinite().all()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A checkpoint of 100 timesteps."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("short")
    families.stable_diffusion(num_train_timesteps=100).save_pretrained(folder)
    return load(folder, "")


def test_a_pixel_prior_has_no_latents(checkpoint, tmp_path):
    with pytest.raises(InputError, match="--rep.kind latent"):
        sds2d.run(sds2d.parse(["--prior.path", str(checkpoint("if")), "--steps", "2", "--out", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------- flows


class Flow(Prior):
    """Another prior as a flow: x = (1 - σ) z + σ ε at the same σ/α, of which it says ε̂ - ẑ_0."""

    def __init__(self, prior):
        a = prior.alphas_cumprod
        noising = Noising(a, 1 / (a.sqrt() + (1 - a).sqrt()), torch.arange(len(a)), "flow")
        options = dict(dtype=prior.dtype, autoencoder=prior.autoencoder, scheduler_config=prior.scheduler_config)
        super().__init__(noising, prior.denoiser, prior.latent_shape, prior.image_size, **options)
        self.prior, self.encode_prompt, self.learn = prior, prior.encode_prompt, prior.learn

    def denoise(self, x, time, y):
        z_t = x / per_row(self.noising.scale[time], x)
        output = self.prior.denoise(z_t, time, y)
        return self.prior.to_noise(output, z_t, time) - self.prior.to_clean(output, z_t, time)


@pytest.mark.parametrize("method", ALGORITHMS)
def test_a_flow_has_the_same_gradients(method):
    """The embedded network, in float64, and as a flow."""
    prior = Checkpoint(PriorConfig())
    prior.encode_prompt(["a red apple", ""])
    prior.conditions.free()
    prior.dtype = prior.conditions.dtype = torch.float64
    prior.denoiser.double()
    prior.autoencoder.vae.double()
    texts = prior.conditions
    texts.conditions = [{k: v.double() for k, v in condition.items()} for condition in texts.conditions]
    prior.encode_prompt = lambda prompts, negative=False: torch.tensor([int(not prompt) for prompt in prompts])
    prior.scheduler_config["timestep_spacing"] = "trailing"
    edit = ["--source-prompt", "", "--source-image", str(ROOT / "priors/emoji64/edits/15_source.png")]
    given = ["--algo.name", method, "--steps", "5", "--particles", "1", *(edit if ALGORITHMS[method].edits else [])]
    gradients = []
    for one in (prior, Flow(prior)):
        algorithm, representation, schedule, _, particles = sds2d.build(sds2d.parse(given), one)
        t = schedule.timestep(1, particles)
        z = representation.latents().detach().double()
        gradients.append(algorithm.gradient(z, t, particles, 0.2))
        algorithm.update(z, t, particles, 0.2)
        gradients.append(algorithm.gradient(z, t, particles, 0.4))
    # φ of VSD learns from ε̂ - ẑ_0, whose errors at different t have other weights.
    for expected, found in zip(gradients[:2], gradients[2:], strict=True) if method != "vsd" else [gradients[::2]]:
        assert expected.norm() > 0 and (found - expected).norm() / expected.norm() < 1e-6


# ---------------------------------------------------------------------------------------------------------- settings


def predict(prior, prompt="a fox", t=600):
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    return prior.predict_noise(z, torch.tensor([t, t // 2]), prior.encode_prompt([prompt] * 2))


def test_chunks_give_the_same(checkpoint):
    whole, part = (predict(load(checkpoint("flux-dev"), "flux-dev", chunk=chunk)) for chunk in (0, 1))
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)


def test_distilled_guidance_is_told(checkpoint):
    dev = [predict(load(checkpoint("flux-dev"), "flux-dev", distilled_guidance=g)) for g in (1.0, 9.0)]
    schnell = [predict(load(checkpoint("flux-schnell"), "flux-schnell", distilled_guidance=g)) for g in (1.0, 9.0)]
    assert not torch.equal(*dev) and torch.equal(*schnell)


def test_guidance_of_a_distilled_prior_warns(checkpoint, tmp_path, capsys):
    given = [*flags(checkpoint("flux-dev"), "flux-dev"), "--steps", "1", "--particles", "1", "--log.timesteps"]
    for number, scale in enumerate(("1", "7.5")):
        config = sds2d.parse([*given, "--algo.guidance-scale", scale, "--out", str(tmp_path / str(number))])
        sds2d.run(config)
        assert ("--algo.guidance-scale" in capsys.readouterr().err) == (scale == "7.5")


def test_an_autoencoder_of_ones_own(checkpoint, tmp_path):
    torch.manual_seed(5)
    families.autoencoder().save_pretrained(tmp_path / "vae")
    own, other = load(checkpoint("sd"), "sd"), load(checkpoint("sd"), "sd", vae=str(tmp_path / "vae"))
    images = torch.rand(1, 3, 64, 64)
    assert not torch.equal(own.encode(images), other.encode(images)) and own.sha256 != other.sha256
    with pytest.raises(InputError, match="--prior.vae"):
        load(checkpoint("sd"), "sd", vae=str(checkpoint("sd") / "unet"))
    with pytest.raises(InputError, match="--prior.vae.*takes none"):  # A prior on pixels would ignore it.
        load(checkpoint("if"), "if", vae=str(tmp_path / "vae"))


def test_an_autoencoder_that_overflows_is_float32(checkpoint, tmp_path):
    """SDXL's own, and another that is given."""
    for name, upcast in (("overflows", True), ("fixed", False)):
        families.autoencoder(force_upcast=upcast).save_pretrained(tmp_path / name)
    given = [{}, *({"vae": str(tmp_path / name)} for name in ("overflows", "fixed"))]
    vaes = [load(checkpoint("sdxl"), "sdxl", dtype="float16", **options).autoencoder.vae for options in given]
    assert [vae.dtype for vae in vaes] == [torch.float32, torch.float32, torch.float16]


def test_offload_and_gradient_checkpointing_change_nothing(checkpoint):
    images = torch.rand(1, 3, 64, 64)
    gradients = []
    for options in ({}, {"offload": True, "gradient_checkpointing": True}):
        prior, x = load(checkpoint("sd"), "sd", **options), images.clone().requires_grad_(True)
        prior.encode(x).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", families.BUILDERS)
def test_gradient_checkpointing_of_the_denoiser(name, checkpoint, capsys):
    """VSD's φ learns the same, of every family, and a step stores less."""
    learned, stored = [], []
    for options in ({}, {"gradient_checkpointing": True}):
        prior = load(checkpoint(name), name, **options)
        settings = ALGORITHMS["vsd"].Settings(lora_layers="all", lora_lr=0.01)
        particles = Particles(prior, ["a fox"])
        vsd = ALGORITHMS["vsd"](prior, particles, AlgorithmConfig(name="vsd", guidance_scale=2.0, vsd=settings), 10)
        z, count = particles.noise_like(torch.zeros(1, *prior.latent_shape)), [0]

        def counted(tensor, count=count):
            count[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor):
            for _ in range(2):  # One factor of a LoRA begins at 0.
                vsd.update(z, torch.tensor([300]), particles, 0.5)
        learned.append(torch.cat([value.detach().flatten() for value in vsd.parameters()]))
        stored.append(count[0])
    torch.testing.assert_close(*learned)
    assert stored[1] < 0.7 * stored[0]
    assert ("AutoencoderDC" in capsys.readouterr().err) == (name == "sana")


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_lora_is_fused_as_diffusers_loads_it(scale, checkpoint, tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint("sd"), safety_checker=None)
    torch.manual_seed(3)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(pipeline.unet))
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint("sd"), safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "lora")
    pipeline.set_adapters(pipeline.get_active_adapters(), scale)
    prior = load(checkpoint("sd"), "sd", lora=(f"{tmp_path / 'lora'}:{scale}",))
    plain = load(checkpoint("sd"), "sd")
    z, t = torch.randn(1, *prior.latent_shape), torch.tensor([600])
    text = join(capture_inputs(plain.pipeline, "a fox", None, (64, 64), 2.0)[1:], torch.float32)
    expected = pipeline.unet(z, t, **text).sample
    found = prior.predict_noise(z, t, prior.encode_prompt(["a fox"]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - plain.predict_noise(z, t, plain.encode_prompt(["a fox"]))).norm() > 0.01 * found.norm()
    # VSD's own LoRA leaves it in.
    config = sds2d.parse([*flags(checkpoint("sd"), "sd"), "--algo.name", "vsd", "--particles", "1"])
    ALGORITHMS["vsd"](prior, Particles(prior, ["a fox"]), config.algo, 4)
    torch.testing.assert_close(prior.predict_noise(z, t, prior.encode_prompt(["a fox"])), found, rtol=1e-5, atol=1e-6)


def test_a_variant_is_loaded_by_its_name(checkpoint, tmp_path):
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(checkpoint("sd"), safety_checker=None)
    pipeline.save_pretrained(tmp_path / "sd", variant="fp16")
    with pytest.raises(InputError, match="--prior.variant fp16"):
        load(tmp_path / "sd", "sd")
    variant, whole = load(tmp_path / "sd", "sd", variant="fp16"), load(checkpoint("sd"), "sd")
    torch.testing.assert_close(predict(variant), predict(whole))


def test_what_stays_float32(checkpoint):
    """SDXL's autoencoder overflows in float16, and the pictures go through it."""
    dtypes = {name: load(checkpoint(name), name, dtype="float16").autoencoder.vae.dtype for name in ("sd", "sdxl")}
    assert dtypes == {"sd": torch.float16, "sdxl": torch.float32}
    half = load(checkpoint("sdxl"), "sdxl", dtype="float16")
    assert half.decode(half.encode(torch.rand(1, 3, 64, 64))).dtype == torch.float32


def test_flux_hears_the_noise_that_there_is(checkpoint):
    """In bfloat16 its timesteps are rounded; the noise is that of the rounded ones."""
    noising = load(checkpoint("flux-dev"), "flux-dev", dtype="bfloat16").noising
    sigma, ratio = noising.time, ((1 - noising.alphas_cumprod) / noising.alphas_cumprod).sqrt()
    assert torch.equal(sigma, sigma.bfloat16().double()) and (sigma.diff() >= 0).all()
    torch.testing.assert_close(ratio[:-1], (sigma / (1 - sigma))[:-1])
    assert 250 < len(sigma.unique()) < 500


def test_sizes_that_do_not_fit(checkpoint):
    with pytest.raises(InputError, match="--prior.size 60.*multiples of"):
        Checkpoint(PriorConfig(path=str(checkpoint("sd3")), size=(60,)))
    with pytest.raises(InputError, match="--prior.size"):
        Checkpoint(PriorConfig(path=str(checkpoint("sd")), size=(64, 64, 64)))


def test_sdxl_below_its_size_warns(checkpoint, capsys):
    load(checkpoint("sdxl"), "sdxl")
    assert "512" in capsys.readouterr().err


# ------------------------------------------------------------------------------- no checkpoint is read wrongly


def copy(folder, target, part=None, **changes):
    """A copy of a checkpoint, with changes in a part's JSON, of the pipeline where no part is named."""
    shutil.copytree(folder, target)
    for name in ("config.json", "scheduler_config.json", "model_index.json"):
        file = target / (part or "") / name
        if file.is_file():
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


def without(folder, key):
    """Removes a tensor from a part's weights, or renames it."""
    from safetensors.torch import load_file, save_file

    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors[f"{key}.base_layer"] = tensors.pop(key)
    save_file(tensors, file, {"format": "pt"})


MISSING = {
    "unet": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "text_encoder": "encoder.layers.1.mlp.fc1.weight",
    "vae": "encoder.conv_in.weight",
}


@pytest.mark.parametrize("part", MISSING)
def test_missing_weights(part, checkpoint, tmp_path):
    folder = copy(checkpoint("sd"), tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    from safetensors.torch import load_file

    key = next(name for name in load_file(file) if name.endswith(MISSING[part]))
    without(folder / part, key)
    with pytest.raises(InputError, match=f"its {part}.*{MISSING[part].split('.')[-2]}"):
        load(folder, "sd")


REFUSED = [
    ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "scheduler"),
    ("scheduler", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "scheduler"),
    ("text_encoder", {"_class_name": "T5EncoderModel"}, "text_encoder"),
    ("unet", {"_class_name": "UNet2DModel"}, "unet"),
    ("vae", {"_class_name": "VQModel"}, "vae"),
]


@pytest.mark.parametrize("part, changes, words", REFUSED, ids=[str(case[1]) for case in REFUSED])
def test_classes_that_are_not_known_for_their_place(part, changes, words, checkpoint, tmp_path):
    library = "transformers" if part.startswith("text") else "diffusers"
    folder = copy(checkpoint("sd"), tmp_path / "sd", **{part: [library, changes["_class_name"]]})
    with pytest.raises(InputError, match=rf"its {words} is a {library}\.{changes['_class_name']}"):
        load(folder, "sd")


@pytest.mark.parametrize("name", ["StableCascadeDecoderPipeline", "StableDiffusionInpaintPipeline", None])
def test_pipelines_that_are_not_known(name, checkpoint, tmp_path):
    folder = copy(checkpoint("sd"), tmp_path / "sd", _class_name=name)
    with pytest.raises(InputError, match=f"holds a {name}; known are StableDiffusionPipeline"):
        load(folder, "sd")


def test_a_network_of_other_inputs(tmp_path):
    pipeline = families.stable_diffusion()
    for number, options in enumerate((dict(in_channels=9), dict(out_channels=8), dict(num_class_embeds=3))):
        pipeline.unet = families.unet(**options)
        pipeline.save_pretrained(tmp_path / str(number))
        with pytest.raises(InputError, match="its unet"):
            load(tmp_path / str(number), "sd")


def test_a_network_that_is_told_its_guidance(tmp_path, capsys):
    """An LCM's UNet: its pipeline makes no unconditional prediction, and gives it the guidance scale."""
    pipeline = families.stable_diffusion()
    pipeline.unet = families.unet(time_cond_proj_dim=16)
    torch.nn.init.normal_(pipeline.unet.time_embedding.cond_proj.weight)
    pipeline.save_pretrained(tmp_path / "lcm")
    low, high = (predict(load(tmp_path / "lcm", "sd", distilled_guidance=g)) for g in (1.5, 8.0))
    assert not torch.equal(low, high)


def test_what_diffusers_runs_runs(checkpoint, tmp_path):
    """A padded embedding table, a tiny autoencoder, and a sample_size that is a list."""
    from diffusers import AutoencoderTiny

    pipeline = families.stable_diffusion()
    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer) + 22)
    sizes = dict(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    pipeline.vae = AutoencoderTiny(**sizes, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4)
    pipeline.unet = families.unet(sample_size=[8, 12])
    pipeline.save_pretrained(tmp_path / "sd")
    prior = load(tmp_path / "sd", "sd")
    assert prior.image_size == (64, 96) and prior.decode(prior.encode(torch.rand(1, 3, 64, 96))).shape[2:] == (64, 96)
    pipeline.unet = families.unet(sample_size=None)
    pipeline.save_pretrained(tmp_path / "null")
    with pytest.raises(InputError, match="--prior.size"):
        load(tmp_path / "null", "sd")
    assert Checkpoint(PriorConfig(path=str(tmp_path / "null"), size=(64,))).latent_shape == (4, 8, 8)


def test_files_that_are_no_weights(checkpoint, tmp_path):
    folder = copy(checkpoint("sd"), tmp_path / "sd")
    (file,) = (folder / "unet").glob("*.safetensors")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="Git-LFS"):
        load(folder, "sd")
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"x")
    with pytest.raises(InputError, match="from_single_file"):
        Checkpoint(PriorConfig(path=str(single)))


def test_a_stray_script_is_no_reason_to_refuse(checkpoint, tmp_path):
    folder = copy(checkpoint("sd"), tmp_path / "sd")
    for place in (folder, folder / "unet"):
        (place / "convert.py").write_text("raise SystemExit('this code must not run')")
    assert torch.equal(predict(load(folder, "sd")), predict(load(checkpoint("sd"), "sd")))
