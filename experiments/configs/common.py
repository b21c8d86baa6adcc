"""What all config files share; imports nothing heavy, so that errors come at once."""

import ast
import difflib
from typing import Any

import ml_collections

# Variants every config file offers unless it declares its own; a seed of -1 stands for
# the config's own.
DEFAULTS = {"smoke": False, "reference": False, "cpu": False, "seed": -1}


def parse_variant(variant: str = "", **defaults: Any) -> ml_collections.ConfigDict:
    """Parses what follows the colon in ``--config=file.py:smoke,seed=3``.

    A name alone switches a flag on; ``name=value`` sets a value of the default's type.

    >>> parse_variant("smoke,seed=3").to_dict()
    {'cpu': False, 'reference': False, 'seed': 3, 'smoke': True}

    Args:
      variant: comma-separated names and assignments; may be empty.
      **defaults: known names with their defaults; `DEFAULTS` if none are given.

    Returns:
      The values, by attribute or by key.

    Raises:
      ValueError: a name is unknown or a value has another type.
    """
    defaults = defaults or DEFAULTS
    values = dict(defaults)
    for item in filter(None, (part.strip() for part in variant.split(","))):
        name, assigned, text = item.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"unknown variant {name!r}{hint} Known: {_describe(defaults)}"
            )
        values[name] = _convert(name, text if assigned else "True", defaults[name])
    return ml_collections.ConfigDict(values)


def _convert(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text.islower() else text)
    except (SyntaxError, ValueError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        kind = type(default).__name__
        raise ValueError(f"variant {name!r} takes a value of type {kind}, not {text!r}")
    return value


def _describe(defaults: dict[str, Any]) -> str:
    return ", ".join(
        name if isinstance(value, bool) else f"{name}={value}"
        for name, value in defaults.items()
    )


def adam(learning_rate: float, b1: float = 0.9) -> dict[str, Any]:
    """An optimizer section: optax.adam."""
    return {"name": "adam", "kwargs": {"learning_rate": learning_rate, "b1": b1}}


def teacher_recipe(num_teachers: int) -> dict[str, Any]:
    """How teachers are trained: the released recipe, shortened by cosine decay."""
    return {
        "num_teachers": num_teachers,  # 0: no zoo is trained
        "way": 5,
        "model": {"name": "conv4", "kwargs": {"width": 32}},
        "epochs": 15,  # 60 without decay in the released codes
        "batch_size": 128,
        "train_fraction": 0.8,  # of each class, in sorted file order
        "flip": True,
        "optimizer": adam(0.01),
        "cosine": True,
        "clip_norm": 50.0,
    }


def data_config(name: str) -> dict[str, Any]:
    """Where the images are; `path` is a folder {train,val,test}/<class>/*."""
    return {"name": name, "path": "", "image_size": 0, "cache_dir": ""}


def zoo_config() -> dict[str, Any]:
    """The teachers.

    `path` is a folder of .pth or .safetensors teachers, or a converted zoo; several,
    separated by commas, make a heterogeneous zoo.
    """
    return {
        "path": "",
        "apis": "",  # instead of a path: list of endpoints, see experiments/apis.py
        "num_teachers": 0,  # the first ones of each group; 0: all
        "sabotage": 0.0,  # share broken on purpose, to see what it costs
        "pretrain": teacher_recipe(0),
    }


def harness_config() -> dict[str, Any]:
    """Logging, checkpoints and devices."""
    return {
        "max_seconds": 0.0,  # of training (and recovery); 0: all steps are made
        # Or bfloat16: what teachers and meta-model compute in; parameters, batch
        # statistics and outputs stay float32.
        "dtype": "float32",
        "host_devices": 1,  # splits the CPU into that many devices
        "mesh": {"task": 1, "local": "auto"},  # task=-1: all devices
        "log": {"every_steps": 1, "every_secs": 10.0, "tensorboard": False},
        "checkpoint": {"every_steps": 0, "every_secs": 60.0},
    }


def free_config(data: str = "cifar_fs") -> ml_collections.ConfigDict:
    """Every key of a FREE run, with the values that measured best on validation.

    `released_code` turns a copy into what the published code does.
    """
    return ml_collections.ConfigDict(
        {
            "run": "meta_train",
            "algorithm": "free",
            "seed": 0,
            "way": 5,
            "num_steps": 1000,
            "data": data_config(data),
            "zoo": zoo_config(),
            "student": {"name": "conv4", "kwargs": {"width": 32}},
            "generator": {"width": 64, "latent_dim": 256, "labels": "concat"},
            "inversion": {
                "teachers_per_step": 4,
                "num_steps": 5,
                "images_per_class": 20,
                "warmup_steps": 20,
                # 1e-3 for both in FREE; these are Fast-Datafree's for five steps.
                "generator_optimizer": adam(3e-3, b1=0.5),
                "latent_optimizer": adam(1e-2, b1=0.5),
                "outer_optimizer": adam(1e-3, b1=0.5),
                "outer_state": "persistent",
                "meta_gradient": "last",
                "keep": "last",
                "objective": {
                    "cross_entropy": 1.0,
                    "moments": 0.1,
                    "adversarial": 1.0,
                    "total_variation": 0.0,
                    "agreement": "kl",
                    "student_gradient": True,
                    "crop_padding": 4,
                    "augment_per_image": True,
                },
            },
            "memory": {"per_class": 400, "store": "all"},
            "align": {
                "distill": "kl",
                "hard_label_weight": 0.0,
                "scale": 67.0,
                "optimizer": adam(1e-3),
            },
            "learner": {
                "kind": "maml",  # maml, anil or protonet
                "initial": "",  # model.npz of an earlier run; "": random
                "first_order": False,
                "inner_lr": 0.01,
                "train_steps": 5,
                "test_steps": 10,
                "test_lr": 0.0,  # 0: inner_lr
            },
            "optimizer": adam(3e-3),  # 1e-3 in the released code
            "replay": {
                "shots": 1,
                "queries": 15,
                "episodes_per_update": 10,
                "patience": 10,
                "max_updates": 20,
                "augment": True,  # crop and flip; not in the released code
            },
            "eval": eval_config(),
            **harness_config(),
        }
    )


def bidf_config(data: str = "cifar_fs") -> ml_collections.ConfigDict:
    """Every key of a BiDf-MKD run; `released_bidf` is what the published code does."""
    free = free_config(data)
    return ml_collections.ConfigDict(
        {
            "run": "meta_train",
            "algorithm": "bidf",
            "seed": 0,
            "way": 5,
            "num_steps": 300,  # one teacher a step
            "data": data_config(data),
            "zoo": zoo_config(),
            "student": {"name": "conv4", "kwargs": {"width": 32}},
            "generator": {
                "width": 64,
                "latent_dim": 256,
                "labels": "concat",
                "start": "shared",  # or fresh for each inversion
            },
            "inversion": {
                "num_steps": 40,
                "images_per_class": 30,  # of the support set, and of the query set
                "boundary_after": 20,  # steps
                "generator_optimizer": adam(3e-3, b1=0.5),
                "latent_optimizer": adam(1e-2, b1=0.5),
                # Half of the way to what the step's inversions found, on average.
                "outer_optimizer": {"name": "sgd", "kwargs": {"learning_rate": 0.25}},
                "meta_gradient": "reptile",
                "keep": "last",  # or best, by loss
                "objective": {
                    "cross_entropy": 1.0,
                    "moments": 0.0,  # a black box tells none
                    "adversarial": 1.0,
                    "total_variation": 0.0,
                    "agreement": "kl",
                    "student_gradient": True,
                    "crop_padding": 4,
                    "augment_per_image": True,
                },
            },
            "black_box": {
                "gradient": "zero_order",  # or white_box, for comparison
                "gives": "logits",  # or probabilities, rounded, top_k, labels
                "digits": 3,  # of rounded probabilities
                "top_k": 2,  # classes told
                "num_directions": 4,
                "smoothing": 0.5,
                "frequencies": 5,  # 0: all pixels
                "antithetic": False,
                "at_once": 4,
            },
            "distill": {"loss": "kl", "inner_lr": 0.01, "num_steps": 10},
            "memory": {"per_class": 600},
            "learner": free.learner.to_dict(),
            "optimizer": adam(3e-3),  # 1e-3 in the released code
            "replay": {
                "shots": 1,
                "queries": 15,
                "episodes_per_update": 4,
                "patience": 200,
                "max_updates": 100,  # 200 updates without a new best in the code
                "augment": True,  # crop and flip; not in the released code
            },
            "eval": eval_config(),
            **harness_config(),
        }
    )


def eval_config() -> dict[str, Any]:
    """How a run is evaluated."""
    return {
        "shots": (1,),
        "queries": 15,
        "split": "test",  # classes of the final table; val for ablations
        "episodes": 600,
        "every_steps": 20,
        "val_episodes": 100,
        "select": "last",  # or pseudo, val; never test
        "protocol": "transductive",  # the one that selection looks at
        "yardsticks": ("random", "average", "teacher", "finetune", "panel"),
        "temperature": 4.0,  # of the panel's softmax
    }


def panel_config(data: str = "cifar_fs") -> ml_collections.ConfigDict:
    """Every key of a panel distillation."""
    return ml_collections.ConfigDict(
        {
            "run": "meta_train",
            "algorithm": "panel",
            "seed": 0,
            "way": 5,
            "num_steps": 8000,
            "data": data_config(data),
            "zoo": zoo_config(),
            "student": {"name": "conv4", "kwargs": {"width": 32}},
            "recover": {
                "backend": "pixels",  # generator: one a teacher; five: meta-trained
                "images_per_class": 40,  # 0: scenes only, teachers as black boxes
                "num_steps": 50,
                "learning_rate": 0.1,
                "generator_width": 32,
                "generator_rate": 0.01,  # learning_rate is that of the latents
                # of FIVE's meta-training: outer steps, their rate and their teachers
                "meta_steps": 60,
                "meta_rate": 1e-3,
                "meta_teachers": 2,
                "teachers_at_once": 1,
                "start": "scenes",  # what pixels are optimised from, or noise
                "reuse": "",  # workdir of an earlier panel run: its images and answers
                # Workdir of an earlier panel run: its images and answers are kept, and
                # more are recovered where its model and a teacher disagree.
                "renew": "",
                "scenes": 10000,  # synthetic images added to the recovered ones
                "objective": {
                    "cross_entropy": 1.0,
                    "moments": 1.0,
                    "adversarial": 1.0,  # disagreement, where images are renewed
                    "total_variation": 0.3,  # more from noise
                    "crop_padding": 2,
                    "edges": "wrap",
                },
            },
            "panel": {
                "teachers": 0,  # how many are asked; 0: all
                # Classes known to no teacher that is asked: episodes of their images,
                # recovered from the others, judge a setting without data.
                "held_out_classes": 0,
                "trust": True,  # leave out teachers that tell nothing or contradict
            },
            "distill": {
                "optimizer": adam(1e-2),
                "cosine": True,
                "batch_size": 128,
                "groups": 1,  # of a batch, which a mesh splits over devices
                "temperature": 2.0,
                "crop_padding": 0,  # teachers described the image unmoved
                "edges": "black",  # or wrap
                "flip": True,
                "mix": "none",  # mixup or cutmix
                "similarity": 0.0,
                # Afterwards batch norm and descriptions are fitted to inversions from
                # scenes: to how many; 0 (and inversions from noise): left as trained.
                "calibrate_images": 4000,
                "whitening": 0.5,  # of descriptions; smaller is more, 0 is none
            },
            # Adaptation by gradient: of the yardsticks, with a new head, and, by rate
            # and test_steps alone, of the distilled model.
            "learner": {
                "kind": "maml",
                "first_order": False,
                "inner_lr": 0.01,
                "train_steps": 5,
                "test_steps": 10,
                "test_lr": 0.0,
                "head_scale": 10.0,  # of logits: cosines to class means
            },
            "eval": {
                **eval_config(),
                "shots": (1, 5),
                "every_steps": 1000,
                "yardsticks": (
                    "random",
                    "average",
                    "teacher",
                    "panel",
                    "panel_heads",
                    "panel_whitened",
                ),
            },
            **harness_config(),
            "log": {"every_steps": 50, "every_secs": 10.0, "tensorboard": False},
        }
    )


def preinverted_config(data: str = "cifar_fs") -> ml_collections.ConfigDict:
    """Every key of meta-learning on tasks that were recovered beforehand."""
    free, panel = free_config(data), panel_config(data)
    kept = ("run", "seed", "way", "data", "zoo", "student", "learner", "optimizer")
    config = ml_collections.ConfigDict({name: free[name] for name in kept})
    config.algorithm = "preinverted"
    config.num_steps = 2000
    config.recover = panel.recover
    config.recover.start, config.recover.num_steps = "noise", 150
    config.recover.objective.total_variation = 1.0
    config.recover.images_per_class, config.recover.scenes = 20, 0
    # There is no panel's model to be new to.
    del config.recover.renew, config.recover.objective.adversarial
    kept = ("shots", "queries", "episodes_per_update", "augment")
    config.replay = {
        **{key: free.replay[key] for key in kept},
        # Whose word an image's class is: of the teacher it was recovered from, or of
        # all.
        "labels": "owner",
    }
    config.eval = free.eval
    config.eval.every_steps = 200
    config.update(harness_config())
    config.log.every_steps = 20
    return config


def yardsticks_config(data: str = "cifar_fs") -> ml_collections.ConfigDict:
    """Every key of a run that trains nothing and evaluates the teachers."""
    free = free_config(data)
    kept = ("run", "seed", "way", "data", "zoo", "student", "learner", "eval")
    config = ml_collections.ConfigDict({name: free[name] for name in kept})
    config.algorithm = "yardsticks"
    config.num_steps = 1
    config.eval.every_steps = 1
    config.eval.val_episodes = 0
    config.eval.yardsticks = (
        "average",
        "ota",
        "dro",
        "teacher",
        "best",
        "finetune",
        "panel",
        "panel_heads",
        "panel_whitened",
    )
    config.update(harness_config())
    return config


def five(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Recovery by FIVE in place of pixels, as `free_config` has it."""
    inversion = free_config().inversion
    config.recover.backend = "five"
    config.recover.num_steps = inversion.num_steps
    config.recover.generator_rate = inversion.generator_optimizer.kwargs.learning_rate
    config.recover.learning_rate = inversion.latent_optimizer.kwargs.learning_rate
    config.recover.objective = inversion.objective
    return config


def released_code(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """FREE's released code where it is well defined (spec section 11.4)."""
    config.seed = 42
    config.generator.labels = "none"
    config.inversion.generator_optimizer = adam(1e-3, b1=0.5)
    config.inversion.latent_optimizer = adam(1e-3, b1=0.5)
    config.optimizer = adam(1e-3)
    config.inversion.outer_state = "fresh"
    config.inversion.objective.moments = 0.0
    config.inversion.objective.agreement = "prob_dot"
    config.inversion.objective.student_gradient = False
    config.inversion.objective.augment_per_image = False
    config.memory.store = "last"
    config.align.distill = "prob_dot"
    config.replay.augment = False
    return config


def released_bidf(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """BiDf-MKD's released code where it is well defined (spec section 11.3)."""
    config.seed = 2022
    config.generator.labels = "none"
    config.generator.start = "fresh"
    inversion = config.inversion
    inversion.num_steps = 200
    inversion.boundary_after = 20
    inversion.generator_optimizer = adam(1e-3, b1=0.5)
    inversion.latent_optimizer = adam(1e-3, b1=0.5)
    inversion.keep = "best"  # by loss; the code's surrogate is an arbitrary number
    inversion.objective.agreement = "l1"
    inversion.objective.student_gradient = False
    inversion.objective.augment_per_image = False
    box = config.black_box
    box.num_directions, box.smoothing, box.frequencies = 100, 0.005, 0
    box.at_once = 20
    config.distill.loss = "prob_dot"
    config.optimizer = adam(1e-3)
    config.replay.augment = False
    config.replay.max_updates = 2000
    return config


def cpu_bidf(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """For one CPU core: some ten minutes in place of hours."""
    config.generator.width = 32
    config.num_steps = 24
    config.inversion.num_steps = 20
    config.inversion.images_per_class = 10
    config.inversion.boundary_after = 6
    config.replay.max_updates = 40
    config.eval.every_steps = 4
    config.eval.val_episodes = 50
    config.eval.yardsticks = ("random",)
    return config


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A minute on two cores: procedural images, three small teachers, a few steps."""
    config.data.name = "procedural"
    config.zoo.pretrain.num_teachers = 3
    config.zoo.pretrain.epochs = 2
    config.zoo.pretrain.model.kwargs.width = 8
    if "width" in config.student.kwargs:
        config.student.kwargs.width = 8
    config.num_steps = 4
    if "recover" in config:
        config.recover.images_per_class = 4
        config.recover.num_steps = 3
        config.recover.scenes = min(config.recover.scenes, 20)
        config.recover.generator_width = 8
        config.recover.meta_steps = 3
    if "distill" in config:
        config.distill.batch_size = 16
    if config.algorithm == "purer":
        config.pixels.teachers_per_step = 2
        config.curriculum.start = 1
        config.curriculum.patience = 1
    if "replay" in config:
        config.replay.max_updates = 2
        config.replay.episodes_per_update = 2
    if "inversion" in config:
        config.generator.width = 8
        if config.algorithm == "bidf":
            config.inversion.num_steps = 3
            config.inversion.images_per_class = 10
            config.inversion.boundary_after = 2
        else:
            config.inversion.warmup_steps = 2
            config.inversion.teachers_per_step = 2
        config.memory.per_class = 40
    config.eval.episodes = 20
    config.eval.val_episodes = 10
    config.eval.every_steps = 2
    config.eval.yardsticks = ("random", "average", "teacher", "panel")
    return config


def cpu_budget(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """For two CPU cores: half an hour or so in place of a GPU's full length.

    The generator is half as wide (four times cheaper), the warm-up shorter.
    """
    config.generator.width = 32
    config.num_steps = 80
    config.inversion.warmup_steps = 12
    return config
