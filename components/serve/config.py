"""The service's whole interface."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.serve.sample_settings import SampleSettings
from components.shared.foreign_files.limits import ReadingLimits
from components.shared.programs.reading_settings import IMAGE_SETTINGS, tiles_need_crop_mode, window_needs_a_size
from components.shared.programs.step_config import StepConfig

MEBIBYTE = 1024 * 1024


class ServeConfig(StepConfig):
    """Read pages over HTTP: an OpenAI-compatible API, and ``/v1/ocr`` for images, TIFFs and PDFs."""

    engine: Literal["embedded", "vllm"] = "embedded"
    """what runs the model: ``embedded`` is this process, on a GPU if there is one, otherwise on the CPU; ``vllm`` is a
    vLLM server, started by this process (``vllm_python``) or running elsewhere (``vllm_address``)"""
    vllm_python: Path | None = None
    """Python interpreter of the environment with vLLM; the service starts the server with it, on a loopback port"""
    vllm_arguments: list[str] = Field(default_factory=list)
    """more arguments of the vLLM server that the service starts, such as ``--max-lora-rank`` and ``128``"""
    vllm_address: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/[^\s]*)?$")
    """address of a running vLLM server, such as ``http://127.0.0.1:8001``; it must read the adapters' folders under the
    same paths"""
    vllm_token_file: Path | None = None
    """file with the API key of ``vllm_address``; by default the environment variable DEEPSYNTH_VLLM_TOKEN"""
    vllm_start_seconds: float = Field(default=900.0, gt=0)
    """time that the vLLM server has until it is healthy"""
    vllm_restarts: int = Field(default=5, ge=0)
    """how often in a row a vLLM server that the service started is started again without having read a page"""
    model: str = "tiny-base"
    """what reads requests that name no model: the folder of an adapter, a package or a model, a package's zip,
    ``models:/NAME@champion`` or ``models:/NAME/VERSION`` in the MLflow registry, a hub id, or ``tiny-base``"""
    adapters: list[str] = Field(default_factory=list)
    """more versions of the same base, written like ``model``; clients ask for them by name"""
    challenger_share: float = Field(default=0.0, ge=0, le=1)
    """share of the requests for ``@champion`` that the version ``@challenger`` reads instead; a hash of the request's
    id decides"""
    registry_poll_seconds: float = Field(default=30.0, ge=0)
    """time between two looks at the aliases of ``model``, if that is a registered model's alias; 0: only after MLflow's
    webhook"""
    base_model: str | None = None
    """folder or hub id of the base; by default what the model's files name"""
    revision: str | None = None
    """commit or tag of a hub model"""
    trust_remote_code: bool = False
    """allow a hub model to run its own Python code; pin ``revision`` with it"""
    base_size: int | None = Field(default=None, ge=1)
    """DeepSeek-OCR-2: pixels of the whole-page view; by default the package's, or the model's own (1024)"""
    image_size: int | None = Field(default=None, ge=1)
    """DeepSeek-OCR-2: pixels of a tile, or of the only view if crop_mode is off; by default the package's, or the
    model's own (768)"""
    crop_mode: bool | None = None
    """DeepSeek-OCR-2: cut pages larger than a tile into tiles; by default as the package says, or on"""
    max_crops: int | None = Field(default=None, ge=2, le=9)
    """DeepSeek-OCR models: at most so many tiles of a page; by default the package's, or the model's own (9, OCR-2 6).
    vLLM cuts at most 6"""
    max_new_tokens: int = Field(default=512, ge=1)
    """longest answer of a page in tokens; where it is not given, a version that is a package has its package's. A page
    that reaches it without an end token is marked as truncated"""
    no_repeat_ngram_size: Annotated[int, Field(ge=2)] | Literal["family", "family-pdf"] | None = None
    """an answer repeats no sequence of this many tokens; ``family`` for the numbers that the model's authors read with
    (DeepSeek-OCR-2: 20 within 90). Where it is not given, as the version's package was evaluated; without one, off"""
    no_repeat_ngram_window: int | None = Field(default=None, ge=2)
    """how many of an answer's last tokens no_repeat_ngram_size looks at; by default all"""

    host: str = "127.0.0.1"
    """address to listen on; any other than a loopback address needs a token or client certificates"""
    port: int = Field(default=8000, ge=0, le=65535)
    """port to listen on; 0 takes a free one and prints it"""
    token_file: Path | None = None
    """file with the clients' bearer tokens, one per line, each as TOKEN or NAME:TOKEN; the environment variable
    DEEPSYNTH_SERVE_TOKEN gives one more"""
    admin_token_file: Path | None = None
    """file with the administrators' tokens, written as in ``token_file``; DEEPSYNTH_SERVE_ADMIN_TOKEN gives one more;
    without any, nobody can load, unload or swap models over HTTP"""
    metrics_token_file: Path | None = None
    """file with the tokens that open ``/metrics`` and nothing else, written as in ``token_file``;
    DEEPSYNTH_SERVE_METRICS_TOKEN gives one more; without any, a client's token opens it"""
    tls_certificate: Path | None = None
    """PEM file with the server's certificate; with it the service speaks HTTPS"""
    tls_key: Path | None = None
    """PEM file with the certificate's private key"""
    tls_client_ca: Path | None = None
    """PEM file with the authority that signs clients' certificates (mTLS): no other client can connect"""

    max_batch_size: int = Field(default=16, ge=1)
    """pages that are read at once; a finished page leaves the batch and a waiting one enters"""
    max_wait_ms: float = Field(default=5.0, ge=0)
    """milliseconds that an idle engine waits for more pages after the first one"""
    max_queued_pages: int = Field(default=256, ge=1)
    """pages of one client that may wait; of all clients twice as many, and what is free is shared between those who
    come; more are refused with 429"""
    max_queued_pixels: int = Field(default=1024 * MEBIBYTE, ge=1)
    """pixels of one client's pages in memory, 3 bytes each, from their opening until their request is answered; of all
    clients twice as many, shared likewise; more are refused with 429"""
    max_uploaded_bytes: int = Field(default=256 * MEBIBYTE, ge=1024)
    """bytes of one client's requests that come or wait until their files are opened; of all clients twice as many,
    shared likewise; more are refused with 429. A request takes twice its size while it is parsed"""
    max_pages_per_request: int = Field(default=100, ge=1)
    """pages of one request; more are refused with 413"""
    max_request_bytes: int = Field(default=64 * MEBIBYTE, ge=1024)
    """bytes of one request; more are refused with 413"""
    max_pixels_per_page: int = Field(default=64 * MEBIBYTE, ge=1)
    """pixels of one page; more are refused with 413"""
    document_processes: int = Field(default=4, ge=1)
    """uploads that are opened at once, each in a process of its own; a process starts when it is first needed"""
    max_document_seconds: float = Field(default=10.0, ge=0.1)
    """CPU seconds that opening one page may take; an upload that takes longer is refused with 400"""
    max_document_gib: float = Field(default=2.0, ge=0.1)
    """GiB of memory that opening one page may take; an upload that takes more is refused with 400"""
    request_timeout_seconds: float = Field(default=120.0, gt=0)
    """time, from its first byte, until a request that has not finished gets 504 (408 while it is still coming) and its
    pages leave the queue or the batch; a client that does not read its answer loses the connection then"""
    max_step_seconds: float = Field(default=600.0, gt=0)
    """engine embedded: time after which a step of the model that does not end makes the liveness probe fail, so that
    Kubernetes starts the service anew; to load a version is no step. Where pages are read in groups, a group is one"""
    drain_seconds: float = Field(default=30.0, ge=0)
    """time that requests have to finish after SIGTERM"""
    drain_notice_seconds: float = Field(default=0.0, ge=0)
    """time after SIGTERM in which new requests are still taken, so that a load balancer sees the failing readiness
    probe first; on Kubernetes take the probe's period times its failureThreshold"""

    samples: SampleSettings = SampleSettings()
    """pages and readings that the service keeps; by default none"""

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key need each other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @model_validator(mode="after")
    def _a_request_fits(self) -> Self:
        if self.max_uploaded_bytes < self.max_request_bytes:
            raise ValueError("max_uploaded_bytes must be at least max_request_bytes")
        return self

    _window_needs_a_size = model_validator(mode="after")(window_needs_a_size)
    _tiles_need_crop_mode = model_validator(mode="after")(tiles_need_crop_mode)

    @model_validator(mode="after")
    def _vllm_has_one_place(self) -> Self:
        places = [name for name in ("vllm_python", "vllm_address") if getattr(self, name) is not None]
        if self.engine == "vllm" and len(places) != 1:
            raise ValueError("engine vllm needs either vllm_python or vllm_address")
        if self.engine != "vllm" and places:
            raise ValueError(f"{places[0]} needs engine vllm")
        if self.vllm_address is None and self.vllm_token_file is not None:
            raise ValueError("vllm_token_file needs vllm_address")
        if self.vllm_python is None and self.vllm_arguments:
            raise ValueError("vllm_arguments needs vllm_python")
        sizes = [name for name in IMAGE_SETTINGS if getattr(self, name) is not None]
        if self.engine == "vllm" and sizes:
            raise ValueError(f"vLLM has no {sizes[0]}: leave it out, or take engine embedded")
        return self

    def document_limits(self) -> ReadingLimits:
        """Return the limits of the processes that open uploads; nothing that libraries print there is kept."""
        memory = round(self.max_document_gib * 2**30)
        return ReadingLimits(seconds=self.max_document_seconds, memory_bytes=memory, message_bytes=0)

    @property
    def only_this_machine(self) -> bool:
        """Whether ``host`` is a loopback address, which other machines cannot reach."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
