import sys

from ldm_jax.cli import main

sys.exit(main())
