"""Weights w(t) of the gradient: functions (t, alphas_cumprod) → (B,), for t (B,) long and ᾱ (T,)."""


def constant(t, alphas_cumprod):
    """w = 1."""
    return alphas_cumprod[t] * 0 + 1


def dreamfusion(t, alphas_cumprod):
    """w = 1 - ᾱ_t, the paper's σ_t². Poole et al. 2022, arXiv 2209.14988."""
    return 1 - alphas_cumprod[t]


WEIGHTS = {"constant": constant, "dreamfusion": dreamfusion}
