"""The demo page: a model tried in a browser (`ldm-jax demo MODEL`, extra `[demo]`).

Here belongs what a page adds to a model: limits on what anybody may ask, previews while it draws, pictures that carry
their settings, an explanation step by step, and the page itself. Gradio is known to page.py alone; all else works
without it. How a model draws is in pipeline/ and tasks/.
"""
