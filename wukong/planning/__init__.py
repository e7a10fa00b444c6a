"""Planning: the protocol's own walk against a model of store and platform, on a virtual clock.

    metadata, learned -> estimates -> prediction (over world) -> plan -> text, tables, drawing

`world` is the model, `prediction` follows one job through it by time. The simulators of `wukong.testing` explore the
same model in other orders, and with faults.
"""
