"""
``/openapi.json`` from the structs that requests are read into and answers are made of.

quart-schema walks the routes; how a struct becomes a schema is done here, because its own way
keeps one component per struct and leaves references to nested ones hanging.
"""

import ast
import inspect
from functools import cache
from itertools import pairwise
from typing import Any, Final, get_args

import msgspec
from quart import Quart
from quart_schema import Info, OpenAPIProvider, QuartSchema

from kalshibook.http.answers import TickTopRow, TopRow, TopsAnswer

__all__ = ["install_openapi"]

_API_VERSION: Final = "1"
_REFERENCE: Final = "#/components/schemas/{name}"

# Two kinds of rows in one list are told apart by the request, which msgspec's unions cannot say.
_MENTIONED: Final[dict[type[Any], tuple[type[Any], ...]]] = {TopsAnswer: (TopRow, TickTopRow)}

_DESCRIPTION: Final = (
    "Every Kalshi order book, always consistent. Each answer is read from one version of the store and says "
    "which; each book says how far it can be trusted. Errors are `{code, message, details}`."
)


class _Provider(OpenAPIProvider):
    def build_querystring_parameters(self, model: type[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Describe a query string; what may be left out is not sent as null."""
        schema, components = _schema(model)
        own = components.pop(schema["$ref"].rpartition("/")[2])
        required = own.get("required", [])
        parameters = []
        for name, described in own["properties"].items():
            facts = _without_null(described)
            parameter = {"name": name, "in": "query", "required": name in required, "schema": facts}
            if "description" in facts:
                parameter["description"] = facts.pop("description")
            parameters.append(parameter)
        return parameters, components

    def build_request_body(
        self,
        model: type[Any],
        source: object,  # noqa: ARG002 - quart-schema's signature
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Describe a JSON body."""
        schema, components = _schema(model)
        return {"required": True, "content": {"application/json": {"schema": schema}}}, components

    def build_response_object(
        self,
        model: type[Any],
        headers_model: type[Any] | None,  # noqa: ARG002 - quart-schema's signature
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Describe a JSON answer."""
        schema, components = _schema(model)
        content = {"application/json": {"schema": schema}}
        return {"description": inspect.getdoc(model) or "", "content": content}, components

    def build_path_parameter(
        self,
        name: str,
        converter: object,  # noqa: ARG002 - quart-schema's signature
    ) -> dict[str, Any]:
        """Describe a part of the path, which is always a ticker."""
        return {
            "name": name,
            "in": "path",
            "required": True,
            "description": "The market's ticker, case-sensitive.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        }


def install_openapi(app: Quart) -> None:
    """Serve the description of every endpoint of `app` at ``/openapi.json``."""
    # The pages that come with quart-schema load their scripts from elsewhere; ours, at /docs, does not.
    QuartSchema(
        app,
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        info=Info(title="kalshibook", version=_API_VERSION, description=_DESCRIPTION),
        conversion_preference="msgspec",
        openapi_provider_class=_Provider,
    )


def _schema(model: type[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    models = (model, *_MENTIONED.get(model, ()))
    (schema, *_), components = msgspec.json.schema_components(models, ref_template=_REFERENCE)
    for described in models:
        _describe(described, components)
    return schema, components


def _describe(model: Any, components: dict[str, Any]) -> None:
    """Add what stands below the fields in the source, which msgspec does not see."""
    if inspect.isclass(model) and issubclass(model, msgspec.Struct):
        for name, text in _field_texts(model).items():
            components[model.__name__]["properties"][name].setdefault("description", text)
        for field in msgspec.structs.fields(model):
            _describe(field.type, components)
    for part in get_args(model):
        _describe(part, components)


@cache
def _field_texts(model: type[msgspec.Struct]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__.startswith("kalshibook."):
            (node,) = ast.parse(inspect.getsource(base)).body
            assert isinstance(node, ast.ClassDef)
            for field, below in pairwise(node.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                        value=ast.Constant(value=str(text))
                    ):
                        texts[name] = inspect.cleandoc(text)
    return texts


def _without_null(described: dict[str, Any]) -> dict[str, Any]:
    facts = {name: value for name, value in described.items() if not (name == "default" and value is None)}
    choices = [choice for choice in facts.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        facts.update(choices[0])
    if None in facts.get("enum", ()):
        facts["enum"] = [choice for choice in facts["enum"] if choice is not None]
    return facts
