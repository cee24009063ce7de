"""What the loop asks of a method, and the answers that most methods give."""


class Method:
    """A method is a subclass with a `gradient`; everything else here is there to be overridden.

    defaults   its own values of settings, named as in sds2d.json: {"algo.guidance_scale": 7.5, "schedule.weight": "constant"}.
               One without "algo.guidance_scale" has no guidance, and refuses the flag.
    requires   settings that it can't do without, likewise
    edits      whether it starts from a source image and prompt: particles.source, particles.source_text
    any_t      whether `gradient` means something at other timesteps than the step's own, where recording asks for it
    remembers  names of attributes, tensors or None, that a step leaves for later ones: a checkpoint keeps them
    Settings   a dataclass whose fields become the flags --algo.<name>.<field>

    self.s is the guidance scale, self.settings the method's own Settings.
    """

    defaults = {}
    requires = {}
    edits = False
    any_t = True
    remembers = ()
    Settings = None

    def __init__(self, prior, particles, config, steps):
        """steps: N, the length of the run."""
        self.prior, self.particles = prior, particles
        self.s = config.guidance_scale
        self.settings = getattr(config, config.name, None)

    @classmethod
    def samples(cls):
        """Whether its timesteps are those of a sampler."""
        return cls.requires.get("schedule.timestep") == "ddim"

    @classmethod
    def check(cls, settings, require):
        """require(good, message) for every setting that can be wrong."""

    @staticmethod
    def check_counts(require, name, settings, *fields):
        """Requires each of these settings of method `name` to be None or at least 1."""
        for field in fields:
            value = getattr(settings, field)
            require(
                value is None or value >= 1, f"--algo.{name}.{field.replace('_', '-')} {value}: at least 1 is needed"
            )

    def least_timestep(self):
        """The least t that `gradient` can be asked for."""
        return 0

    def timesteps(self):
        """The timesteps of the whole run (N,) long, of a method that leaves no choice: --schedule.timestep ddim."""

    def gradient(self, z, t, progress):
        """g for latents z (B, C, h, w) at timesteps t (B,) long on the CPU: (B, C, h, w), before the weight w(t).

        progress: the fraction of the run that is done, from 0 up to 1 - 1/N, for methods that change on their way.
        """
        raise NotImplementedError

    def points_at(self, z, t, gradient):
        """The pseudo ground truth: the clean latents (B, C, h, w) that the gradient, a difference of noises, points at.

        ẑ_0 falls by √((1-ᾱ_t)/ᾱ_t) as the noise in z_t grows by one, and so it is z less that part of the gradient.
        """
        alpha, sigma = self.prior.coefficients(t, z)
        return z - sigma / alpha * gradient

    def optimizers(self):
        """Those of what the method learns itself: their parameters and their memory are part of a checkpoint."""
        return []

    def update(self, z):
        """What the method itself learns at a step, from the step's latents z (B, C, h, w)."""
