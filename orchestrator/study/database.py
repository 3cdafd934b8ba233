"""A study in a database that may be away for a while, written by the one process that has its lease."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from orchestrator.space import ConfigError
from orchestrator.storage.disk import Away, Patience
from orchestrator.study.place import VARIABLE, Place

Result = TypeVar("Result")
CONNECT_S = 15
_MAY_MAKE = text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
_MAY_WRITE = text(f"SELECT has_table_privilege('{models.StudyModel.__tablename__}', 'INSERT')")
OPENINGS = 4
"""Tries, for others may be quicker with a new database's tables, with their version, and with Alembic's."""


class Database(RDBStorage):
    """Optuna's tables in a database. Calls wait while it is away, as those of a journal for space."""

    def __init__(self, place: Place, patience: Patience):
        self._patience = patience
        self.lost_to: Callable[[], str | None] = lambda: None
        """Asked before each write: who has taken the sweep over, if anybody."""
        for left in reversed(range(OPENINGS)):
            try:
                super().__init__(
                    # Optuna takes the URL as text, and with the password.
                    place.url.render_as_string(hide_password=False),
                    engine_kwargs=engine_options(place),
                )
                return
            except DatabaseError as error:
                self.engine.dispose()
                if not left or not _made_by_another(error):
                    raise

    def wait(self, work: Callable[[], Result], writes: bool) -> Result:
        """The result of `work`, once the database answers. KeyboardInterrupt where it is no longer ours."""
        return self._patience(lambda: self._attempt(work, writes))

    def _attempt(self, work: Callable[[], Result], writes: bool) -> Result:
        try:
            other = self.lost_to() if writes else None
            if other is None:
                return work()
        except StorageInternalError as error:
            if isinstance(error.__cause__, OperationalError | InterfaceError):
                raise Away(first_line(error.__cause__)) from None
            raise
        except (OperationalError, InterfaceError) as error:
            raise Away(first_line(error)) from None
        self._patience.say(f"the sweep has been taken over by {other}; this process leaves it")
        raise KeyboardInterrupt

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """As Optuna's, and one trial even where the answer to the first attempt was lost."""
        known = self.get_n_trials(study_id)
        make = super()._create_new_trial
        made = self.wait(lambda: make(study_id, template_trial), writes=True)
        first, *doubles = [t for t in self.get_all_trials(study_id) if t.number >= known]
        for double in doubles:
            self.wait(lambda trial_id=double._trial_id: self._remove(trial_id), writes=True)
        return first if doubles else made

    def _remove(self, trial_id: int) -> None:
        with _create_scoped_session(self.scoped_session, True) as session:
            session.delete(models.TrialModel.find_or_raise_by_id(trial_id, session))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """As Optuna's, and True where the answer to an earlier attempt was lost."""
        attempts = 0
        tell = super().set_trial_state_values

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return tell(trial_id, state, values)
            except UpdateFinishedTrialError:
                if attempts == 1:
                    raise
                return True

        return self.wait(attempt, writes=True)


def _made_by_another(error: DatabaseError) -> bool:
    """Whether the next try may find made what this one was making."""
    return isinstance(error, IntegrityError | ProgrammingError) or "already exists" in str(error)


def _patient(name: str, writes: bool) -> None:
    method = getattr(RDBStorage, name)

    def call(self: Database, *arguments: Any, **named: Any) -> Any:
        return self.wait(lambda: method(self, *arguments, **named), writes)

    setattr(Database, name, call)


# Each may be repeated: it sets a value by its key, or only reads.
_WRITES = ("set_study_user_attr", "set_study_system_attr", "set_trial_param", "set_trial_user_attr")
_WRITES_TOO = ("set_trial_system_attr", "set_trial_intermediate_value", "delete_study")
_READS = ("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_study_user_attrs")
_READS_TOO = ("get_study_system_attrs", "get_all_studies", "get_trial", "_get_trials")
for _name in (*_WRITES, *_WRITES_TOO):
    _patient(_name, writes=True)
for _name in (*_READS, *_READS_TOO):
    _patient(_name, writes=False)


def engine_options(place: Place) -> dict[str, Any]:
    """How to connect: an idle connection that has died is replaced, and a silent server given up on."""
    options: dict[str, Any] = {"pool_pre_ping": True}
    if place.url.get_backend_name() == "postgresql":
        options["connect_args"] = {
            "connect_timeout": CONNECT_S,
            "application_name": "hjepa-sweep",
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        }
    return options


def open_database(place: Place, patience: Patience) -> Database:
    """The database at `place`. ConfigError where it cannot be used."""
    return _opened(place, lambda: Database(place, patience))


def require_usable(place: Place) -> None:
    """Raise ConfigError unless a sweep could be kept at `place`, whose tables need not be made yet. Writes
    nothing."""
    engine = _opened(place, lambda: create_engine(place.url, **engine_options(place)))
    try:
        with told(place), engine.connect() as connection:
            made = inspect(connection).has_table(models.VersionInfoModel.__tablename__)
            asked = _MAY_WRITE if made else _MAY_MAKE
            may = connection.dialect.name != "postgresql" or connection.scalar(asked)
    finally:
        engine.dispose()
    if not may:
        lacking = "may only read its tables of sweeps" if made else "may not make its tables of sweeps"
        raise ConfigError(f"{place}: its user {lacking}.")
    if made:
        read_database(place).engine.dispose()


def read_database(place: Place) -> RDBStorage:
    """The same for whoever only reads, without waiting."""
    url = place.url.render_as_string(hide_password=False)
    return _opened(
        place, lambda: RDBStorage(url, engine_kwargs=engine_options(place), skip_table_creation=True)
    )


def _opened(place: Place, opening: Callable[[], Result]) -> Result:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return opening()
    except ImportError as error:
        raise ConfigError(f"{place}: its driver is missing: {error}. {_advice(place)}") from None
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise ConfigError(unreachable(place, cause or error)) from None


def _advice(place: Place) -> str:
    if place.url.get_backend_name() == "postgresql":
        return "Install hjepa-sweep[postgres]."
    return "Install what SQLAlchemy names for it."


@contextmanager
def reading(place: Place) -> Iterator[RDBStorage]:
    """The studies of a database, to read within. ConfigError where it cannot be read."""
    storage = read_database(place)
    try:
        with told(place):
            yield storage
    finally:
        storage.engine.dispose()


@contextmanager
def told(place: Place) -> Iterator[None]:
    """Within, what the database refuses is a ConfigError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else None
        raise ConfigError(unreachable(place, cause or error)) from None


def unreachable(place: Place, error: BaseException) -> str:
    """What to tell of a database that does not do what it should."""
    said = f"{place}: {first_line(error)}"
    if "password" in said and place.url.password is None:
        said += f". Set {VARIABLE} to the URL with its password, or PGPASSWORD, or keep it in ~/.pgpass"
    if schema := re.search(r"permission denied for schema (\S+)", said):
        said += (
            f". Its owner may let you make tables: GRANT CREATE ON SCHEMA {schema[1]} TO {place.url.username}"
        )
    elif "permission denied for table" in said:
        to = f"IN SCHEMA public TO {place.url.username}"
        grants = f"GRANT ALL ON ALL TABLES {to}; GRANT ALL ON ALL SEQUENCES {to}"
        said += f". Its owner may let you write to it: {grants}"
    return f"{said}."


def first_line(error: BaseException) -> str:
    """What a database driver says, without SQLAlchemy's frame."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split())[:300].rstrip(".")
