"""The emulator's platform side: a FaaS on one machine.

    client process                host process                       worker processes
    LocalFaaS  <-- socket -->  Host: queue, slots, faults  <-- socket each -->  serve(): function(payload)
         \\_______________________ Board: shared memory ______________________/
    other processes <-- Unix socket --> Host: invoke only

The host is a fresh, single-threaded interpreter, never a fork of the user's process. It imports the function and the
modules a job needs once, then forks workers, which are reused warm. Rooms: `wire` (framing), `board` (shared memory),
`link` (the client's end, and the host's life), `settings` (what the client tells the host; profiles of limits),
`faults` (the seeded script), `slots` (how many may run at once), `output` (what tasks print), `worker` (inside a
worker), `process` and `pool` (workers as the host sees them), `listener` (how a fan-out proxy invokes here), `host`
(the platform itself), `boot` (how it starts).
"""
