"""What clients of `distributed` have and this one does not: each name with the reason, and what there is instead."""

from __future__ import annotations

from collections.abc import Mapping

_NOTHING_BETWEEN = "nothing runs between two jobs: functions start with a job and end with it"
_NO_SCHEDULER = "there is no scheduler: executors tell each other through the store who is ready"
_NO_WORKERS = "there are no workers to choose from: executors start as a graph widens, and stop when nothing is left"
_IN_STORE = "values live in the store, and no function keeps them"
_MODULES = "modules beside your script, and your own packages, travel by themselves"
_RECORD = "a job's record has it: client.last_job.record, client.last_job.report('job.html'), client.dashboard"
_PRINTED = "what tasks print and log reaches the client, marked with the task"
_PUBLISHED = "values are a client's own, and go when it closes; keep what is to stay in files or an object store"

METHODS: Mapping[str, str] = {
    **dict.fromkeys(("run", "run_on_scheduler", "start_ipython_workers"), _NOTHING_BETWEEN),
    **dict.fromkeys(("register_plugin", "register_worker_plugin", "register_worker_callbacks"), _NOTHING_BETWEEN),
    **dict.fromkeys(("unregister_worker_plugin", "unregister_scheduler_plugin"), _NOTHING_BETWEEN),
    "restart": f"{_NOTHING_BETWEEN}; client.cancel(futures) stops what runs",
    "current": "wukong.get_client() returns the default client",
    "as_current": "inside 'with client:' it is the default, until it is closed",
    "restart_workers": _NOTHING_BETWEEN,
    "shutdown": "there is no cluster to shut down: client.close() ends all that is this client's",
    **dict.fromkeys(("scheduler", "scheduler_info", "write_scheduler_file", "dump_cluster_state"), _NO_SCHEDULER),
    **dict.fromkeys(("ncores", "nthreads", "wait_for_workers", "retire_workers", "has_what", "who_has"), _NO_WORKERS),
    **dict.fromkeys(("rebalance", "replicate", "nbytes", "amm"), _IN_STORE),
    "upload_file": f"there is nothing to upload: {_MODULES}",
    **dict.fromkeys(("processing", "call_stack", "profile", "get_task_stream", "story"), _RECORD),
    **dict.fromkeys(("get_events", "log_event", "subscribe_topic", "unsubscribe_topic"), _RECORD),
    **dict.fromkeys(("get_worker_logs", "get_scheduler_logs", "forward_logging", "unforward_logging"), _PRINTED),
    **dict.fromkeys(("publish_dataset", "unpublish_dataset", "get_dataset", "list_datasets", "datasets"), _PUBLISHED),
    **dict.fromkeys(("set_metadata", "get_metadata"), _NO_SCHEDULER),
    "benchmark_hardware": "'wukong doctor' runs a small job and says what it found",
}
"""Of `distributed.Client`."""

_STATE = "it is state in a scheduler, and there is none"

NAMES: Mapping[str, str] = {
    "Variable": f"{_STATE}; hand values from task to task, or to the client, as results",
    "Queue": f"{_STATE}; as_completed hands on what is ready, and its add() takes new work",
    "Event": f"{_STATE}; make what waits depend on what it waits for",
    "Semaphore": f"{_STATE}; wukong.Lock(name) lets one task through at a time",
    **dict.fromkeys(("Pub", "Sub"), _STATE),
    **dict.fromkeys(("get_worker", "worker_client", "secede", "rejoin", "Actor", "ActorFuture"), _NO_WORKERS),
    **dict.fromkeys(("Worker", "Nanny", "Scheduler", "Adaptive", "SpecCluster", "SSHCluster"), _NO_WORKERS),
    "performance_report": _RECORD,
    "get_task_stream": _RECORD,
}
"""Of the package `distributed`."""
