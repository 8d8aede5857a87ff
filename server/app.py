"""The application: its routes and its middleware, as two lists."""

from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from server.access.account import RATE_LIMIT_HEADERS
from server.access.keys import Keys
from server.adapters import Adapters
from server.http.authentication import Authentication
from server.http.canonical_path import CanonicalPath
from server.http.errors import EXCEPTION_HANDLERS
from server.http.openapi import openapi_document
from server.http.protocol import AbsoluteForm
from server.http.request_body import RequestBody
from server.http.request_context import RequestContext
from server.lifecycle import Availability, Lifecycle
from server.metrics import Metrics
from server.routes.adapters import ADMIN_PATHS, load_adapter, unload_adapter
from server.routes.chat import chat_completions
from server.routes.completions import completions
from server.routes.documentation import docs, openapi
from server.routes.embeddings import embeddings
from server.routes.generate import batch_generate, generate
from server.routes.health import health, metrics, ready
from server.routes.messages import count_tokens, messages
from server.routes.models import list_models, retrieve_model
from server.routes.operation import Operation
from server.routes.page import PAGE_PATHS, PAGE_ROUTES
from server.routes.responses import responses
from server.routes.tokenize import detokenize, tokenize
from server.routes.unsupported import unsupported_routes
from server.routes.version import version
from server.schemas.adapters import LoadAdapterBody, UnloadAdapterBody
from server.schemas.anthropic import CountTokensBody, MessagesBody
from server.schemas.embeddings import EmbeddingBody
from server.schemas.generate import BatchGenerateBody, GenerateBody
from server.schemas.openai import ChatBody, CompletionBody
from server.schemas.responses import ResponseBody
from server.schemas.tokenize import DetokenizeBody, TokenizeBody, TokenizeChatBody
from server.settings import Settings
from server.traces import Traces, otlp_exporter

# While loading and draining too.
ALWAYS_ANSWERED = PAGE_PATHS | {"/health", "/ready", "/metrics", "/version", "/openapi.json", "/docs"}

OPERATIONS = [
    Operation("/v1/chat/completions", chat_completions, ChatBody, generates=True),
    Operation("/v1/completions", completions, CompletionBody, generates=True),
    Operation("/v1/responses", responses, ResponseBody, generates=True),
    Operation("/v1/messages", messages, MessagesBody, generates=True),
    Operation("/v1/messages/count_tokens", count_tokens, CountTokensBody),
    Operation("/v1/embeddings", embeddings, EmbeddingBody, generates=True),
    Operation("/v1/models", list_models),
    Operation("/v1/models/{model:path}", retrieve_model),
    Operation("/v1/load_lora_adapter", load_adapter, LoadAdapterBody),
    Operation("/v1/unload_lora_adapter", unload_adapter, UnloadAdapterBody),
    Operation("/tokenize", tokenize, TokenizeBody, TokenizeChatBody),
    Operation("/detokenize", detokenize, DetokenizeBody),
    Operation("/generate", generate, GenerateBody, generates=True, invalid_status=422),
    Operation("/batch_generate", batch_generate, BatchGenerateBody, generates=True, invalid_status=422),
    Operation("/health", health),
    Operation("/ready", ready),
    Operation("/metrics", metrics, answer="text/plain"),
    Operation("/version", version),
]
ROUTES = [
    *OPERATIONS,
    *PAGE_ROUTES,
    Route("/openapi.json", openapi),
    Route("/docs", docs),
    *unsupported_routes(),
]


def create_app(settings: Settings, lifecycle: Lifecycle) -> Starlette:
    """The application over a lifecycle, which holds the models and says when they are ready.

    Raises:
        ConfigError: the file of API keys cannot be read.
    """
    keys = Keys(settings.api_keys, settings.api_key_file)
    app_metrics = Metrics(lifecycle.registry, vllm_names=settings.metrics_prefix_vllm)
    lifecycle.observers.append(app_metrics)
    if settings.otlp_traces_endpoint:
        lifecycle.observers.append(Traces(otlp_exporter(settings.otlp_traces_endpoint)))
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(AbsoluteForm),
            Middleware(CanonicalPath, routes=ROUTES),
            Middleware(RequestContext, metrics=app_metrics),
            *_cors(settings),
            Middleware(Authentication, keys=keys, open_paths=_open_paths(settings)),
            Middleware(Availability, lifecycle=lifecycle, open_paths=ALWAYS_ANSWERED),
            Middleware(RequestBody, limit=settings.max_body_bytes, timeout=settings.read_timeout),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.lifecycle = lifecycle
    app.state.metrics = app_metrics
    app.state.keys = keys
    app.state.adapters = Adapters(lifecycle.registry, settings)
    app.state.openapi = partial(
        openapi_document,
        OPERATIONS,
        open_paths=_open_paths(settings),
        admin_paths=ADMIN_PATHS,
        needs_key=keys.is_needed,
    )
    return app


def _cors(settings: Settings) -> list[Middleware]:
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["X-Request-ID", "Retry-After", "Retry-After-Ms", *RATE_LIMIT_HEADERS],
        )
    ]


def _open_paths(settings: Settings) -> frozenset[str]:
    """What is answered without a key, or with one of its own."""
    return (
        PAGE_PATHS
        | ADMIN_PATHS
        | frozenset(
            path
            for path, is_open in (
                ("/health", settings.open_health),
                ("/ready", settings.open_ready),
                ("/metrics", settings.open_metrics),
            )
            if is_open
        )
    )
