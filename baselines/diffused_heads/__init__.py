"""Diffused Heads (Stypulkowski et al. 2024): one frame after another, by diffusion over pixels."""
