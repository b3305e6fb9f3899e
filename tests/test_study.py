"""Studies: what is done of one, who does it, and what becomes of a process that is killed."""

from __future__ import annotations

import gc
import json
import multiprocessing
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from src.errors import UserError
from src.studies import study as studies
from src.studies.study import Search, Terms, written
from src.studies.study_report import conclude, draw, table
from src.studies.study_storage import RETRIES, TrialPlace, connect, disconnect
from tests.sweeping import forget_signs_of_life, join, wait_for

SPACE = {"lr": FloatDistribution(1e-4, 1e-2, log=True), "loss": CategoricalDistribution(["dice", "focal"])}


def random(begun: bool) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=1 if begun else None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def search(url: str) -> Iterator[Callable[..., Search]]:
    opened: list[Search] = []

    def make(
        total: int = 4,
        terms: Terms | None = None,
        grace: int = 1,
        name: str = "one",
        sampler: Callable[[bool], optuna.samplers.BaseSampler] = random,
    ) -> Search:
        opened.append(Search(url, name, sampler, terms or Terms(SPACE, {"data_dir": "here"}), total, grace))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def left_open() -> Iterator[None]:
    """Optuna leaves a connection to what it cannot use, which Python 3.13 complains about."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def work(search: Search) -> list[int]:
    """Run trials as a process does; returns the numbers of those that it ran."""
    done = []
    while trials := search.claim(1):
        with search.alive(trials):
            search.tell(trials[0], trials[0].params["lr"])
        done.append(trials[0].number)
    return done


def test_a_study_has_as_many_trials_as_it_shall_and_goes_on_when_it_shall_have_more(
    search: Callable[..., Search],
) -> None:
    assert work(search(total=3)) == [0, 1, 2]
    assert work(search(total=3)) == []
    assert work(search(total=5)) == [3, 4]


def test_processes_that_share_a_study_do_every_trial_once_and_none_too_many(search: Callable[..., Search]) -> None:
    searches = [search(total=12, grace=60) for _ in range(3)]  # all live: a slow machine is no reason to doubt it
    done: list[int] = []

    def go(each: Search) -> None:
        done.extend(work(each))
        each.storage.remove_session()

    threads = [threading.Thread(target=go, args=(each,)) for each in searches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = searches[0].counted()
    assert sorted(done) == sorted(trial.number for trial in counted)
    assert len(counted) == 12
    assert len({trial.params["lr"] for trial in counted}) == 12  # nobody drew what another one drew


def test_the_seed_decides_what_a_study_tries(search: Callable[..., Search]) -> None:
    one, other = search(name="one"), search(name="other")
    assert [t.params for t in one.claim(3)] == [t.params for t in other.claim(3)]


def test_one_trial_too_many_is_withdrawn(search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = search(total=1), search(total=1)
    monkeypatch.setattr(one, "missing", lambda: 1)  # both looked before either asked
    assert len(other.claim(1)) == 1
    assert one.claim(1) == []
    assert len(one.counted()) == 1


def test_a_killed_process_loses_no_trial(search: Callable[..., Search], url: str) -> None:
    killed = search(total=2, grace=600).claim(1)[0]  # and no sign of life ever after
    other = search(total=2, grace=600)
    assert work(other) == [1]
    forget_signs_of_life(url, killed._trial_id)
    other.reclaim()
    assert other.await_others()
    repeated = other.claim(1)[0]
    assert repeated.params == killed.params
    other.tell(repeated, 0.5)
    assert not other.await_others()
    assert [trial.number for trial in other.counted()] == [1, 2]
    assert other.study.trials[0].state is TrialState.FAIL
    assert "lost, again as 2" in "\n".join(table(other.study))


def test_a_trial_that_kills_its_process_again_and_again_is_given_up(search: Callable[..., Search]) -> None:
    tries = 0
    each = search(total=1)
    while trials := each.claim(1):
        tries += 1
        with pytest.raises(KeyboardInterrupt), each.alive(trials):
            raise KeyboardInterrupt
    assert tries == RETRIES + 1
    assert [trial.state for trial in each.counted()] == [TrialState.FAIL]


@pytest.fixture
def grid(search: Callable[..., Search]) -> Callable[[int], Search]:
    """Open a study that is a grid over so many values of lr."""

    def make(cells: int) -> Search:
        values = {"lr": list(range(cells))}
        terms = Terms({"lr": CategoricalDistribution(values["lr"])})
        return search(cells, terms, grace=60, sampler=lambda _: optuna.samplers.GridSampler(values))

    return make


def interrupt(search: Search) -> None:
    """Claim a trial, and be interrupted in it."""
    trials = search.claim(1)
    with pytest.raises(KeyboardInterrupt), search.alive(trials):
        raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [[0], [4], [0, 5], [0, 2, 6]])
def test_an_interrupted_grid_does_every_cell_once(grid: Callable[[int], Search], interrupted: list[int]) -> None:
    each = grid(5)
    tried = 0
    while each.missing():
        if tried in interrupted:
            interrupt(each)
        else:
            (trial,) = each.claim(1)
            each.tell(trial, trial.params["lr"])
        tried += 1
    assert tried == 5 + len(interrupted)
    assert sorted(trial.params["lr"] for trial in each.ended()) == [0, 1, 2, 3, 4]
    assert {trial.state for trial in each.ended()} == {TrialState.COMPLETE}


def test_one_trial_too_many_of_a_grid_is_withdrawn_when_the_grid_is_through(
    grid: Callable[[int], Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = grid(1), grid(1)
    assert work(other) == [0]
    monkeypatch.setattr(one, "missing", lambda: 1)  # it looked before the other one asked
    assert one.claim(1) == []
    assert len(one.counted()) == 1


def test_a_grid_takes_back_a_trial_whose_process_was_killed_before_it_had_a_cell(
    grid: Callable[[int], Search], tmp_path: Path
) -> None:
    each = grid(2)
    killed = each.storage.create_new_trial(each.study._study_id)
    (trial,) = each.claim(1)
    each.tell(trial, 0.5)
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        query = "UPDATE trials SET datetime_start = datetime(datetime_start, '-1 hour') WHERE trial_id = ?"
        database.execute(query, (killed,))
    assert work(each) == [2]
    assert sorted(trial.params["lr"] for trial in each.ended()) == [0, 1]


def test_a_trial_whose_process_lives_is_left_to_it(search: Callable[..., Search], url: str) -> None:
    one, other = search(total=1, grace=600), search(total=1, grace=600)
    one.grace = other.grace = 1  # they give signs and wait as if it were short; no stall lasts as long as it is

    def given_up() -> list[int]:
        return other.storage._get_stale_trial_ids(other.study._study_id)

    trials = one.claim(1)
    forget_signs_of_life(url, trials[0]._trial_id)
    assert given_up() == [trials[0]._trial_id]
    with one.alive(trials):
        wait_for(lambda: not given_up())
        assert not other.await_others()
        assert other.claim(1) == []
    assert one.tell(trials[0], 0.5) is TrialState.COMPLETE


def test_a_result_that_comes_too_late_is_dropped(search: Callable[..., Search]) -> None:
    one = search(total=1)
    trial = one.claim(1)[0]
    one.study.tell(trial.number, state=TrialState.FAIL)  # as another process does after the grace period
    assert one.tell(trial, 0.9) is TrialState.FAIL
    assert one.study.trials[0].value is None


def test_a_failure_is_written_down_and_a_mark_makes_a_trial_pruned(search: Callable[..., Search]) -> None:
    each = search()
    failed, pruned = each.claim(2)
    assert each.tell(failed, RuntimeError("out\nof memory")) is TrialState.FAIL
    pruned.report(0.25, 0)
    pruned.set_user_attr("pruned", "after epoch 0")
    assert each.tell(pruned, 0.25) is TrialState.PRUNED
    assert each.study.trials[0].user_attrs["error"] == "out of memory"
    assert each.study.trials[1].value == 0.25


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms({"lr": FloatDistribution(1e-3, 1e-2, log=True)}, {"data_dir": "here"}), "lr in 0.0001 to 0.01"),
        (Terms(SPACE, {"data_dir": "there"}), "data_dir=here, here there"),
    ],
)
def test_a_study_with_another_question_is_refused(search: Callable[..., Search], terms: Terms, words: str) -> None:
    search()
    with pytest.raises(UserError, match=words) as refused:
        search(terms=terms)
    assert "hydra.sweeper.study_name" in str(refused.value)


def leave_study(url: str, stands: Mapping[str, object], *, trials: int) -> None:
    """Leave a study as another program, or an older version of this one, would."""
    database = connect(url)
    study = optuna.create_study(storage=database, study_name="one", direction="maximize")
    for key, value in stands.items():
        study.set_user_attr(key, value)
    for _ in range(trials):
        study.add_trial(optuna.create_trial(value=1.0))
    disconnect(database)


def test_a_study_of_another_program_is_refused(search: Callable[..., Search], url: str) -> None:
    leave_study(url, {}, trials=1)
    with pytest.raises(UserError, match=r"was not begun by train\.py"):
        search()


@pytest.mark.parametrize("stands", [{}, {"space": {"lr": "0.0001 to 0.01 (log)", "loss": "dice, focal"}}])
def test_a_study_whose_process_was_killed_before_it_had_written_all_terms_is_joined(
    search: Callable[..., Search], url: str, stands: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "BEGINNING", 0.2)
    leave_study(url, stands, trials=0)
    assert work(search(total=1)) == [0]
    with pytest.raises(UserError, match="data_dir=here, here there"):
        search(terms=Terms(SPACE, {"data_dir": "there"}))


def test_terms_that_stand_apart_as_they_did_before_are_read(search: Callable[..., Search], url: str) -> None:
    space = {key: written(distribution) for key, distribution in SPACE.items()}
    leave_study(url, {"space": space, "fixed": {"data_dir": "here"}}, trials=1)
    assert work(search(total=2)) == [1]
    with pytest.raises(UserError, match="data_dir=here, here there"):
        search(terms=Terms(SPACE, {"data_dir": "there"}))


def test_whoever_joins_waits_for_the_terms_of_whoever_has_just_begun(search: Callable[..., Search], url: str) -> None:
    database = connect(url)
    study = optuna.create_study(storage=database, study_name="one", direction="maximize")

    def write() -> None:
        study.set_user_attr("terms", {"space": {}, "fixed": {}})
        database.remove_session()

    beginning = threading.Timer(0.5, write)
    beginning.start()
    try:
        with pytest.raises(UserError, match="lr in nowhere"):
            search()
    finally:
        beginning.join()
        disconnect(database)


def test_processes_that_begin_a_study_in_the_same_moment_all_join_it(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(4)
    processes = [context.Process(target=join, args=(url, together)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


@pytest.mark.usefixtures("left_open")
def test_a_locked_storage_is_one_line(url: str, tmp_path: Path) -> None:
    disconnect(connect(url))
    with closing(sqlite3.connect(tmp_path / "study.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"locked.*another process holds it") as refused:
            Search(url, "one", random, Terms(SPACE), 1, patience=0)
        holder.rollback()
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("left_open")
@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("study.db", "no storage of a study"),
        ("mysql://host/base", "driver that is not installed"),
        ("my storage://me:secret@host/base", "no storage of a study"),
        ("postgresql://me:secret@127.0.0.1:1/base", "me:\\*\\*\\*@127.0.0.1:1/base cannot be used"),
    ],
)
def test_a_storage_that_is_none_is_one_line(storage: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        connect(storage)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("left_open")
def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with pytest.raises(UserError, match="not a database"):
        connect(f"sqlite:///{tmp_path / 'notes.txt'}")


def test_a_run_knows_which_trial_it_is(tmp_path: Path) -> None:
    place = TrialPlace("sqlite:///study.db", "one", 3)
    place.write(tmp_path)
    assert TrialPlace.read(tmp_path) == place
    assert TrialPlace.read(tmp_path / "elsewhere") is None
    assert json.loads((tmp_path / "trial.json").read_text()) == {
        "storage": "sqlite:///study.db",
        "study": "one",
        "trial": 3,
    }


@pytest.mark.parametrize(
    ("distribution", "text"),
    [
        (FloatDistribution(1e-4, 1e-2, log=True), "0.0001 to 0.01 (log)"),
        (FloatDistribution(0, 1, step=0.25), "0.0 to 1.0 in steps of 0.25"),
        (optuna.distributions.IntDistribution(2, 8, step=2), "2 to 8 in steps of 2"),
        (CategoricalDistribution([8, 16]), "8, 16"),
    ],
)
def test_a_parameters_values_are_written(distribution: optuna.distributions.BaseDistribution, text: str) -> None:
    assert written(distribution) == text


def test_the_end_of_a_study_names_the_best_trial_and_writes_a_page_without_links(
    search: Callable[..., Search], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    each = search(total=3)
    for i, trial in enumerate(each.claim(3)):
        folder = tmp_path / str(i)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/00001-val_iou_0.5000.ckpt").touch()
        trial.set_user_attr("folder", str(folder))
        trial.report(i / 10, 0)
        each.tell(trial, RuntimeError("<b>no</b>") if i == 2 else i / 10)
    page = conclude(each, tmp_path, lambda params: f"again {sorted(params)}")
    said = caplog.text
    assert "trial 1, validation IoU 0.1000" in said
    assert str(tmp_path / "1/checkpoints/00001-val_iou_0.5000.ckpt") in said
    assert "again ['loss', 'lr']" in said
    text = page.read_text(encoding="utf-8")
    assert "<h2>History</h2>" in text
    assert "<h2>Importance</h2>" in text
    assert "<h2>Parallel coordinates</h2>" in text
    assert "<h2>Validation IoU by epoch</h2>" in text
    assert "&lt;b&gt;no&lt;/b&gt;" in text
    assert "<script src" not in text
    assert "<link" not in text


def test_a_study_without_a_finished_trial_says_why(search: Callable[..., Search], tmp_path: Path) -> None:
    each = search(total=1)
    each.tell(each.claim(1)[0], RuntimeError("out of memory"))
    with pytest.raises(UserError, match=r"None of the 1 trials.*out of memory"):
        conclude(each, tmp_path, str)
    assert draw(each.study) == {}
