"""The settings of a training run: one frozen dataclass per section of the YAML file.

`load_train_config` fills these from a file, the environment and the command line.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llm_jax.config import LoraConfig, require
from llm_jax.errors import ConfigError
from llm_jax.memory import parse_memory
from llm_jax.training.config.durations import Duration
from llm_jax.training.config.model_section import ModelSection
from llm_jax.training.config.objectives import DistillationConfig, PreferenceConfig

TaskName = Literal["lm", "sft", "dpo", "distill", "regression"]
LOGS = "logs"
WINDOW = 1024  # tokens of a window, at most, of a model to start from, unless data.max_seq_len says it


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where text comes from and how it is cut into windows."""

    tokenizer_type: Literal["simple", "bpe", "hf"] = "simple"  # simple: one token per character
    tokenizer_path: str | None = None  # a saved tokenizer; hf also takes a Hub name. None: made from the training text
    vocab_size: int = 1024  # of a BPE tokenizer trained here
    chat_template: str | None = None  # a Jinja file that replaces the tokenizer's template, in the saved model too
    # Files, directories, globs: .txt, .jsonl, .json (also .gz, .zst), .parquet, .arrow. A list of them is one dataset,
    # a mapping from path to weight a mixture, of which each gives that proportion of the examples.
    dataset_path: str | tuple[str, ...] | dict[str, float] | None = None
    val_dataset_path: str | tuple[str, ...] | None = None  # None: the last val_fraction of the training data
    val_fraction: float = 0.1
    validation: dict[str, str] = field(default_factory=dict)  # further datasets to measure the loss on, by name
    cache_dir: str | None = None  # where tokens are stored; the user's cache folder
    cache_limit: str | None = "100GB"  # of those; beyond it the least recently used ones go. None: no limit
    # stream: windows of one stream of all texts, of which each sees those before; documents: texts are packed into rows
    # and see themselves alone; none: each has a row of its own. None: documents, but stream without an end-of-text id
    packing: Literal["stream", "documents", "none"] | None = None
    max_seq_len: int | None = None  # tokens per training window; model.max_seq_len
    overlap: int = 0  # tokens that a window shares with the one before it

    def __post_init__(self) -> None:
        require(self.vocab_size >= 258, self, "vocab_size", "at least 258: 256 bytes and two special tokens")
        limited = self.cache_limit is None or self.cache_bytes < math.inf
        require(limited, self, "cache_limit", "an amount such as 100GB, or null for no limit")
        require(0.0 < self.val_fraction < 1.0, self, "val_fraction", "above 0 and below 1")
        require(self.max_seq_len is None or self.max_seq_len >= 1, self, "max_seq_len", "at least 1, or unset")
        require(self.overlap >= 0, self, "overlap", "at least 0")
        in_stream = self.packing in (None, "stream")
        require(in_stream or not self.overlap, self, "overlap", "0 unless data.packing is stream")
        weights = self.dataset_path.values() if isinstance(self.dataset_path, dict) else ()
        require(all(weight > 0 for weight in weights), self, "dataset_path", "a mapping to weights above 0")

    @property
    def cache_bytes(self) -> float:
        """What stored tokens may take, at most."""
        return math.inf if self.cache_limit is None else parse_memory(self.cache_limit, free=None)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of the run, learning rate and its schedule, regularisation, stopping early."""

    batch_size: int = 128
    epochs: int = 10
    num_samples: int = 20000  # regression only
    seed: int = 0

    # Lengths are "500 steps", "2.5M tokens" or "0.5 epochs".
    length: str | None = None  # of the run: `epochs` of them
    evaluate_every: str | None = None  # how often the validation loss is measured: each epoch

    optimizer: Literal["adamw", "muon", "adafactor", "lion", "schedule_free"] = "adamw"
    lr: float = 1e-3  # at its peak, after the warm-up
    min_lr: float = 0.0  # where the cosine ends, and the floor of every schedule
    # step: lr is multiplied by lr_decay every step_epochs; wsd: constant, then down in the last `cooldown` of the run
    scheduler_type: Literal["cosine", "linear", "constant", "wsd", "step", "plateau"] = "cosine"
    warmup: str | None = None  # a length: warmup_epochs
    warmup_epochs: float = 1.0  # linear from 0; never more than half of the run
    cooldown: float = 0.2
    step_epochs: int = 10
    plateau_patience: int = 2  # plateau: … or after more than this many epochs without a better validation loss
    lr_decay: float = 0.1

    weight_decay: float = 0.01  # on matrices; never on biases and norms
    beta1: float = 0.9
    beta2: float | None = None  # 0.95 for decoders, 0.999 for regression
    muon_momentum: float = 0.95
    moment_dtype: Literal["float32", "bfloat16"] = "float32"  # of adamw's, muon's and lion's first moment, stored
    ema_decay: float | None = None  # what is validated and saved is an average of the parameters over the steps
    gradient_clip_val: float | None = 1.0  # global norm
    z_loss: float = (
        0.0  # times the squared logsumexp of the logits, added to the loss (arXiv:2204.02311); 1e-4 is usual
    )
    router_aux_loss_coef: float = 0.0  # of experts: times the loss that balances their use; Mixtral has 0.02
    router_z_loss_coef: float = 0.0  # of experts: times the squared logsumexp of the router's scores; 1e-3 is usual
    freeze: tuple[str, ...] = ()  # regular expressions: parameters in whose names one is found stay as they are

    run_validation: bool = True
    early_stopping_patience: int | None = None  # epochs in a row without improvement; None: never stop early
    early_stopping_min_delta: float = 0.0
    max_skipped_steps: int = 10  # in a row, whose loss or gradient is not finite; the next one ends the run

    def __post_init__(self) -> None:
        require(self.max_skipped_steps >= 0, self, "max_skipped_steps", "at least 0")
        for name in ("batch_size", "epochs", "num_samples", "step_epochs"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(0 <= self.seed < 2**32, self, "seed", "0 to 4294967295")
        require(0.0 < self.lr < float("inf"), self, "lr", "above 0")
        require(0.0 <= self.min_lr <= self.lr, self, "min_lr", f"0 to lr ({self.lr})")
        require(0.0 < self.lr_decay <= 1.0, self, "lr_decay", "above 0 and at most 1")
        at_least_0 = ("warmup_epochs", "plateau_patience", "weight_decay", "early_stopping_min_delta")
        for name in (*at_least_0, "z_loss", "router_aux_loss_coef", "router_z_loss_coef"):
            require(getattr(self, name) >= 0, self, name, "at least 0")
        for name in ("length", "evaluate_every", "warmup"):
            if getattr(self, name) is not None:
                Duration.parse(getattr(self, name), name)
        has_moment = self.moment_dtype == "float32" or self.optimizer in ("adamw", "muon", "lion")
        require(has_moment, self, "moment_dtype", f"float32 with {self.optimizer}, which stores no first moment")
        require(0.0 < self.cooldown <= 1.0, self, "cooldown", "above 0 and at most 1")
        for name in ("beta1", "beta2", "muon_momentum", "ema_decay"):
            value = getattr(self, name)
            require(value is None or 0.0 <= value < 1.0, self, name, "at least 0 and below 1")
        clip, patience = self.gradient_clip_val, self.early_stopping_patience
        require(clip is None or clip > 0, self, "gradient_clip_val", "above 0, or null for no clipping")
        require(patience is None or patience >= 1, self, "early_stopping_patience", "at least 1, or null")
        require(patience is None or self.run_validation, self, "early_stopping_patience", "null without run_validation")
        schedulable = self.scheduler_type != "plateau" or self.run_validation
        allowed = "another without run_validation: plateau watches the validation loss"
        require(schedulable, self, "scheduler_type", allowed)


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How the step is computed; these change the result by rounding alone."""

    use_compile: bool = True  # false: operation by operation, to debug; very slow
    use_amp: bool = False  # compute in amp_dtype; parameters and optimiser stay in float32
    amp_dtype: Literal["auto", "float16", "bfloat16"] = "auto"  # auto: bfloat16, but float16 on GPUs before Ampere
    num_workers: int = 4  # threads that prepare batches; 0: none
    prefetch_factor: int = 2  # batches that each of them prepares ahead
    gradient_accumulation_steps: int = 1  # batches of training.batch_size per optimiser step

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, self, "num_workers", "at least 0")
        for name in ("prefetch_factor", "gradient_accumulation_steps"):
            require(getattr(self, name) >= 1, self, name, "at least 1")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where and how often the run is saved, and whether it resumes an earlier one."""

    checkpoint_dir: str = "checkpoints"
    resume_from_checkpoint: str | None = None  # "auto": checkpoint_dir, if it holds a run; or a run directory
    save_interval: int = 1  # epochs
    save_interval_steps: int | None = None  # optimiser steps, in addition
    save_every: str | None = None  # a length ("500 steps", "10M tokens"), in place of save_interval
    keep_last_n: int = 5  # newest states
    keep_best_n: int = 0  # states of epochs with the best best_metric, in addition
    save_best: bool = True  # the model of the epoch with the best best_metric
    best_metric: str = "validation_loss"  # or another number that is measured at the end of an epoch
    best_mode: Literal["min", "max"] = "min"  # whether a lower or a higher best_metric is better

    def __post_init__(self) -> None:
        for name in ("save_interval", "keep_last_n"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.keep_best_n >= 0, self, "keep_best_n", "at least 0")
        if self.save_every is not None:
            Duration.parse(self.save_every, "save_every")
        steps = self.save_interval_steps
        require(steps is None or steps >= 1, self, "save_interval_steps", "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is reported, and the directory for TensorBoard."""

    log_interval: int = 10  # optimiser steps
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_dir: str = LOGS  # of TensorBoard's files; logs: inside the run
    sample_prompts: tuple[str, ...] = ()  # continued, or answered by what learns to answer, at every evaluation
    sample_tokens: int = 60
    tasks: tuple[str, ...] = ()  # of lm-evaluation-harness, measured at every evaluation
    tasks_path: str | None = None  # a directory with tasks of one's own
    tasks_limit: int | None = None  # the most questions of each
    profile_steps: int = 0  # traced by XLA's profiler, from the third step of a process on
    wandb_project: str | None = None  # of Weights & Biases, where measurements go too

    def __post_init__(self) -> None:
        for name in ("log_interval", "sample_tokens"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.profile_steps >= 0, self, "profile_steps", "at least 0")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices of a run are arranged: parts of a batch on data · fsdp of them, of parameters on fsdp · model."""

    data: int | None = None  # copies of the parameters; None: as many as there are devices for
    fsdp: int = 1  # devices that parameters and optimiser are divided among, each with its part of the batch
    model: int = 1  # devices that each matrix is divided among

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "model"):
            size = getattr(self, name)
            require(size is None or size >= 1, self, name, "at least 1")


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """One process per node; node 0 listens at master_addr:master_port. The devices of all form one mesh."""

    num_nodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 29500
    auto_detect: bool = False  # all four from the launcher (SLURM, Open MPI, Kubernetes), as JAX recognises it
    mesh: MeshConfig | None = None  # None: one device, or with several nodes data parallelism over the devices of all

    def __post_init__(self) -> None:
        require(self.num_nodes >= 1, self, "num_nodes", "at least 1")
        require(0 <= self.node_rank < self.num_nodes, self, "node_rank", f"0 to num_nodes - 1 ({self.num_nodes - 1})")
        require(0 < self.master_port < 65536, self, "master_port", "1 to 65535")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        model_given: fields of `model` that were set, if only to their defaults: vocab_size, which else follows the
            tokenizer, and with model.init_from all of the architecture's, which else are that model's.
    """

    model: ModelSection = field(default_factory=ModelSection)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    model_given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.model.init_from is None:
            self.window_within(self.model.max_seq_len)

    @property
    def log_dir(self) -> Path:
        """logging.log_dir, inside the run unless it is set."""
        inside = self.logging.log_dir == LOGS
        return Path(self.checkpoint.checkpoint_dir) / LOGS if inside else Path(self.logging.log_dir)

    def window_within(self, max_seq_len: int) -> int:
        """Tokens that a model of this context sees at once in training.

        Raises:
            ConfigError: data.max_seq_len is longer than that, or data.overlap no shorter than the window.
        """
        window = self.data.max_seq_len or (max_seq_len if self.model.init_from is None else min(max_seq_len, WINDOW))
        if window > max_seq_len:
            raise ConfigError(
                f"data.max_seq_len is {window}, but model.max_seq_len is {max_seq_len}: "
                f"make the windows shorter or set model.max_seq_len to {window}."
            )
        if self.data.overlap >= window:
            raise ConfigError(
                f"data.overlap is {self.data.overlap}; it must be below the window of {window} tokens "
                "(data.max_seq_len), or windows would never move on."
            )
        return window
