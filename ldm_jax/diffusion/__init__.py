"""The mathematics of diffusion on arrays: no networks, no training code."""
