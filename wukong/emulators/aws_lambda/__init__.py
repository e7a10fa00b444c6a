"""AWS Lambda's public HTTP API on this machine, in front of real `awslambdaric` processes: for tests and offline work.

    boto3, or anything that        Service process (asyncio)                        execution environments
    speaks the Lambda API          api --- control --- functions                    one process group each:
      POST .../invocations  --->    |                                               python -m awslambdaric handler
      202 / 200 / 413 / 429 <---  events -> scaling -> environment <-- runtime <--    GET  .../invocation/next
                                    (queue)   (Fleet)   (one each)      (HTTP)        POST .../invocation/{id}/response
                                                            |
                                                         spawner <-- socket --> template.py: forks them

It does to programs what Lambda does to them: asynchronous events are queued, tried again and given up on; payloads are
measured, callers throttled, environments started cold, used again, frozen between invocations, killed at their time
limit; their code is read-only, they have 1,024 descriptors and, if asked for, a /tmp of their own. It runs their code
with the rights of whoever started it, as one trusted user on one machine: no isolation.

Rooms: `settings`, `state` (what all share); `wire` (HTTP); `api` (routes, Invoke), `refusal` (answers that are errors),
`signature` (who asks), `recursion` (functions that invoke themselves), `control` and `configuration` (functions made
and changed), `status` (what it tells about itself), `surroundings` (what else of AWS is there); `functions`, `names`,
`package` (what is deployed); `invocation` (one call and its outcome), `ledger` (what became of them); `events` (their
queue), `scaling` (who runs where, and who has to wait), `environment`, `variables` and `runtime` (one process and its
Runtime API), `spawner`, `template` and `confine` (how processes start), `logs`; `server` puts it together.
"""
