"""Weights w(t) of the gradient: functions (t, alphas_cumprod) → (B,), for t (B,) long and ᾱ (T,), all on the CPU."""


def constant(t, alphas_cumprod):
    """w = 1."""
    return alphas_cumprod.new_ones(t.shape)


def dreamfusion(t, alphas_cumprod):
    """w = 1 - ᾱ_t, the paper's σ_t². Poole et al. 2022, arXiv 2209.14988."""
    return 1 - alphas_cumprod[t]


def ism(t, alphas_cumprod):
    """w = √((1-ᾱ_t)/ᾱ_t), what turns a difference of noises into one of clean latents. Liang et al. 2023, arXiv 2311.11284."""
    return ((1 - alphas_cumprod[t]) / alphas_cumprod[t]).sqrt()


WEIGHTS = {"constant": constant, "dreamfusion": dreamfusion, "ism": ism}
