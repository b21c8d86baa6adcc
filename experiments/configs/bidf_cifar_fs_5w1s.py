"""BiDf-MKD on CIFAR-FS, 5-way 1-shot: teachers that can only be asked.

    python experiments/run.py --config=experiments/configs/bidf_cifar_fs_5w1s.py \
        --workdir=runs/bidf_1s --config.data.path=DIR/cifar_fs --config.zoo.path=DIR

A local zoo is treated as black boxes; ``result.json`` counts what each was asked.

Variants: ``:api=SS`` (default) one data set and architecture, ``:api=SH`` several
architectures (``--config.zoo.path=CONV4,RESNET10,RESNET18``), ``:api=MH`` several data
sets, image sizes and architectures (converted zoos); ``:white_box`` differentiates the
teachers, for comparison; ``:cpu`` ten minutes on one core; ``:reference`` the released
code's behaviour; ``:smoke`` a minute on procedural images with a small zoo of its own;
``:seed=N``; several are joined by commas.

Reference: Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning",
ICML 2023.
"""

from experiments.configs import common


def get_config(variant: str = "", shots: int = 1):
    """Returns the config of a variant."""
    chosen = common.parse_variant(
        variant,
        smoke=False,
        reference=False,
        cpu=False,
        white_box=False,
        api="SS",
        seed=-1,
    )
    config = common.bidf_config("cifar_fs")
    if chosen.api not in ("SS", "SH", "MH"):
        raise ValueError(f"api={chosen.api!r}: choose SS, SH or MH")
    if chosen.api == "MH":
        # Teachers are shown the size they know; the meta-model takes any.
        config.student.kwargs.global_pool = True
    if chosen.cpu:
        common.cpu_bidf(config)
    if chosen.reference:
        common.released_bidf(config)
    if chosen.white_box:
        config.black_box.gradient = "white_box"
    config.replay.shots = 1 if chosen.cpu else shots
    config.eval.shots = (shots,)
    if chosen.smoke:
        common.smoke(config)
    if chosen.seed >= 0:
        config.seed = chosen.seed
    return config
