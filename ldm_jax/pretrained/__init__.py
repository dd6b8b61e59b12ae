"""Between our pytrees and files that others read, both directions."""

from ldm_jax.pretrained.parts import load_part, save_part

__all__ = ["load_part", "save_part"]
