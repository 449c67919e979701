"""The teachers: asked live or read from the cache, and what a grade asks of them."""
