"""The teachers, run live or read from a cache, and the supervision of a grade by them."""
