"""Nothing that is not finite passes in silence: what it is, of which step, timestep and particle, and why it may be so."""

def not_finite(norms, when, what, prior):
    """Raises FloatingPointError for the first particle whose norm, of (B,), is not finite. when: "step 3", or the like, or a
    function of the particle."""
    for particle, good in enumerate(norms.isfinite().tolist()):
        if not good:
            place = when(particle) if callable(when) else when
            raise FloatingPointError(f"{place}, particle {particle}: the {what} is not finite; {cause(what, prior.dtype)}")


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
        first, *others = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
        self.prior, self.rows, self.parameters, self.learned = prior, rows, first, [p for part in others for p in part]

    def norms(self, z, gradient):
        """{what: norms (B,)}, on the device."""
        found = {"latent": z.flatten(1).norm(dim=1), "gradient": gradient.flatten(1).norm(dim=1)}
        for what, parameters in (("parameter", self.parameters), ("LoRA", self.learned)):
            # What all particles share is counted for each.
            each = [p.detach().reshape(self.rows if p.shape[:1] == (self.rows,) else 1, -1).norm(dim=1) for p in parameters]
            if each:
                found[what] = sum(norm.expand(self.rows) for norm in each)
        return found

    def check(self, norms, step, t):
        """Raises FloatingPointError for the norms of a step at timesteps t, a list."""
        for what, values in norms.items():
            not_finite(values, lambda particle: f"step {step}, timestep {t[particle]}", what, self.prior)
