from ldm_jax.cli import program

program()
