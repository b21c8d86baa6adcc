"""Configs, data, harness and command line of the `free_jax` experiments."""
