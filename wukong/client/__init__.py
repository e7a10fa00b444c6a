"""The client's side: `Client`, futures, and what is shown while a job runs.

`client` is the interface, and `scheduler` what Dask itself calls; `session` is what is behind both: it runs jobs, and
closes what is open. `deployment` opens the backends and makes jobs; `calls` makes a graph of calls; `launch` starts the
jobs of futures, `background` watches them and cleans up, `callers` are the threads for users' callbacks; `registry`
knows the futures' values; `futures`, `waiting` and `cluster` are what users hold in their hands.
"""

from wukong.client.client import Client
from wukong.client.cluster import LocalCluster
from wukong.client.futures import Future
from wukong.client.scheduler import get_client
from wukong.client.waiting import as_completed, futures_of, wait

__all__ = ["Client", "Future", "LocalCluster", "as_completed", "futures_of", "get_client", "wait"]
