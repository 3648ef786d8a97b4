"""FD2Talk (Yao et al. 2024): motion by diffusion over coefficients, then frames in latents."""
