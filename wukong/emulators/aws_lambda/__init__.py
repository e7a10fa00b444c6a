"""AWS Lambda's public HTTP API on this machine, in front of real `awslambdaric` processes: for tests and offline work.

    boto3, or anything that        Service process (asyncio)                        execution environments
    speaks the Lambda API          api --- control --- functions                    one process group each:
      POST .../invocations  --->    |                                               python -m awslambdaric handler
      202 / 200 / 413 / 429 <---  events -> scaling -> environment <-- runtime <--    GET  .../invocation/next
                                    (queue)   (Fleet)   (one each)      (HTTP)        POST .../invocation/{id}/response
                                                            |
                                                         spawner <-- socket --> template.py: forks them

It treats programs as Lambda does: it queues asynchronous events, retries them and gives them up; it limits payloads and
throttles callers; it starts environments cold, uses them again, freezes them between invocations, and kills them at
their time limit. Their code is read-only, they have 1,024 descriptors and, on request, a /tmp of their own. There is no
isolation: their code runs with the rights of the user who started the service.

Rooms: `settings`; `script` (what is to go wrong); `wire` (HTTP); `api` (routes, Invoke), `refusal` (errors as answers),
`signature` (authentication), `recursion` (functions that invoke themselves), `control` and `configuration` (to create
and change functions), `status` (the service's own pages), `surroundings` (parts of other AWS services); `functions`,
`names`, `package` (what is deployed); `invocation` (one call and its outcome), `ledger` (records of calls); `events`
(their queue), `scaling` (placement, concurrency), `environment`, `variables` and `runtime` (one process and its Runtime
API), `spawner`, `template` and `confine` (how processes start), `snapshots` and `frozen` (SnapStart), `logs`; `server`
puts it together.
"""
