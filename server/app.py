"""The application: its routes and its middleware, as two lists."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from server.authentication import Authentication
from server.errors import EXCEPTION_HANDLERS
from server.lifecycle import Availability, Lifecycle
from server.metrics import Metrics
from server.protocol import AbsoluteForm
from server.request_body import RequestBody
from server.request_context import RequestContext
from server.routes.chat import chat_completions
from server.routes.completions import completions
from server.routes.generate import batch_generate, generate
from server.routes.health import health, metrics, ready
from server.routes.models import list_models, retrieve_model
from server.settings import Settings

ALWAYS_ANSWERED = frozenset({"/health", "/ready", "/metrics"})  # while loading and draining too


def create_app(settings: Settings, lifecycle: Lifecycle) -> Starlette:
    """The application over a lifecycle, which holds the models and says when they are ready."""
    app_metrics = Metrics(
        lifecycle.registry, model_name=settings.served_model_name, vllm_names=settings.metrics_prefix_vllm
    )
    lifecycle.observers.append(app_metrics)
    app = Starlette(
        routes=[
            Route("/generate", generate, methods=["POST"]),
            Route("/batch_generate", batch_generate, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/v1/models/{model:path}", retrieve_model),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
        ],
        middleware=[
            Middleware(AbsoluteForm),
            Middleware(RequestContext, metrics=app_metrics),
            *_cors(settings),
            Middleware(Authentication, keys=settings.api_keys, open_paths=_open_paths(settings)),
            Middleware(Availability, lifecycle=lifecycle, open_paths=ALWAYS_ANSWERED),
            Middleware(RequestBody, limit=settings.max_body_bytes),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.lifecycle = lifecycle
    app.state.metrics = app_metrics
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
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    ]


def _open_paths(settings: Settings) -> frozenset[str]:
    return frozenset(
        path
        for path, is_open in (
            ("/health", settings.open_health),
            ("/ready", settings.open_ready),
            ("/metrics", settings.open_metrics),
        )
        if is_open
    )
