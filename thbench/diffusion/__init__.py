"""Noise processes and samplers, on diffusers' schedules."""
