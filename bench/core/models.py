"""Typed, frozen configs: pydantic models whose errors are one line with the key, the file, the line and the known names."""

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import PydanticCustomError

from bench.core.errors import UserError, unknown
from bench.core.yaml import Keys

Locate = Callable[[Keys], str]  # keys -> the place of their value, e.g. "sweep.yaml line 12"; "" if unknown


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():  # 1e5 steps
        return int(value)
    if type(value) is not int:
        raise PydanticCustomError("rule", "a whole number")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("rule", "a number")
    try:
        return float(value)  # 3 and 3.0 must name the same run
    except OverflowError:
        raise PydanticCustomError("rule", "a number below 1.8e308") from None


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise PydanticCustomError("rule", "a text")
    return value


Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text)]
Bool = StrictBool
Natural = Annotated[Int, Field(ge=0)]
Positive = Annotated[Int, Field(ge=1)]
Amount = Annotated[Float, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
Share = Annotated[Float, Field(gt=0, le=1)]
Dropout = Annotated[Float, Field(ge=0, lt=1)]


class Model(BaseModel):
    """A frozen config. Unknown keys are errors. `replace` makes a changed copy, and `to_json` the form on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """The config as plain JSON values; keys that are None are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def replace(self, **values: Any) -> Self:
        """A copy with these fields changed, unchecked."""
        return self.model_copy(update=values)


M = TypeVar("M", bound=BaseModel)


def rule(key: str, needed: str) -> PydanticCustomError:
    """The error of a validator that compares keys: `key`, relative to the model, must be `needed`."""
    return PydanticCustomError("rule", "{needed}", {"key": key, "needed": needed})


def validate(model: type[M], value: Any, locate: Locate = lambda keys: "", under: str = "") -> M:
    """The value as the model; UserError, in one line, for the first error in it.

    locate: returns the place of a value. under: a prefix for the keys in messages, e.g. "evaluation.".
    """
    try:
        return model.model_validate(value)
    except ValidationError as caught:
        errors = caught.errors(include_url=False)
        first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
        raise explain(model, first, locate, under) from None


def explain(model: type[BaseModel], error: Any, locate: Locate, under: str) -> UserError:
    """One line for an error of pydantic."""
    added = ("[key]", "dict[", "function-")  # parts that pydantic adds to the keys
    keys: Keys = tuple(each for each in error["loc"] if not str(each).startswith(added))
    context = error.get("ctx", {})
    if error["type"] == "rule" and context.get("key"):
        keys = (*keys, *context["key"].split("."))
    name = (under + dotted(keys)).removesuffix(".")
    place = locate(keys)
    end = f" ({place})" if place else ""
    if error["type"] == "extra_forbidden":
        prefix = name.removesuffix(str(keys[-1]))
        known = (f"{prefix}{each}" for each in fields_of(model, keys[:-1]))
        return UserError(f"{unknown('key', name, known)}{end}")
    if error["type"] == "missing":
        return UserError(f"{name or 'the file'} is missing: it must be given{end}")
    value = context.get("value", _value_at(error["input"], context.get("key", "")))
    return UserError(f"{name} must be {needed_of(error)}, got {value!r:.200}{end}")


def _value_at(value: Any, key: str) -> Any:
    for part in filter(None, key.split(".")):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    return value.to_json() if isinstance(value, Model) else value


NEEDED = {"greater_than_equal": "{ge} or more", "greater_than": "above {gt}", "less_than": "below {lt}",
          "less_than_equal": "at most {le}", "literal_error": "{expected}", "finite_number": "a finite number",
          "bool_type": "true or false", "tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping",
          "model_type": "a mapping", "model_attributes_type": "a mapping", "too_short": "a list of {min_length} or more"}


def needed_of(error: Any) -> str:
    """What the value must be, in words."""
    if error["type"] in NEEDED:
        context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
        return NEEDED[error["type"]].format(**context)
    text: str = error["msg"]
    return text.removeprefix("Input should be ").removeprefix("Value error, ")


def dotted(keys: Iterable[str | int]) -> str:
    """The keys as one text: ("optim", "betas", 0) -> optim.betas[0]."""
    out = ""
    for key in keys:
        out += f"[{key}]" if isinstance(key, int) else f".{key}" if out else str(key)
    return out


def fields_of(model: type[BaseModel], keys: Iterable[str | int]) -> list[str]:
    """The field names of the model at `keys` within `model`."""
    current: Any = model
    free = False  # whether the next key is one of the user's own names
    for key in keys:
        if free or isinstance(key, int):
            free = False
        elif isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(key))
            current = _model_in(field.annotation) if field else None
            free = field is not None and _holds_mapping(field.annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The model within Optional, tuple, list, dict and Annotated types; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Literal:
        return None
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _holds_mapping(annotation: Any) -> bool:
    """Whether the type is a dict, or an Optional or Annotated one."""
    return get_origin(annotation) is dict or (get_origin(annotation) is not tuple and any(
        _holds_mapping(inner) for inner in get_args(annotation)))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal configs give equal texts. value: a model or plain values."""
    if isinstance(value, Model):
        value = value.to_json()
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
