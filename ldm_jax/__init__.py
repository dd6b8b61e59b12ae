"""Latent diffusion models in JAX and Flax."""
