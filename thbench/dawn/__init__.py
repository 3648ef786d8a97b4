"""DAWN (Cheng et al. 2024): all frames at once, by diffusion over latent flows."""
