"""Arrays of the stand-in and the wrapping of NumPy's and SciPy's functions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

# Attributes of numpy.ndarray that CuPy 14's array lacks.
LACKING = {
    "__array_interface__", "__array_struct__", "__array_wrap__", "__index__", "__contains__", "ctypes", "getfield", "resize", "setfield", "setflags",
    "to_device", "byteswap", "dump", "dumps", "newbyteorder", "tofile",
}  # fmt: skip


def device_only(value, what="an operation"):
    """The NumPy value behind ``value``, which must be on the device or a number.

    Raises
    ------
    TypeError when it is, or holds, a NumPy array.
    """
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"{what}: Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(device_only(v, what) for v in value) if type(value) in (list, tuple) else value
    return value


def anywhere(value):
    if isinstance(value, ndarray):
        return value._host
    return [anywhere(v) for v in value] if isinstance(value, list) else tuple(map(anywhere, value)) if type(value) is tuple else value


def wrapped(result):
    if isinstance(result, (np.ndarray, np.generic)):
        return ndarray(np.asarray(result))
    if isinstance(result, (list, tuple)) and any(isinstance(r, (np.ndarray, np.generic)) for r in result):
        return type(result)(map(wrapped, result)) if type(result) in (list, tuple) else tuple(map(wrapped, result))
    return result


def on_device(function, name, unwrap=device_only):
    """``function`` of NumPy or SciPy taking and giving arrays of the device."""

    def call(*args, **keywords):
        plain = [unwrap(a, name) if unwrap is device_only else unwrap(a) for a in args]
        out = keywords.get("out")
        keywords = {k: device_only(v, name) for k, v in keywords.items()}
        result = function(*plain, **keywords)
        return out if isinstance(out, ndarray) else wrapped(result)

    call.__name__ = name
    return call


class ndarray:
    __slots__ = ("_host",)
    __array_priority__ = 100

    def __init__(self, host):
        self._host = host

    def get(self):
        return self._host.copy()

    def set(self, host):
        self._host[...] = host

    @property
    def device(self):
        return SimpleNamespace(id=0)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        plain = [device_only(i, ufunc.__name__) for i in inputs]
        if out is not None:
            keywords["out"] = tuple(device_only(o, ufunc.__name__) for o in out)
        result = getattr(ufunc, method)(*plain, **keywords)
        return out[0] if out is not None else wrapped(result)

    def __array_function__(self, function, types, args, keywords):
        import cupy

        if function.__name__ not in cupy.FUNCTIONS:
            raise TypeError(f"CuPy is not known to have {function.__name__}")
        return on_device(function, function.__name__)(*args, **keywords)

    def __getattr__(self, name):
        if name in LACKING or name.startswith("__"):
            raise AttributeError(f"CuPy's array has no {name}")
        found = getattr(self._host, name)
        if name == "flags" or isinstance(found, (tuple, int, np.dtype)):
            return found
        if name in ("item", "tolist"):
            return found
        return on_device(found, name) if callable(found) else wrapped(found)

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value) if name == "_host" else setattr(self._host, name, device_only(value, name))

    def _key(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        for k in keys:
            parts = (k.start, k.stop, k.step) if isinstance(k, slice) else ()
            if any(isinstance(p, ndarray) for p in parts):
                raise TypeError("slice indices must be integers, not arrays of the device")
        return anywhere(key)

    def __getitem__(self, key):
        return wrapped(self._host[self._key(key)])

    def __setitem__(self, key, value):
        self._host[self._key(key)] = device_only(value, "assignment")

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (wrapped(row) for row in self._host)

    def __repr__(self):
        return f"device {self._host!r}"

    def __format__(self, spec):
        return format(self._host, spec)

    def __copy__(self):
        return ndarray(self._host.copy())

    def __deepcopy__(self, _):
        return ndarray(self._host.copy())

    __hash__ = None


def _operator(name):
    def operate(self, *others):
        plain = [device_only(o, name) for o in others]
        result = getattr(self._host, name)(*plain)
        if result is NotImplemented:
            raise TypeError(f"{name} between {type(self)} and {[type(o) for o in others]}")
        return self if result is self._host else wrapped(result)

    return operate


def _number(name):
    return lambda self: getattr(self._host, name)()


for _name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
    for _form in ("__{}__", "__r{}__", "__i{}__"):
        setattr(ndarray, _form.format(_name), _operator(_form.format(_name)))
for _name in "lt le gt ge eq ne neg pos abs invert".split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in "int float complex bool".split():
    setattr(ndarray, f"__{_name}__", _number(f"__{_name}__"))
