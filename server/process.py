"""The server as a process: listen at once, load behind the open port, drain at a signal."""

import asyncio
import socket
import sys
import threading
import time
from concurrent.futures import Future
from types import FrameType

import structlog
import uvicorn

from llm_jax.errors import ConfigError, LLMError
from server.app import create_app
from server.lifecycle import Lifecycle
from server.loading import load_engine
from server.logs import configure_logging
from server.metrics import Metrics
from server.settings import Settings

log = structlog.get_logger("server")
