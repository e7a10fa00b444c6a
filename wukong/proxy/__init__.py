"""The fan-out proxy: a service that takes one message ("invoke these") and makes the invocations, many at once.

    executor, client --one message--> proxy --FaaS.invoke, in threads or worker processes--> platform
          ^                             |
          `---which were accepted-------'

`server` is the service (``wukong proxy``), `client.Proxy` the side of those who send, `beside.ProxyBeside` a service
that ends with its parent, `protocol` what the two say to each other. Whatever the proxy has not made, for whatever
reason, its sender makes itself: it can be slow, full, of another version or gone, and no job fails for it.
"""
