"""The fan-out proxy: a service that takes one message ("invoke these") and makes the invocations, many at once.

    executor, client --one message--> proxy --FaaS.invoke, in threads or worker processes--> platform
          ^                             |
          `---which were accepted-------'

`server` is the service (``wukong proxy``), `client.Proxy` the sender's side, `beside.ProxyBeside` a service that ends
with its parent, `protocol` what the two sides say to each other. If the proxy has not made an invocation, for whatever
reason, the sender makes it: a proxy may be slow, full, of another version or gone, and no job fails because of that.
"""
