"""Deploying to AWS Lambda: the commands ``deploy``, ``status``, ``logs`` and ``destroy``.

    commands -> plan -> checks (network, name_conflicts, permissions), code (package, image), secret -> template
                  |                                                          parts: store, table, proxy   |
                  +-> nodes, bucket, stack --> account --> boto3                                          v
                                                                                                   CloudFormation

`options` holds the choices, `template` is what is deployed, `stack` drives CloudFormation, and `account` is the only
module that knows boto3. Nothing is kept on this machine: the stack itself records the choices.
"""
