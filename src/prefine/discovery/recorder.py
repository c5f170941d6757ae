# mypy: ignore-errors
"""Stands for ``torch`` in the sandbox, where there is none: tensors that only write down what is done to them.

This file is never imported here: its text is put beside the proposal as the module ``torch``, which is its own
``torch.nn`` and ``torch.nn.functional``. Plain Python, standard library only. ``NAMES`` is filled in by ``tracing``.
"""

import sys

NAMES = frozenset()

STEPS = []
LEAVES = 4
ALIASES = {
    "clip": "clamp",
    "logistic": "sigmoid",
    "expit": "sigmoid",
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "true_div": "div",
    "negative": "neg",
    "absolute": "abs",
    "arctan": "atan",
    "swish": "silu",
    "greater": "gt",
    "less": "lt",
    "logical_and": "and",
    "logical_or": "or",
    "logical_not": "not",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "double": "float",
    "amax": "max",
    "amin": "min",
}
DROPPED = ("device", "dtype", "requires_grad", "inplace", "keepdim", "out")
AS_TENSOR = "use torch.where and other tensor operations: the loss is read once, for all batches"


def record(name, arguments, named):
    named = {k: plain(v) for k, v in named.items() if k not in DROPPED}
    STEPS.append([name, [plain(x) for x in arguments], named])
    if len(STEPS) > 500:
        raise ValueError("more than 500 operations")
    return Tensor(LEAVES + len(STEPS) - 1)


def plain(x):
    if isinstance(x, Tensor):
        return {"at": x.at}
    if x is None or isinstance(x, (bool, int, float)):
        return x
    raise TypeError(f"{type(x).__name__} is nothing that a loss can be made of: use numbers and tensors")


class Tensor:
    def __init__(self, at):
        self.at = at

    def __getattr__(self, name):
        if name in ("device", "dtype", "requires_grad"):
            return None
        if name in ("shape", "size", "numel", "item", "tolist", "numpy", "cpu", "backward", "grad", "data"):
            raise AttributeError(f"tensor.{name} is not there; {AS_TENSOR}")
        operation = operation_of(name)
        return lambda *arguments, **named: operation(self, *arguments, **named)

    def __bool__(self):
        raise TypeError(f"a tensor has no truth value; {AS_TENSOR}")

    def __float__(self):
        raise TypeError(f"a tensor is no number; {AS_TENSOR}")

    __int__ = __len__ = __index__ = __float__

    def __getitem__(self, key):
        raise TypeError(f"tensors cannot be indexed; {AS_TENSOR}")

    def __iter__(self):
        raise TypeError(f"tensors cannot be gone through; {AS_TENSOR}")

    __hash__ = None


def _both_ways(name, special):
    setattr(Tensor, f"__{special}__", lambda self, other: record(name, (self, other), {}))
    setattr(Tensor, f"__r{special}__", lambda self, other: record(name, (other, self), {}))


for _name, _special in (
    ("add", "add"),
    ("sub", "sub"),
    ("mul", "mul"),
    ("div", "truediv"),
    ("pow", "pow"),
    ("and", "and"),
    ("or", "or"),
):
    _both_ways(_name, _special)
for _special in ("gt", "lt", "ge", "le", "eq", "ne"):
    setattr(Tensor, f"__{_special}__", lambda self, other, name=_special: record(name, (self, other), {}))
Tensor.__neg__ = lambda self: record("neg", (self,), {})
Tensor.__abs__ = lambda self: record("abs", (self,), {})
Tensor.__invert__ = lambda self: record("not", (self,), {})

FloatTensor = LongTensor = BoolTensor = Tensor
float32 = float64 = float16 = bfloat16 = bool_ = None


def operation_of(name):
    name = ALIASES.get(name, name)
    if name not in NAMES:
        raise AttributeError(f"{name} is not among the operations: {', '.join(sorted(NAMES))}")
    return lambda *arguments, **named: record(name, arguments, named)


if __name__ == "torch":  # in the sandbox, and nowhere else
    nn = functional = sys.modules[__name__]
    sys.modules["torch.nn"] = sys.modules["torch.nn.functional"] = nn


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return operation_of(name)
