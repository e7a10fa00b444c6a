"""A FaaS backend for Wukong on threads: each thread of the client's drives one warm process.

    client                        threads               processes (functions)
    ThreadsFaaS.invoke -> queue -> thread  --payload-->  worker: the function
                            ^      thread  <--"invoke"-- Inside.invoke
                            '------------------------'

`platform` is the queue and its threads, `worker` what runs in the processes and how a function opens this backend.
"""

from wukong_threads.backend import ThreadsFaaS

__all__ = ["ThreadsFaaS"]
