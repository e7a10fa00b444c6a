"""A DynamoDB table in memory that understands what our calls say, so that conversations with it can be interleaved.

Thousands of orders take as long here as ten on a server. That it is right is held by what runs on servers: the same
calls, in the conformance suite.
"""

import copy
import re

from wukong.backends.storage.dynamodb.answers import ConditionFailed

_REFERENCE = re.compile(r"([#:]\w+)(?:\[(\d+)\])?")
_FUNCTIONS = {
    "contains": lambda where, what: where is not None and (what in where),
    "attribute_exists": lambda value: value is not None,
    "attribute_not_exists": lambda value: value is None,
    "size": lambda value: 0 if value is None else len(value),
    "if_not_exists": lambda value, other: other if value is None else value,
    "list_append": lambda first, second: [*first, *second],
}


def plain(attribute):
    """An attribute as a Python value: a number, a text, bytes as text, a set of numbers, a list."""
    [(kind, value)] = attribute.items()
    if kind == "N":
        return float(value)
    if kind == "NS":
        return frozenset(map(float, value))
    return [plain(each) for each in value] if kind == "L" else value


class ModelTable:
    """The table. It stands in for a `DynamoClient`, too."""

    table, now_s = "model", 1_000.0

    def __init__(self):
        self.items = {}

    def ask(self, calls):
        return [getattr(self, call.operation)(**call.parameters) for call in calls]

    def GetItem(self, Key, **_):
        item = self.items.get(Key["k"]["B"])
        return {} if item is None else {"Item": copy.deepcopy(item)}

    def BatchGetItem(self, RequestItems):
        found = [self.items.get(key["k"]["B"]) for key in RequestItems["Keys"]]
        return {"Items": copy.deepcopy([item for item in found if item is not None])}

    def PutItem(self, Item, **said):
        before = self.items.get(Item["k"]["B"])
        if not self._holds(before, **said):
            return ConditionFailed(copy.deepcopy(before))
        self.items[Item["k"]["B"]] = copy.deepcopy(Item)
        return {}

    def UpdateItem(self, Key, UpdateExpression, **said):
        before = self.items.get(Key["k"]["B"])
        if not self._holds(before, **said):
            return ConditionFailed(copy.deepcopy(before))
        names, values = said["ExpressionAttributeNames"], said.get("ExpressionAttributeValues", {})
        item = self.items[Key["k"]["B"]] = dict(before or Key)
        old = dict(item)
        words = re.split(r"\b(SET|REMOVE|ADD) ", UpdateExpression)[1:]
        for word, actions in zip(words[::2], words[1::2], strict=True):
            for action in re.split(r", (?=#)", actions.strip()):
                self._act(item, old, word, action.rstrip(","), names, values)
        return {"Attributes": copy.deepcopy(item)}

    def _act(self, item, old, word, action, names, values):
        reference, place = _REFERENCE.match(action).groups()
        name = names[reference]
        if word == "REMOVE":
            item.pop(name, None)
        elif word == "ADD":
            [(kind, value)] = values[action.split()[1]].items()
            there = old.get(name, {kind: "0" if kind == "N" else []})[kind]
            item[name] = {kind: str(int(there) + int(value)) if kind == "N" else sorted({*there, *value})}
        else:
            there, append = old.get(name), "list_append" in action
            given = values[re.findall(r":\w+", action)[-1]]
            if place is not None:
                item[name] = {"L": [given if n == int(place) else each for n, each in enumerate(there["L"])]}
            elif append:
                item[name] = {"L": [*(there or {"L": []})["L"], *given["L"]]}
            elif "if_not_exists" not in action or there is None:
                item[name] = given

    def _holds(self, item, ConditionExpression=None, ExpressionAttributeNames=(), ExpressionAttributeValues=(), **_):
        if ConditionExpression is None:
            return True
        names, values = dict(ExpressionAttributeNames), dict(ExpressionAttributeValues)

        def value(found):
            reference, place = found.groups()
            attribute = values.get(reference) if reference[0] == ":" else (item or {}).get(names[reference])
            if place is not None:
                attribute = dict(enumerate((attribute or {"L": []})["L"])).get(int(place))
            return repr(None if attribute is None else plain(attribute))

        text = _REFERENCE.sub(value, ConditionExpression)
        text = re.sub(r"\bAND\b", "and", re.sub(r"\bOR\b", "or", re.sub(r"\bNOT\b", "not", text)))
        text = re.sub(r"(?<![<>=!])=(?!=)", "==", text)
        text = re.sub(r"None [<>]=? \S+?(?=[ )]|$)|(?<!\S)\S+ [<>]=? None", "False", text)
        return bool(eval(text, {"__builtins__": {}}, {**_FUNCTIONS, "frozenset": frozenset}))
