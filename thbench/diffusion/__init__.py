"""The noise process and the sampler: a thin seam over diffusers' schedulers."""
