"""The training loop that every part of the embedded prior shares: resumable, averaged, and honest about the time
left."""

import copy
import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from priors.training.muon import Muon


def learning_rate(step, steps, peak, warmup=200):
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * min(1, (step + 1) / warmup) * (0.01 + 0.99 * cosine)


def save(state, path):
    """Written beside and renamed, so that a kill leaves the last checkpoint whole."""
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(path)


def fit(name, model, loss, *, steps, lr, folder, seed=0, muon=lambda name: False, ema_decay=0.999, save_seconds=120):
    """Minimises loss(step's generator) over `model` and returns the exponential moving average of its weights.

    AdamW takes the parameters, or Muon those of which muon(name) says so.

    loss: called with a torch.Generator that depends on (seed, step) alone, so a run that was killed and resumed sees
    the batches that an uninterrupted one sees. The checkpoint is folder/name.pt; a finished one is returned at once.
    """
    path = Path(folder) / f"{name}.pt"
    average = copy.deepcopy(model).requires_grad_(False)
    matrices = [parameter for name, parameter in model.named_parameters() if muon(name)]
    others = [parameter for name, parameter in model.named_parameters() if not muon(name)]
    # betas[1]: the default 0.999 averages over more steps than a short training has noise to smooth.
    optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
    if matrices:
        optimizers.append(Muon(matrices, lr=lr))
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True, map_location="cpu")
        first = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, known in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)

    def checkpoint(step):
        save(
            {
                "step": step,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            },
            path,
        )

    saved, running = time.time(), None
    with tqdm(total=steps, initial=min(first, steps), desc=name, mininterval=5, smoothing=0.05) as bar:
        for step in range(first, steps):
            generator = torch.Generator().manual_seed(hash((seed, step)) % 2**63)
            value = loss(generator)
            model.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, steps, lr)
                optimizer.step()

            decay = min(ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
            bar.update()
            if time.time() - saved > save_seconds:
                checkpoint(step + 1)
                saved = time.time()
    if first < steps:
        checkpoint(steps)
    return average.eval()
