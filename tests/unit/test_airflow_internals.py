"""What this package takes for granted of Airflow beyond its public interface: one test for each thing.

When a new Airflow changes one, its test fails under the thing's name, before a stream does.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import pytest
from airflow import settings
from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory
from airflow.jobs import triggerer_job_runner
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, task, task_group
from airflow.sdk.definitions._internal import expandinput
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import FailFastDagInvalidTriggerRule, TaskDeferred
from airflow.sdk.execution_time import comms as sdk_comms
from airflow.sdk.execution_time import supervisor, task_runner
from airflow.serialization.serialized_objects import DagSerialization
from airflow.task.priority_strategy import get_airflow_priority_weight_strategies
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent
from airflow.utils.sqlalchemy import with_row_locks

from deferred_expand.airflow_internals import comms, folders, mapping, metadata, sdk
from deferred_expand.airflow_internals.listeners import triggerer_id
from deferred_expand.airflow_internals.sdk import BaseXCom, TriggerRule
from deferred_expand.airflow_internals.tasks import (
    MappableValue,
    ParsedOperator,
    current_dag_id,
    template_texts,
)
from deferred_expand.operators.mapped import _HEAD_ARGUMENTS
from tests.e2e.operators import EchoOperator
from tests.memory_airflow import MemoryAirflow
from tests.metadata_database import OpenStream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def dag() -> Iterator[DAG]:
    with DAG("dag", schedule=None) as dag, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Task .* was never mapped")
        yield dag


@task
def add(value: int) -> int:
    return value


# -- the graph, while a DAG is parsed -----------------------------------------------------------------


class Noting(ParsedOperator):
    """Notes what it is asked and told."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges: list[str] = []
        self.parsed = 0

    def edge_to(self, other: Any) -> BaseOperator:
        self.edges.append(other.task_id)
        stands_in: BaseOperator = self.stands_in
        return stands_in if other.task_id.startswith("elsewhere") else self

    @property
    def stands_in(self) -> Any:
        found: Any = self.dag.get_task("stands_in")
        return found

    def when_parsed(self) -> None:
        self.parsed += 1


def test_update_relative_is_called_right_before_leaves_are_read(dag: DAG) -> None:
    first = Noting(task_id="first")
    EmptyOperator(task_id="stands_in")
    EchoOperator.partial(task_id="elsewhere").expand(value=first.output)
    EchoOperator.partial(task_id="native").expand(value=first.output)
    add.override(task_id="elsewhere_too").expand(value=first.output)
    assert first.edges == ["elsewhere", "native", "elsewhere_too"]
    assert first.downstream_task_ids == {"native"}
    assert dag.get_task("stands_in").downstream_task_ids == {"elsewhere", "elsewhere_too"}


def test_resolve_template_files_is_the_last_that_the_parser_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    from airflow.dag_processing.dagbag import DagBag

    file = tmp_path / "noting.py"
    file.write_text(
        "from airflow.sdk import DAG\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "from tests.unit.test_airflow_internals import Noting\n"
        "with DAG('noting', schedule=None):\n"
        "    first = Noting(task_id='first')\n"
        "    assert not first.parsed\n"
        "    first >> EmptyOperator(task_id='second')\n"
    )
    bag = DagBag(dag_folder=file)
    assert not bag.import_errors
    first: Any = bag.dags["noting"].get_task("first")
    assert first.parsed == 1


@pytest.mark.parametrize("kind", ["classic", "decorated"])
def test_a_mapped_operator_can_become_a_subclass_of_its_class(dag: DAG, kind: str) -> None:
    class Classic(mapping.HeadedMapping, MappedOperator):
        pass

    class Decorated(mapping.HeadedMapping, mapping.DecoratedMappedOperator):
        pass

    EchoOperator.partial(task_id="classic").expand(value=[1])
    add.override(task_id="decorated").expand(value=[1])
    mapped: Any = dag.get_task(kind)
    mapping.become(mapped, Classic, Decorated)
    assert type(mapped) is (Classic if kind == "classic" else Decorated)
    for name in ("_is_empty", "start_from_trigger"):
        assert getattr(mapped, name) is False, name
        assert name in {field.name for field in MappedOperator.__attrs_attrs__}, name


def test_what_a_task_or_a_group_is_expanded_over_can_be_read_and_replaced(dag: DAG) -> None:
    first, other = EmptyOperator(task_id="first"), EmptyOperator(task_id="other")

    @task_group
    def group(value: Any) -> None:
        EchoOperator(task_id="inner", value=value)

    group.expand(value=first.output)
    by_name = EchoOperator.partial(task_id="by_name").expand(value=first.output, note=["x"])
    by_kwargs = EchoOperator.partial(task_id="by_kwargs").expand_kwargs(first.output)
    assert mapping.expanded_over(by_name) == {"value": first.output, "note": ["x"]}
    assert mapping.expanded_over(by_kwargs) == {None: first.output}
    for expanded in (by_name, by_kwargs, dag.task_group.children["group"]):
        assert mapping.is_expanded_over(expanded, first)  # type: ignore[arg-type]
        assert not mapping.is_expanded_over(expanded, other)  # type: ignore[arg-type]
    for mapped, name in ((by_name, "value"), (by_kwargs, None)):
        mapping.expand_over(mapped, name, other.output)
        assert [found.task_id for found in mapped.iter_mapped_dependencies()] == ["other"]


def test_an_operator_in_a_mapped_tasks_place_is_no_second_task(dag: DAG) -> None:
    mapped = EchoOperator.partial(task_id="echo", retries=7).expand(value=[1])
    EmptyOperator(task_id="before") >> mapped
    operator = mapping.make_unmapped(mapped, EmptyOperator, ["retries", "pool"])
    assert dag.get_task("echo") is mapped, "_airflow_from_mapped"
    assert operator.retries == 7
    assert operator.upstream_task_ids == {"before"}


@pytest.mark.parametrize("name", _HEAD_ARGUMENTS)
def test_what_the_head_shares_with_its_mapped_task_are_arguments_of_operators(name: str) -> None:
    assert name in inspect.signature(BaseOperator).parameters


# -- the mapped task, while it runs -------------------------------------------------------------------


def test_expand_mapped_kwargs_gives_values_and_which_of_them_are_no_templates(dag: DAG) -> None:
    mapped = EchoOperator.partial(task_id="echo").expand(value=["{{ 1 }}"])
    values, resolved = mapped._expand_mapped_kwargs({"ti": SimpleNamespace(map_index=0)})
    assert dict(values) == {"value": "{{ 1 }}"}
    assert isinstance(resolved, set)
    assert "_expand_mapped_kwargs" in inspect.getsource(MappedOperator.render_template_fields)
    assert "self.task.render_template_fields(" in inspect.getsource(task_runner)


def test_an_index_counts_modulo_the_length() -> None:
    assert "return index % mapped_length" in inspect.getsource(expandinput)


def test_the_length_of_what_is_returned_becomes_the_mapped_length(
    dag: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow = MemoryAirflow()
    airflow.install(monkeypatch)
    first = EmptyOperator(task_id="first")
    EchoOperator.partial(task_id="echo").expand(value=first.output)
    ti: Any = SimpleNamespace(
        task=first, is_mapped=False, dag_id="dag", run_id="run", task_id="first", map_index=-1
    )
    log: Any = SimpleNamespace(info=lambda *_, **__: None)
    task_runner._push_xcom_if_needed(MappableValue({"stream_of": "x"}, 4711), ti, log)
    assert airflow.tables.lengths == {"first": 4711}
    assert airflow.tables.xcoms["first", -1, "return_value"] == '[{"stream_of": "x"}]'


def test_a_mapped_length_is_given_along_with_an_xcom() -> None:
    assert "_mapped_length" in inspect.signature(BaseXCom.set).parameters


def test_what_an_author_gives_a_mapped_task_can_be_read(dag: DAG) -> None:
    mapped = EchoOperator.partial(task_id="echo", templated="{{ ds }}", retries=3).expand(value=[1])
    assert mapped.partial_kwargs.items() >= {"templated": "{{ ds }}", "retries": 3}.items()
    assert list(template_texts(mapped)) == [("templated", "{{ ds }}")]
    assert current_dag_id() == dag.dag_id


def test_a_dag_with_fail_fast_looks_at_a_rule_only_as_it_takes_the_task() -> None:
    with DAG("fast", schedule=None, fail_fast=True) as dag:
        with pytest.raises(FailFastDagInvalidTriggerRule):
            EmptyOperator(task_id="refused", trigger_rule="always")
        task = EmptyOperator(task_id="taken")
        task.trigger_rule = TriggerRule.ALWAYS
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert read.get_task("taken").trigger_rule == "always"


# -- comms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ["GetXCom", "SetXCom", "DeleteXCom", "GetTICount", "GetTaskStates"])
def test_a_trigger_is_answered_what_it_asks(message: str) -> None:
    union = get_args(triggerer_job_runner.ToTriggerSupervisor)[0]
    assert getattr(sdk_comms, message) in get_args(union)


def test_comms_in_dag_test_are_known_by_their_class() -> None:
    assert inspect.isclass(getattr(supervisor, comms.IN_PROCESS_COMMS, None))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("airflow.api_fastapi.execution_api.routes.xcoms", comms.MAP_LENGTH_REFUSAL),
        ("airflow.api_fastapi.execution_api.routes.task_instances", 'if "null" in states'),
        ("airflow.api_fastapi.execution_api.routes.task_instances", 'f"{task.task_id}_{task.map_index}"'),
        ("airflow.jobs.triggerer_job_runner", "AIRFLOW_DISABLE_GREENBACK_PORTAL"),
        ("airflow.jobs.job", "hook.on_starting(component=self)"),
        ("airflow.models.trigger", "next_method = TRIGGER_FAIL_REPR"),
    ],
)
def test_what_is_known_by_its_text(module: str, text: str) -> None:
    assert text in inspect.getsource(import_module(module)), f"{module} no longer has {text!r}"


def test_a_dag_file_is_loaded_under_a_mangled_name(tmp_path: Path) -> None:
    from airflow.utils.file import get_unique_dag_module_name

    assert get_unique_dag_module_name(str(tmp_path / "dag.py")).startswith(folders.MANGLED_MODULE_PREFIX)


@pytest.mark.parametrize("state", sorted({*comms.ALL_STATES_BUT_REMOVED, "removed"} - {"null"}))
def test_states_are_airflows(state: str) -> None:
    from airflow.utils.state import TaskInstanceState

    every = {str(known.value) for known in TaskInstanceState}
    assert state in every
    assert {*comms.ALL_STATES_BUT_REMOVED, "removed"} - {"null"} >= every - {"awaiting_input"}


# -- triggers and deferrals ---------------------------------------------------------------------------


def test_a_failed_deferral_is_told_by_names_of_the_sdk() -> None:
    parameters = list(inspect.signature(BaseOperator.resume_execution).parameters)
    assert parameters == ["self", "next_method", "next_kwargs", "context"]
    assert sdk.DEFERRAL_FAILED in inspect.getsource(import_module("airflow.sdk.bases.operator"))


@pytest.mark.parametrize("name", ["trigger", "method_name", "kwargs", "timeout"])
def test_a_deferral_holds_what_a_hop_needs(name: str) -> None:
    assert name in inspect.signature(TaskDeferred).parameters


def test_an_event_that_ends_its_task_names_its_state_and_xcoms() -> None:
    event = TaskSuccessEvent(xcoms={"return_value": 1})
    assert (event.task_instance_state.value, event.xcoms) == ("success", {"return_value": 1})


@pytest.mark.parametrize("name", ["trigger_id", "task_instance"])
def test_a_trigger_takes_on_an_identity(name: str) -> None:
    class Plain(BaseTrigger):
        def serialize(self) -> Any: ...
        def run(self) -> Any: ...

    trigger = Plain()  # type: ignore[no-untyped-call]
    setattr(trigger, name, None)
    assert getattr(trigger, name) is None


# -- plugins ------------------------------------------------------------------------------------------


def test_a_plugin_module_is_run_again_and_is_in_place_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``_load_plugins_from_plugin_directory``."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_module.py").write_text(
        "import sys\nseen = [*vars(sys.modules[__name__])]\nlate = 1\n"
    )
    first = import_module("plugin_module")
    _load_plugins_from_plugin_directory(plugins_folder=str(tmp_path))
    second = import_module("plugin_module")
    assert second is not first
    assert "sys" in second.seen
    assert "late" not in second.seen
    assert not hasattr(second.__spec__, "_initializing"), "who imports it meanwhile does not wait"


IN_A_TRIGGERER = """
import os, sys
from importlib import import_module
from airflow.jobs.job import Job
from airflow.plugins_manager import _get_plugins as core
from airflow.sdk.plugins_manager import _get_plugins as sdk

def forked(job_type):
    job = Job()  # which tells the listeners that it is starting
    job.job_type, job.id = job_type, 1
    pid = os.fork()
    if not pid:
        os._exit(sdk.cache_info().currsize)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert forked("SchedulerJob") == 0, "other components load nothing"
once = sys.modules["only_once"]
assert forked("TriggererJob") == 1, "_get_plugins is cached"
assert core()[1].keys() == {FOLDER + "/never.py"}
assert sdk()[1].keys() == {FOLDER + "/never.py", FOLDER + "/only_once.py"}
assert import_module("always").runs == 2
assert import_module("only_once") is once and once.late == 1
try:
    import_module("never")
except LookupError as error:
    print(error)
"""


def test_a_triggerer_has_all_plugins_and_no_half_one_before_it_forks_its_runner(tmp_path: Path) -> None:
    """Of ``_get_plugins``, of the core and of the SDK, and ``load_plugins``."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "always.py").write_text(
        "import builtins\nbuiltins.runs = runs = getattr(builtins, 'runs', 0) + 1\n"
    )
    (folder / "only_once.py").write_text(
        "import builtins\nassert not hasattr(builtins, 'once')\nbuiltins.once = late = 1\n"
    )
    (folder / "never.py").write_text("raise LookupError('what it really is')\n")
    done = subprocess.run(
        [sys.executable, "-c", IN_A_TRIGGERER.replace("FOLDER", repr(str(folder)))],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DEFERRED_EXPAND__EXPANDER": "False",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("what it really is\n")


# -- the triggerer's own process ----------------------------------------------------------------------


def test_on_starting_comes_before_it_is_known_what_a_job_is() -> None:
    from airflow.jobs.job import Job

    seen: list[Any] = []

    class Listener:
        @hookimpl
        def on_starting(self, component: Any) -> None:
            seen.append((component, triggerer_id(component)))

    listener = Listener()
    get_listener_manager().add_listener(listener)
    try:
        job = Job(job_type="TriggererJob", id=3)
    finally:
        get_listener_manager().pm.unregister(listener)
    assert seen == [(job, None)]
    assert triggerer_id(job) == 3
    assert triggerer_id(Job(job_type="SchedulerJob", id=4)) is None


COLUMNS: dict[Any, set[str]] = {
    TaskInstance: {
        "id", "dag_id", "run_id", "task_id", "map_index", "try_number", "trigger_id", "dag_version_id",
        "state", "updated_at", "rendered_map_index", "pool", "pool_slots", "context_carrier",
    },
    Trigger: {"id", "triggerer_id"},
    XComModel: {"dag_run_id", "dag_id", "run_id", "task_id", "map_index", "key", "value", "timestamp"},
    TaskMap: {"dag_id", "task_id", "run_id", "map_index", "length"},
    Pool: {"pool", "slots", "include_deferred"},
    DagRun: {"id", "dag_id", "run_id", "state", "last_scheduling_decision", "context_carrier"},
    DagModel: {"dag_id", "is_paused", "is_stale"},
}  # fmt: skip


@pytest.mark.parametrize("model", COLUMNS, ids=lambda model: model.__name__)
def test_the_models_have_the_columns_that_the_expander_reads_and_writes(model: Any) -> None:
    assert set(model.__table__.columns.keys()) >= COLUMNS[model]


def test_a_label_fits_its_column() -> None:
    assert TaskInstance.__table__.columns["rendered_map_index"].type.length == metadata.LONGEST_LABEL
    assert TaskInstance._rendered_map_index is not None


def test_an_instance_is_made_as_the_scheduler_makes_it() -> None:
    """Column by column in test_instances.py."""
    made = inspect.getsource(TaskMap.expand_mapped_task)
    for step in ("dag_version_id=", "new_task_run_carrier(", ".refresh_from_task("):
        assert step in made or step in inspect.getsource(TaskInstance), step
    assert hasattr(DagRun, "_revise_map_indexes_if_mapped")
    assert "session" in inspect.signature(metadata.DBDagBag.get_dag_for_run).parameters


def test_a_hook_that_is_not_set_says_so() -> None:
    assert settings.task_instance_mutation_hook.is_noop is True  # type: ignore[attr-defined]
    assert '"is_noop", False)' in inspect.getsource(DagRun.verify_integrity)
    assert "task_instance_mutation_hook.is_noop = False" in inspect.getsource(settings)


@pytest.mark.parametrize("rule", get_airflow_priority_weight_strategies().values())
def test_airflows_own_weight_rules_look_only_at_the_task(rule: Any) -> None:
    task = SimpleNamespace(priority_weight=7, get_dag=lambda: None)
    assert rule().get_weight(SimpleNamespace(task=task)) == 7


def test_airflow_takes_no_row_locks_on_mariadb() -> None:
    assert "MariaDB do not support" in " ".join((with_row_locks.__doc__ or "").split())


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_cache_of_dags_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "DAGS_KEPT", 2)
    bag = metadata.dag_cache()
    streams = [OpenStream.begin(f"cached_{number}") for number in range(4)]
    with metadata.create_session() as session:
        for stream in [*streams, *streams]:
            dag = bag.get_dag_for_run(stream.run(session), session)
            assert dag is not None
            assert dag.dag_id == stream.dag_id
            assert len(bag._dags) <= 2
        assert bag.get_dag_for_run(stream.run(session), session) is dag, "it is kept"
