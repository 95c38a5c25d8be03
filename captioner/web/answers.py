"""The requests and answers of the API, as its OpenAPI document describes them."""

# Without ``from __future__ import annotations``, because FastAPI reads the types.

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXTS, MAX_LETTERS = 1000, 2000
"""Most captions in a request, and most letters of each."""

Text = Annotated[str, Field(max_length=MAX_LETTERS)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageRequest(_Request):
    """An image in JSON: its file, or its address."""

    image: str | None = Field(None, description="the image's file in base64, or as a data URL")
    url: str | None = Field(
        None,
        max_length=4096,
        description="instead of it, its address on the web; only if the server was started with --allow-addresses",
    )
    name: str = Field("", max_length=255, description="the file name, which the answer repeats")


class TranslationRequest(_Request):
    """Captions to translate."""

    language: str = Field(max_length=20, description="one of the languages listed by /health")
    texts: list[Text] = Field(min_length=1, max_length=MAX_TEXTS, description="English captions, one sentence each")


class PhotoCaptions(_Request):
    """The captions of a photo."""

    name: str = Field(min_length=1, max_length=255, description="the photo's file name")
    captions: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,20}$")], Text] = Field(
        min_length=1, max_length=8, description="by language; most programs show the first"
    )
    edited: list[str] = Field(
        default_factory=list, max_length=8, description="languages whose caption a person has edited"
    )


class SidecarsRequest(_Request):
    """Captions to put next to photos."""

    format: Literal["xmp", "txt"] = Field("xmp", description="the kind of the files")
    photos: list[PhotoCaptions] = Field(min_length=1, max_length=MAX_TEXTS, description="the photos")


def body_of(*contents: tuple[str, dict[str, Any]], description: str) -> dict[str, Any]:
    """Return the ``requestBody`` of OpenAPI, with the schema of each media type."""
    content = {kind: {"schema": schema} for kind, schema in contents}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a request, whole."""
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    parts = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(parts[value["$ref"].rpartition("/")[2]])
            return {name: inlined(each) for name, each in value.items()}
        return [inlined(each) for each in value] if isinstance(value, list) else value

    whole: dict[str, Any] = inlined(schema)
    return whole


_BINARY = {"type": "string", "format": "binary", "description": "the image's file"}
IMAGE = body_of(
    ("multipart/form-data", {"type": "object", "required": ["image"], "properties": {"image": _BINARY}}),
    ("application/octet-stream", _BINARY),
    ("application/json", schema_of(ImageRequest)),
    description="The image: as the field `image` of a form, as the body itself, or in JSON.",
)


class ErrorResponse(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="the reason, and what to do")


_REASONS = {
    400: "The request has no image, or its form or JSON cannot be read.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site, or has an address and this server fetches none.",
    404: "The model is not served.",
    408: "The request did not arrive in time.",
    413: "The request has too many bytes.",
    415: "The request is compressed.",
    421: "The server is not called by this name.",
    422: "The image cannot be read or fetched, or a parameter or a field is invalid.",
    429: "Too many requests from this address; retry after the seconds in Retry-After.",
    500: "The model cannot be loaded, or fails.",
    503: "Too many images are waiting, or this one waited too long; retry after the seconds in Retry-After.",
}


def answers(*statuses: int, found: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of the responses of an endpoint: its errors, and those that are not JSON."""
    failed: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": _REASONS[status]} for status in statuses
    }
    return ({200: found} if found else {}) | failed


LOG_PROBABILITY = "natural logarithm, summed over the words and the end token"


class OtherCaption(BaseModel):
    """One of the next best captions."""

    caption: str = Field(description="the sentence")
    log_probability: float = Field(description=LOG_PROBABILITY)


class TranslationResponse(BaseModel):
    """A caption in another language."""

    language: str = Field(description="its language")
    text: str = Field(description="the sentence")


class TranslationsResponse(BaseModel):
    """Captions in another language."""

    language: str = Field(description="their language")
    texts: list[str] = Field(description="the translations, in the order of the request")


class CaptionResponse(BaseModel):
    """The caption of an image."""

    image: str = Field(description="the file name, if it was sent")
    model: str = Field(description="the model")
    caption: str = Field(description="the sentence")
    tokens: list[str] = Field(description="the words generated by the model")
    log_probability: float = Field(description=LOG_PROBABILITY)
    translation: TranslationResponse | None = Field(None, description="with language=de: the caption in German")
    others: list[OtherCaption] = Field(default_factory=list, description="the next best captions, best first")
    attention: list[list[float]] | None = Field(
        None, description="with attention=true: for each word the weights of all regions or cells, which sum to one"
    )
    attention_of: str | None = Field(None, description="kind of attention: the mean over all heads")
    grid: tuple[int, int] | None = Field(None, description="rows and columns, if the model attends to a grid")
    boxes: list[list[float]] | None = Field(
        None, description="x0, y0, x1, y1 of each region, if the model attends to regions; relative to `seen`"
    )
    labels: list[str] | None = Field(None, description="the detector's labels of the regions")
    scores: list[float] | None = Field(None, description="the detector's confidence in each label")
    seen: tuple[float, float, float, float] | None = Field(
        None, description="x0, y0, x1, y1 of the part of the image that the model saw; relative to the image"
    )
    figure: dict[str, Any] | None = Field(None, description="with figure=true: data for the page's explorer")


class HealthResponse(BaseModel):
    """State of the server."""

    status: Literal["ok"] = Field("ok", description="it answers")
    version: str = Field(description="of the program")
    models: list[str] = Field(description="all served models, the default first")
    loaded: list[str] = Field(description="models in memory; others are loaded at their first request")
    languages: list[str] = Field(description="languages into which captions are translated")
    formats: list[str] = Field(description="image formats that are read")
    waiting: int = Field(description="images waiting for a batch")
