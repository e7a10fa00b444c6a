"""The client's side: `Client`, futures, and what is shown while a job runs.

`client` is the Dask API; `deployment` opens the backends and makes jobs; `background` watches the jobs of futures and
cleans up; `registry` knows the futures' values; `futures` and `cluster` are what users hold in their hands.
"""

from wukong.client.client import Client
from wukong.client.cluster import LocalCluster
from wukong.client.futures import Future, as_completed, wait

__all__ = ["Client", "Future", "LocalCluster", "as_completed", "wait"]
