"""Nothing that is not finite passes in silence: what it is, of which step, timestep and particle, and why it may be so."""

from recording.checkpoint import parameters


def not_finite(norms, when, what, prior):
    """Raises FloatingPointError for the first particle whose norm, of (B,), is not finite. when(particle) says where that is."""
    for particle, good in enumerate(norms.isfinite().tolist()):
        if not good:
            raise FloatingPointError(f"{when(particle)}: the {what} is not finite; {cause(what, prior.dtype)}")


def cause(what, dtype):
    if what == "parameter":
        return "its update was too long for float32: a lower --rep.lr, --algo.guidance-scale or weight is needed"
    if what == "LoRA":
        return "its update was too long for float32: a lower --algo.vsd.lora-lr is needed"
    network = {"latent": "autoencoder", "decoded picture": "autoencoder"}.get(what, "UNet")
    if str(dtype) == "torch.float16":
        return f"float16 ends at 65,504, and the {network} has gone beyond: --prior.dtype bfloat16 or float32 is needed"
    return f"the checkpoint's {network} is broken, or was given more than it can take"


class Watch:
    """Looks at each step for what is not finite, in the order in which a step makes it, so that the first found is the cause.

    optimizers: the representation's, then those of what the method learns.
    """

    def __init__(self, optimizers, prior, rows):
        self.parameters, *others = map(parameters, optimizers)
        self.prior, self.rows, self.learned = prior, rows, [p for part in others for p in part]

    def norms(self, z, gradient):
        """{what: norms (B,)}, on the device."""
        found = {"latent": z.flatten(1).norm(dim=1), "gradient": gradient.flatten(1).norm(dim=1)}
        # One that all particles share is counted for each.
        each = [
            p.detach().reshape(self.rows if p.shape[:1] == (self.rows,) else 1, -1).norm(dim=1) for p in self.parameters
        ]
        found["parameter"] = sum(norm.expand(self.rows) for norm in each)
        if self.learned:
            found["LoRA"] = sum(p.detach().norm() for p in self.learned).expand(1)
        return found

    def check(self, norms, step, t):
        """Raises FloatingPointError for the norms of a step at timesteps t, a list."""

        def of_one(particle):
            return f"step {step}, timestep {t[particle]}, particle {particle}"

        def of_all(particle):
            return f"step {step}, all particles"

        for what, values in norms.items():
            not_finite(values, of_all if what == "LoRA" else of_one, what, self.prior)
