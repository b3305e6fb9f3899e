"""Where runs write: folders of their own, whoever begins in the same second, and none that another run holds."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from src.errors import UserError
from src.file_lock import only_run
from src.tasks import entry, schema
from src.tasks.entry import CONFIGS
from src.tasks.launching import check_places
from src.tasks.run_places import OwnFolder, is_named, make_own


def composed(task: str, *overrides: str) -> DictConfig:
    """Compose a command's configuration, with Hydra's own keys."""
    schema.register()
    with initialize_config_dir(str(CONFIGS)):
        config = compose(task, list(overrides), return_hydra_config=True)
    GlobalHydra.instance().clear()
    with open_dict(config):
        config.hydra.job.config_name = task
    return config


def test_as_many_folders_are_made_as_there_are_who_want_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_own, [tmp_path / "logs/12-00-00"] * 8))
    assert sorted(path.name for path in made) == ["12-00-00", *(f"12-00-00_{number}" for number in range(2, 9))]
    assert all(path.is_dir() for path in made)
    (tmp_path / "file").touch()
    assert make_own(tmp_path / "file/12-00-00") == tmp_path / "file/12-00-00"
    (tmp_path / "away").symlink_to(tmp_path / "unmounted")
    assert make_own(tmp_path / "away/12-00-00") == tmp_path / "away/12-00-00"


@pytest.mark.parametrize("task", ["prepare", "train", "eval", "predict", "export"])
def test_runs_and_multiruns_that_begin_in_one_second_have_folders_of_their_own(task: str, tmp_path: Path) -> None:
    """Their outputs were mixed, and both ended well."""
    config = composed(task, f"paths.logs={tmp_path}")
    for kind, key in (("run", "on_run_start"), ("sweep", "on_multirun_start")):
        wanted = Path(config.hydra[kind].dir)
        wanted.mkdir(parents=True)  # by the other one
        getattr(OwnFolder(), key)(config)
        own = config.hydra[kind].dir
        assert own == f"{wanted}_2"
        assert Path(own).is_dir()
    assert list(config.hydra.overrides.hydra)[-1] == f"hydra.sweep.dir={own}"


def test_the_first_process_alone_claims_the_folder_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    for task, made in (("train", False), ("eval", True)):  # of which each of srun's tasks is a run
        OwnFolder().on_run_start(composed(task, f"paths.logs={tmp_path / task}"))
        assert (tmp_path / task).exists() == made


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([], False),
        (["hydra.run.dir=logs/train/2026-11-30_09-10-11"], True),  # $(date +%F_%H-%M-%S)
        (["++hydra.run.dir=logs/train/${now:%Y}"], True),
        (["experiment=demo"], True),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_folder_is_named_by_who_named_it_and_not_by_what_its_name_looks_like(
    given: list[str], named: bool, rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a script named after the time was taken for one that nobody had: it went on with another run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", rank)
    for _ in range(2):  # the second one that begins in this second
        config = composed("train", *given)
        with open_dict(config):
            config.hydra.overrides.hydra = [words for words in given if "hydra." in words]
        OwnFolder().on_run_start(config)
        assert is_named(config.hydra) == named


def test_a_folder_in_a_configuration_is_named_even_if_it_is_the_one_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = composed("train")
    with open_dict(config):
        config.hydra.run.dir = "."  # as in an experiment
    OwnFolder().on_run_start(config)
    assert is_named(config.hydra)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_somebody_named_is_taken_as_it_is(tmp_path: Path) -> None:
    for given in (tmp_path / "mine", f"{tmp_path}/${{now:%Y}}"):
        config = composed("predict", f"hydra.run.dir={given}", f"hydra.sweep.dir={given}")
        wanted = Path(config.hydra.run.dir)
        wanted.mkdir()
        own = OwnFolder()
        own.on_run_start(config)
        own.on_multirun_start(config)
        own.on_multirun_end(config)
        assert Path(config.hydra.run.dir) == Path(config.hydra.sweep.dir) == wanted
        assert wanted.is_dir()


def test_a_refused_multirun_leaves_no_folder(tmp_path: Path) -> None:
    own, config = OwnFolder(), composed("eval", f"paths.logs={tmp_path}")
    own.on_multirun_start(config)
    assert Path(config.hydra.sweep.dir).is_dir()
    own.on_multirun_end(config)
    assert not Path(config.hydra.sweep.dir).exists()


@pytest.mark.parametrize("task", ["train", "eval"])
def test_the_folder_of_a_run_is_refused_before_hydra_writes_there(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "mine"
    with only_run(run):
        before = sorted(run.iterdir())
        for given in (f"hydra.run.dir={run}", f"output_dir={run}"):
            arguments = [f"{task}.py", "data_dir=x", given, f"paths.logs={tmp_path / 'logs'}"]
            monkeypatch.setattr(sys, "argv", arguments + ["checkpoint=c"] * (task == "eval"))
            with pytest.raises(SystemExit, match=f"{task}.py: error: .*mine is being written by another run"):
                OwnFolder().on_run_start(composed(task, *arguments[1:3]))
        assert sorted(run.iterdir()) == before
        monkeypatch.setenv("LOCAL_RANK", "1")
        if task == "train":  # the others of a training share its folder
            OwnFolder().on_run_start(composed(task, f"hydra.run.dir={run}"))


def test_an_evaluation_holds_its_folder(tmp_path: Path) -> None:
    config = OmegaConf.create({"output_dir": str(tmp_path / "mine")})
    with (
        entry._held("eval", config),
        pytest.raises(UserError, match="written by another run"),
        entry._held("eval", config),
    ):
        pass
    with entry._held("predict", config), entry._held("predict", config):
        pass


def test_a_grid_of_prepare_needs_a_data_folder_for_each() -> None:
    """The second one replaced that of the first."""
    given = [composed("prepare", "image=a", "label=b", "data_dir=data/mine", f"chip.size={size}") for size in (64, 128)]
    with pytest.raises(
        UserError, match=r"data_dir=data/mine is given to 2 runs.*data_dir='data/mine/\$\{hydra:job.num\}'"
    ):
        check_places(given)
    check_places(composed("eval", "checkpoint=c", "data_dir=data/mine", f"split={part}") for part in ("test", "train"))
    check_places(composed("prepare", "image=a", "label=b", "data_dir='d/${hydra:job.num}'") for _ in range(2))
    check_places(composed("prepare", "image=a", "label=b") for _ in range(2))


@pytest.mark.parametrize("task", ["train", "predict"])
def test_a_grid_needs_a_folder_of_hydra_s_for_each(task: str) -> None:
    """The second training put the first aside, and the table called the wrong checkpoint the best."""

    def check(subdir: str, *more: str) -> None:
        own = ["checkpoint=c", "image=s.tif"] if task == "predict" else []
        check_places(
            composed(task, *own, "hydra.sweep.dir=grid", f"hydra.sweep.subdir='{subdir}'", f"threads={threads}", *more)
            for threads in (1, 2)
        )

    for given, shown in (("a/", "a"), ("${hydra.job.name}", "test")):
        words = (
            rf"hydra\.sweep\.subdir={shown} is given to 2 runs.*Number them: .*subdir='{shown}/\${{hydra\.job\.num}}'"
        )
        with pytest.raises(UserError, match=words):
            check(given, f"hydra.job.name={shown}")
    for given in ("${hydra.job.num}", "${threads}", "a/${hydra.job.id}", "a/${hydra:job.num}"):
        check(given)
    check("a", f"{'output' if task == 'predict' else 'output_dir'}='b/${{threads}}'")
