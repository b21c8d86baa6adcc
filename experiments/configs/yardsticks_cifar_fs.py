"""Nothing of its own: the accepted former name of `baselines_cifar_fs.py`."""

from experiments.configs.baselines_cifar_fs import get_config as get_config
