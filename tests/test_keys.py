"""Keys of randomness: one a purpose, and what becomes of runs that had others."""

import json
import pathlib
import re

import harness_toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from experiments import train
from experiments.harness import checkpointing, loop, stopping
from experiments.harness import workdir as workdir_lib
from experiments.harness.method import Schedule
from experiments.harness.options import CheckpointOptions
from experiments.inputs import command_line, former_keys
from experiments.inputs.options import DataOptions, TeacherRecipe
from experiments.run import REPOSITORY
from experiments.stages import pretrain
from free_jax import keys, load_zoo
from free_jax.errors import InputError
from free_jax.zoo import pretraining

# Every purpose of a run's seed, and what is numbered below it.
OF_A_RUN = {
    "init": 0,
    "step": 1001,
    "evaluation": 0,
    "selection": 0,
    "sabotage": 3,
    "probe": 0,
    "grouping": 0,
    "task versions": 5,
    "random initialisation": 0,
    "most central teacher": 0,
    "robust hyper-network": 0,
    "whitening scenes": 0,
    "recover": 0,
    "teachers": 0,
    "chosen teachers": 0,
}
OF_RECOVERY = {
    "generator": 3,
    "teacher": 1001,
    "classes": 1001,
    "dead leaves": 0,
    "round": 5,
}
OF_PRETRAINING = {"init": 0, "epoch": 1001}
OF_META_TRAINING = {"init": 0, "step": 1001}
OF_GROUPING = {"embedding": 0}
OF_CHOICE = {"probes": 0}
OF_NUMPY = (
    "class draw",
    "held-out classes",
    "calibration images",
    "sabotage",
    "colluding names",
)


def derived(root, purposes):
    """All keys below a root, as rows of their data, the root's own included."""
    found = [jax.random.key_data(root)[None]]
    for purpose, count in purposes.items():
        found.append(jax.random.key_data(keys.named(root, purpose))[None])
        if count:
            each = jax.vmap(lambda n, p=purpose: keys.named(root, p, n))
            found.append(jax.random.key_data(each(np.arange(count))))
    return np.concatenate(found)


def test_no_two_purposes_of_a_run_share_a_key():
    root = jax.random.key(0)
    recovery = keys.named(root, "recover")
    rows = [
        derived(root, OF_A_RUN),
        derived(recovery, OF_RECOVERY)[1:],
        derived(keys.named(root, "teachers"), OF_PRETRAINING)[1:],
        derived(keys.named(recovery, "generator", 0), OF_META_TRAINING)[1:],
        derived(keys.named(recovery, "round", 1), OF_RECOVERY)[1:],
        derived(keys.named(root, "grouping"), OF_GROUPING)[1:],
        derived(keys.named(root, "chosen teachers"), OF_CHOICE)[1:],
    ]
    rows = np.concatenate(rows)
    assert len(np.unique(rows, axis=0)) == len(rows) > 5000


def test_the_purposes_above_are_those_of_the_code():
    used, drawn = set(), set()
    arguments = r'\((?:[^"()]|\([^"()]*\))*"([^"]+)"'
    for package in ("experiments", "free_jax"):
        for file in (REPOSITORY / package).rglob("*.py"):
            text = file.read_text()
            if package == "experiments":
                assert "fold_in" not in text, f"{file}: use free_jax.keys.named"
            used |= set(re.findall(r"(?:keys\.named|run\.key)" + arguments, text))
            drawn |= set(re.findall(r"(?:named_rng|run\.rng)" + arguments, text))
    known = OF_A_RUN | OF_RECOVERY | OF_PRETRAINING | OF_META_TRAINING
    known |= OF_GROUPING | OF_CHOICE
    assert used == set(known) and drawn == set(OF_NUMPY)


def test_numpy_draws_differ_by_purpose_and_seed_and_repeat():
    drawn = [
        tuple(keys.named_rng(seed, purpose).permutation(50))
        for seed in (0, 1)
        for purpose in OF_NUMPY
    ]
    assert len(set(drawn)) == len(drawn)
    assert drawn[0] == tuple(keys.named_rng(0, OF_NUMPY[0]).permutation(50))


def test_a_traced_number_gives_the_same_key():
    root = jax.random.key(3)
    traced = jax.jit(lambda n: keys.named(root, "step", n))(7)
    assert traced == keys.named(root, "step", 7)


def test_a_model_does_not_start_as_a_teacher_that_its_run_drew_did(tmp_path):
    count, run = 3, harness_toy.open_run(tmp_path)

    def kernels(drawn):
        return drawn["params"]["conv0"]["kernel"]

    def starts(key):
        """Of a method that draws with the key it is given, or with parts of it."""
        each = jnp.stack([key, *jax.random.split(key, count)])
        drawn = jax.vmap(toy.TINY.init)(each)
        return harness_toy.State(jnp.int32(0), kernels(drawn))

    method = harness_toy.method(run.map_tasks)
    method = method._replace(algorithm=method.algorithm._replace(init=starts))
    judge, schedule = harness_toy.JUDGE, Schedule(1)
    training = loop._Training(run, method, schedule, judge, None)
    mine = np.asarray(training.state.x)
    training.close()
    trainer = (
        lambda key: pretraining.TeacherState(toy.TINY.init(key), ()),
        # Teachers stay what they were drawn as.
        lambda bank, task: (task[2], pretraining.EpochInfo(0.0 * bank, 0.0 * bank)),
        lambda bank, task: bank,
    )
    training = pretrain._Training(
        TeacherRecipe(num_teachers=count, epochs=1),
        run,
        pretrain._Plan(toy.TINY, trainer, np.zeros((count, toy.WAY), np.int32), []),
        (),
        jnp.float32(1),
        DataOptions(),
        CheckpointOptions(),
    )
    state = training._trained(*training.parts().popitem())
    theirs = np.asarray(kernels(state.variables))
    assert theirs.shape == (count, *mine.shape[1:])
    for teacher in theirs:
        assert all(not np.allclose(teacher, model) for model in mine)


@pytest.mark.slow
def test_a_model_does_not_start_as_a_teacher_of_its_run_did(tmp_path, monkeypatch):
    started = []

    def only_init(run, method, schedule, judge, service):
        training = loop._Training(run, method, schedule, judge, service)
        started.append(training.model_of(training.state))
        training.close()
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", only_init)
    argv = ["run.py", "--config=experiments/configs/demo.py:smoke,free"]
    argv += ["--config.student.kwargs.width=4", "--config.generator.width=4"]
    argv += ["--config.zoo.pretrain.model.kwargs.width=4"]
    # At this rate teachers stay what they were drawn as.
    argv += ["--config.zoo.pretrain.epochs=1", "--config.eval.val_episodes=0"]
    argv += ["--config.zoo.pretrain.optimizer.kwargs.learning_rate=0.0"]
    train.main(command_line.parse(argv).config, str(tmp_path))
    teachers = load_zoo(tmp_path / "zoo").teachers[0].variables["params"]
    mine, theirs = (x["conv1"]["kernel"] for x in (started[0]["params"], teachers))
    assert theirs.shape[1:] == mine.shape
    for teacher in theirs:
        assert not np.allclose(teacher, mine)


# ------------------------------------------------ working directories of other keys


@pytest.fixture(scope="module")
def config():
    file = "experiments/configs/maml_real_cifar_fs.py:smoke"  # Soonest compiled.
    argv = ["run.py", f"--config={file}", "--config.student.kwargs.width=4"]
    argv += ["--config.learner.kind=protonet", "--config.eval.val_episodes=0"]
    argv += ["--config.eval.yardsticks=()", "--config.eval.episodes=2"]
    argv += ["--config.num_steps=2", "--config.eval.shots=(1,)"]
    return command_line.parse(argv).config


def changed(config, **values):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in values.items()}
    )
    return other


def test_a_run_notes_how_its_keys_are_made_and_resumes(tmp_path, monkeypatch):
    config = harness_toy.get_config()

    def main():
        return harness_toy.main(config, str(tmp_path))

    stop = stopping.StopRequest
    with monkeypatch.context() as patch:
        patch.setattr(stop, "reached", lambda self, step: step == 1)
        assert main() == {"stopped_at": 1}
    note = tmp_path / "format.json"
    assert json.loads(note.read_text()) == {"keys": 2}
    # As an earlier version left it: it would go on with other numbers.
    note.unlink()
    with pytest.raises(InputError, match="holds an unfinished run of an earlier") as e:
        main()
    assert "finish it with that version, or use another --workdir" in str(e.value)
    assert "\n" not in str(e.value)
    note.write_text('{"keys": 3}')
    with pytest.raises(InputError, match="of a later version"):
        main()
    note.write_text('{"keys": 2}')
    assert main()["steps"] == 6


@pytest.mark.slow
def test_a_finished_run_of_an_earlier_version_is_read_and_evaluated_anew(
    config, tmp_path, monkeypatch
):
    before = train.main(config, str(tmp_path))
    note = tmp_path / "format.json"
    note.unlink()
    forbidden = lambda *a: pytest.fail("a finished run was trained on")  # noqa: E731
    monkeypatch.setattr(loop._Training, "step", forbidden)
    again = train.main(config, str(tmp_path))
    assert again["results"] == before["results"]
    for more in ({"num_steps": 3}, {"max_seconds": 5.0}):
        with pytest.raises(InputError, match=f"{next(iter(more))} cannot change"):
            train.main(changed(config, **more), str(tmp_path))
    note.unlink()
    # Stopped in the middle of it, too: it goes on with the same command.
    other = changed(config, eval__episodes=3)
    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "requested", property(lambda self: True))
        assert train.main(other, str(tmp_path)) == {"stopped_at": 2}
    anew = train.main(other, str(tmp_path))
    (cells,) = anew["results"].values()
    assert len(cells["1"]["inductive"]["per_episode"]) == 3
    assert anew["steps"] == 2 and anew["curve"] == before["curve"]
    assert json.loads(note.read_text())["keys"] == 1


def test_what_other_keys_would_draw_anew_is_only_read(tmp_path):
    mine = {"eval": {"episodes": 5}, "panel": {"held_out_classes": 7}}
    may_change = ("eval.episodes",)
    folder = pathlib.Path(tmp_path)
    (folder / "config.json").write_text(json.dumps(mine))
    result = {"config_hash": checkpointing.files.config_hash(mine)}
    (folder / "result.json").write_text(json.dumps(result))
    workdir_lib.claim_workdir(folder, mine, may_change=may_change).release()
    other = mine | {"eval": {"episodes": 6}}
    with pytest.raises(InputError, match=r"with panel\.held_out_classes, whose"):
        workdir_lib.claim_workdir(
            folder, other, may_change=may_change, redrawn=former_keys.REDRAWN
        )


def test_a_failed_start_of_an_earlier_version_is_free(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".lock").touch()
    workdir_lib.claim_workdir(tmp_path, {"seed": 1}).release()
    assert json.loads((tmp_path / "format.json").read_text()) == {"keys": 2}
