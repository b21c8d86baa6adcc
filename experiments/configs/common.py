"""Former home of what config files share; see `variants` and the methods' `Config`."""

from experiments.configs.variants import DEFAULTS, adam, parse_variant

__all__ = ["DEFAULTS", "adam", "parse_variant"]
