"""Weights w of the gradient: functions (t, i, run) → (B,) float64 on the CPU, of the timestep t or of the step i.

t      long (B,)
i      the step that each is at, float64 (B,)
run    the Schedule: run.steps is N, run.config the settings, run.prior.alphas_cumprod ᾱ (T,) float64
"""

from schedules import curves


def constant(t, i, run):
    """w = 1."""
    return i * 0 + 1


def dreamfusion(t, i, run):
    """w = 1 - ᾱ_t, the paper's σ_t². Poole et al. 2022, arXiv 2209.14988."""
    return 1 - run.prior.alphas_cumprod[t]


def fantasia3d(t, i, run):
    """w = √ᾱ_t (1-ᾱ_t): less at both ends. Chen et al. 2023, arXiv 2303.13873."""
    a = run.prior.alphas_cumprod[t]
    return a.sqrt() * (1 - a)


def ism(t, i, run):
    """w = √((1-ᾱ_t)/ᾱ_t), what turns a difference of noises into one of clean latents. Liang et al. 2023, arXiv 2311.11284."""
    a = run.prior.alphas_cumprod[t]
    return ((1 - a) / a).sqrt()


def dreamtime(t, i, run):
    """w = W(t)/max W. In the paper, W is how much time t gets, not how much it counts. Huang et al. 2023, dreamtime.py."""
    _, _, W = run.dreamtime
    return W[t]


def snr(t, i, run):
    """w = min(SNR, γ)/SNR, SNR = ᾱ_t/(1-ᾱ_t): 1 down to SNR = γ, less where there is less noise. Min-SNR, Hang et al. 2023,
    arXiv 2303.09556."""
    a = run.prior.alphas_cumprod[t]
    return (run.config.snr_gamma * (1 - a) / a).clamp(max=1)


def linear(t, i, run):
    """In a straight line from a at the first step to b at the last: --schedule.weight-ends a b."""
    a, b = run.config.weight_ends
    return a + (b - a) * curves.progress(i, run.steps)


def polynomial(t, i, run):
    """Σ c_k x^k, x = i/(N-1), with --schedule.weight-coefficients c_0 c_1 …."""
    return curves.polynomial(run.config.weight_coefficients, i, run.steps)


def piecewise_linear(t, i, run):
    """Straight lines between the points of --schedule.weight-points."""
    return curves.piecewise_linear(run.config.weight_points, i, run.steps)


def stepping(t, i, run):
    """From each point of --schedule.weight-points on, its w."""
    return curves.stepping(run.config.weight_points, i, run.steps)


WEIGHTS = {
    "constant": constant,
    "dreamfusion": dreamfusion,
    "fantasia3d": fantasia3d,
    "ism": ism,
    "dreamtime": dreamtime,
    "snr": snr,
    "linear": linear,
    "polynomial": polynomial,
    "piecewise_linear": piecewise_linear,
    "stepping": stepping,
}
