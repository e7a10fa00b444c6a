"""Deploying to AWS Lambda: the commands ``deploy``, ``status``, ``logs`` and ``destroy``.

    commands -> work -> checks (network, taken, permissions), code (package, image), secret -> template
                  |                                                                             |   parts: store, proxy
                  +-> nodes, bucket, stack ------------------> account -> boto3                 v
                                                                                          CloudFormation

`options` says what can be chosen, `template` is what is deployed, `stack` drives CloudFormation, and `account` is the
only module that knows boto3. Nothing is kept on this machine: what was chosen is noted in the stack.
"""
