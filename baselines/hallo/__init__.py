"""Hallo (Xu et al. 2024): segments in sequence, by diffusion over an autoencoder's latents."""
