"""What the loop asks of a representation, and the answers that most give."""


class Representation:
    """A representation is a subclass with `learning_rates`, `parameters`, `latents` and `images`.

    learning_rates   --rep.lr where none is given, for each optimizer
    Settings         a dataclass of its own flags --rep.<field>, or None; RepresentationConfig inherits from it
    """

    Settings = None

    @classmethod
    def check(cls, config, require):
        """require(good, message) for every setting of its own that can be wrong."""

    def parameters(self):
        """What torch.optim takes: tensors, or groups of them with learning rates of their own."""
        raise NotImplementedError

    def latents(self):
        """(B, C, h, w), differentiable."""
        raise NotImplementedError

    def images(self):
        """(B, 3, H, W) in [0, 1], or near it."""
        raise NotImplementedError

    def project(self):
        """Back to what is valid, after an optimiser step. What is not finite must stay so, and be found."""

    def views(self, images):
        """Further pictures of its state, taken whenever the run takes `images`: {name: (pictures (B, 3, H, W), a note)}."""
        return {}

    def files(self):
        """What else it leaves at the end of the run: {file name: a function that writes the path it is given}."""
        return {}


def clamp_colors(values):
    """Back into [0, 1], in place; but what an update has thrown to infinity becomes NaN, not a colour."""
    values.copy_(values.clamp(0, 1).where(values.isfinite(), float("nan")))
