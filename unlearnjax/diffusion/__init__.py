"""Diffusion: schedules and conversions, denoisers, guidance, samplers, and what they draw."""

from unlearnjax.diffusion.denoiser import Process, denoiser, guided, noise_of, null_like
from unlearnjax.diffusion.generation import answer_set, bank, draw_images, replay
from unlearnjax.diffusion.samplers import (
    Steps,
    ddim,
    ddim_steps,
    ddpm,
    heun,
    sample_until,
    trajectory,
)
from unlearnjax.diffusion.schedules import (
    Schedule,
    add_noise,
    coefficients,
    convert,
    cosine,
    from_edm,
    linear,
    noise_level,
    scaled_linear,
    time_of,
    to_edm,
    velocity,
)

__all__ = [
    "Process",
    "Schedule",
    "Steps",
    "add_noise",
    "answer_set",
    "bank",
    "coefficients",
    "convert",
    "cosine",
    "ddim",
    "ddim_steps",
    "ddpm",
    "denoiser",
    "draw_images",
    "from_edm",
    "guided",
    "heun",
    "linear",
    "noise_level",
    "noise_of",
    "null_like",
    "replay",
    "sample_until",
    "scaled_linear",
    "time_of",
    "to_edm",
    "trajectory",
    "velocity",
]
