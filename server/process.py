"""The server as a process: it listens at once, loads the model meanwhile, drains at a signal."""

import asyncio
import os
import signal
import socket
import ssl
import sys
import threading
import time
from types import FrameType

import structlog
import uvicorn
from prometheus_client import disable_created_metrics
from starlette.applications import Starlette

from llm_jax.errors import ConfigError
from llm_jax.memory import uncollected
from server.access.keys import Keys
from server.adapters import Adapters, find_adapters
from server.app import create_app
from server.http.protocol import protocol
from server.lifecycle import Lifecycle
from server.logs import configure_logging
from server.settings import Settings

log = structlog.get_logger("server")
KEEP_ALIVE = 75  # seconds; longer than the 60 after which common load balancers drop an idle connection


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigError: the address cannot be listened on, the certificate or the file of API keys cannot be read, or the
            device is not there.
        LLMError: the model cannot be loaded.
    """
    configure_logging(settings)
    _check_tls(settings)
    disable_created_metrics()  # a second series for every counter, and useless
    listener = _listen(settings)
    lifecycle = Lifecycle()
    server = Server(create_app(settings, lifecycle), settings, lifecycle, listener)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure
    if server.loading.is_alive():  # inside XLA, where an orderly exit of the interpreter would crash
        sys.stdout.flush()
        os._exit(0)


class Server(uvicorn.Server):
    """Uvicorn, which loads the model meanwhile, and which a signal drains before it stops.

    Attributes:
        loading: the thread that loads the model.
        failure: why it could not.
    """

    def __init__(self, app: Starlette, settings: Settings, lifecycle: Lifecycle, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http=protocol(settings.read_timeout),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            ssl_keyfile_password=settings.tls_key_password,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self.failure: BaseException | None = None
        self._settings = settings
        self._lifecycle = lifecycle
        self._keys: Keys = app.state.keys
        self._adapters: Adapters = app.state.adapters
        self._url = _url(listener, "http" if settings.tls_certificate is None else "https")
        self._signals = 0
        # A daemon, because loading cannot be interrupted and must not hold up an exit.
        self.loading = threading.Thread(target=self._load, name="llm-load", daemon=True)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        log.info("listening", url=self._url, model=", ".join(self._settings.model) or "the bundled demo model")
        self.loading.start()
        await super().serve(sockets)
        await self._lifecycle.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second one stops at once. Unlike uvicorn's own, it leaves the exit code 0."""
        self._signals += 1
        if self._signals == 1:
            self._loop.call_soon_threadsafe(self._begin_drain)
        else:
            self.should_exit = self.force_exit = True

    def _reload(self) -> None:
        """Reads the file of API keys and the directory of adapters anew."""
        try:
            log.info("reloaded", accounts=self._keys.reload())
        except ConfigError as error:
            log.error("not reloaded", reason=str(error))
        self._reloading = self._loop.create_task(self._adapters.refresh())

    def _begin_drain(self) -> None:
        log.info("draining", grace=self._settings.drain_grace)
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        await self._lifecycle.drain(self._settings.drain_grace)
        self.should_exit = True

    def _load(self) -> None:
        begin = time.perf_counter()
        try:
            with uncollected():  # not before: it imports JAX, and the server listens meanwhile
                from server.loading import load_models

            found = find_adapters(self._settings)
            models = load_models(self._settings, found, observers=self._lifecycle.observers)
        except BaseException as error:
            self.failure = error
            self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._lifecycle.become_ready, *models)
        self._loop.call_soon_threadsafe(self._adapters.remember, found)
        key = "" if not self._keys.is_needed else " -H 'X-API-Key: …'"
        log.info(
            "ready",
            url=self._url,
            seconds=round(time.perf_counter() - begin, 2),
            try_it=f"""curl {self._url}/generate{key} -d '{{"prompt": "Once upon a time"}}'""",
        )


def _check_tls(settings: Settings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is not None:
        raise ConfigError(f"--tls-key is {key!r} without --tls-certificate; give both, or neither.")
    if certificate is not None:
        try:
            ssl.create_default_context().load_cert_chain(certificate, key, settings.tls_key_password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"The certificate {certificate!r} with the key {key or certificate!r} cannot be used: {error}. "
                "Both must be PEM, and belong together."
            ) from None


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}. Choose another --host or --port."
        ) from None


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
