"""A training run from its configuration to its directory."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from llm_jax.checkpoint import tree_digest
from llm_jax.data import Batches, Source
from llm_jax.memory import return_freed_memory
from llm_jax.model import Model, Params
from llm_jax.parallel import is_first, text_of_first
from llm_jax.tokenizers import Tokenizer
from llm_jax.training.config import SECTIONS, LoggingConfig, TaskName, TrainConfig, write_config
from llm_jax.training.console import RunConsole
from llm_jax.training.disk import full_disk_explained
from llm_jax.training.footprint import compiled_beforehand, parts_of
from llm_jax.training.identity import Identity
from llm_jax.training.loop import Loop
from llm_jax.training.metrics import LossPlot, MetricsFile, Sink, TensorBoard, WeightsAndBiases
from llm_jax.training.optimizer import evaluated_params, make_optimizer
from llm_jax.training.placement import Placement, collected, join
from llm_jax.training.precision import compute_dtype
from llm_jax.training.profile import profiled
from llm_jax.training.progress import Progress
from llm_jax.training.run_directory import RunDirectory, run_to_resume
from llm_jax.training.saving import Saver
from llm_jax.training.schedules import Timetable
from llm_jax.training.signals import StopRequest, stop_on_signals
from llm_jax.training.speed import Speed, peak_flops
from llm_jax.training.step import TrainState, initial_state, make_eval_step, make_train_step
from llm_jax.training.tasks import TASKS, Task, TaskBuilder
from llm_jax.training.validation import Validation
from llm_jax.training.versions import versions

ANSWERING: tuple[TaskName, ...] = ("sft", "dpo")  # tasks whose models answer a prompt, and do not go on with it
Samples = Callable[[TrainState, Params], Iterable[tuple[str, str]]]
Scores = Callable[[TrainState, Params], Mapping[str, float]]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        unit: "tokens" or "samples", what losses are averaged over.
        signum: the signal that stopped it, None where it ended by itself.
    """

    run: RunDirectory
    progress: Progress
    total_steps: int
    unit: str
    baseline_name: str
    baseline: float
    signum: int | None

    @property
    def is_text(self) -> bool:
        return self.unit == "tokens"


# Writes text with a model: (model, tokenizer, prompt, whether to answer it as a message, tokens) -> text.
Writer = Callable[[Model, Tokenizer, str, bool, int], str]
# Measures a model: its metrics by name.
Examiner = Callable[[Model, Tokenizer], Mapping[str, float]]


def train(
    task_name: TaskName | TaskBuilder,
    config: TrainConfig,
    *,
    writer: Writer | None = None,
    examiner: Examiner | None = None,
) -> TrainingResult:
    """Train as configured; models, metrics and state are written to checkpoint.checkpoint_dir.

    >>> from tempfile import mkdtemp
    >>> from llm_jax.training import CheckpointConfig, LoggingConfig, TrainConfig, TrainingConfig
    >>> training, checkpoint = TrainingConfig(num_samples=100), CheckpointConfig(checkpoint_dir=mkdtemp())
    >>> logging = LoggingConfig(log_level="ERROR", log_dir=mkdtemp())
    >>> train("regression", TrainConfig(training=training, checkpoint=checkpoint, logging=logging)).total_steps
    10

    Args:
        task_name: one of TASKS, or what makes a task of another kind.
        writer: of the samples that logging.sample_prompts asks for.
        examiner: measures the model at every evaluation, besides its loss.

    Raises:
        ConfigError, DataError, TokenizerError, CheckpointError: something is missing or contradicts something else.
        TrainingError: the loss is no longer finite.
    """
    join(config.distributed)
    console = RunConsole(config.logging.log_level if is_first() else "ERROR")
    resumed = run_to_resume(config.checkpoint)
    if resumed is None and config.checkpoint.resume_from_checkpoint is not None:
        console.say(f"There is no saved run in {config.checkpoint.checkpoint_dir} to resume: starting anew.", "WARNING")
    build = TASKS[task_name] if isinstance(task_name, str) else task_name
    task = build(config, resumed.last if resumed else None)
    for note in task.notes:
        console.say(note, "WARNING")
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        if not config.optimization.use_compile:
            console.say("use_compile is false: every operation runs by itself, to debug. This is very slow.", "WARNING")
            stack.enter_context(jax.disable_jit())
        placement = Placement.of(config.distributed, task.decoder, config.training.batch_size)
        if placement.mesh is not None:
            stop.mesh = placement.mesh
            stack.enter_context(jax.set_mesh(placement.mesh))
        stack.enter_context(RunDirectory(Path(config.checkpoint.checkpoint_dir)).lock())
        samples = partial(_samples, task, task_name in ANSWERING, config.logging, writer)
        scores = partial(_scores, task, examiner)
        loop = _build_loop(task, config, placement, resumed, console, stop, stack, samples, scores)
        _announce(loop, task)
        loop.run()
    name, baseline = task.baseline
    return TrainingResult(loop.saver.run, loop.progress, loop.total_steps, task.unit, name, baseline, stop.signum)


def _build_loop(
    task: Task,
    config: TrainConfig,
    placement: Placement,
    resumed: RunDirectory | None,
    console: RunConsole,
    stop: StopRequest,
    stack: contextlib.ExitStack,
    samples: Samples,
    scores: Scores,
) -> Loop:
    """The loop of a fresh or a resumed run, with its directory prepared and its sinks open until `stack` ends."""
    seed, dtype = config.training.seed, compute_dtype(config.optimization)
    optimizer = make_optimizer(config.training, beta2=task.beta2, fused=task.fused_rows)
    batches, evaluate = _training_batches(task, config, placement), make_eval_step(task.loss, dtype=dtype)
    validation, *others = (
        None if source is None else Validation(evaluate, _in_order(source, config, placement), placement)
        for source in (task.validation, *task.validations.values())
    )
    tokens = batches.size * math.prod(task.train[0]["weights"].shape)
    times = Timetable.of(config.training, config.checkpoint, per_epoch=batches.per_epoch, tokens_per_step=tokens)
    with placement.on_host():
        frozen, trainable = task.init_frozen(seed), task.init_trainable(seed)
    frozen, trainable = placement.put_params(frozen), placement.put_params(trainable)
    return_freed_memory()  # such as the file that frozen parameters were read from
    saver = Saver(
        task=task,
        run=RunDirectory(Path(config.checkpoint.checkpoint_dir)),
        config=config.checkpoint,
        identity=Identity(
            config,
            {
                **task.architecture,
                "dtype": str(dtype),
                "the number of steps per epoch": batches.per_epoch,
                "the fingerprint of the training data": task.train.fingerprint,
                "the digest of the frozen parameters": tree_digest(frozen),
            },
        ),
        interval=times.saving,
        report=partial(console.say, level="WARNING"),
    )

    first_state = partial(initial_state, optimizer=optimizer, dtype=dtype)
    like = jax.eval_shape(first_state, trainable)
    shardings = placement.shardings(like)
    if resumed is not None:
        del trainable
        state, progress = saver.resume(resumed, placement.like(like))
        console.say(f"Resuming {resumed.path} at step {progress.step}.")
    else:
        state = placement.build(first_state, trainable, shardings)
        progress = Progress()
        if saver.run.exists():
            console.say(f"Replacing the earlier run in {saver.run.path} (--resume would continue it).", "WARNING")
        saver.begin(state, frozen)
    with full_disk_explained(saver.run.path, saver.size(state, frozen)):
        sinks = list[Sink]()
        if is_first():
            write_config(config, saver.run.config)
            saver.run.versions.write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")
            sinks = _open_sinks(config, saver.run, progress.step if resumed else None, console, stack)
    step = make_train_step(task.loss, optimizer, dtype=dtype, seed=seed, weigh=task.weigh, shardings=shardings)
    step = compiled_beforehand(step)
    if is_first():
        step = stack.enter_context(profiled(step, saver.run.profile, config.logging.profile_steps))
    return Loop(
        config=config,
        step=step,
        times=times,
        batches=batches,
        micro_batches=_micro_batches(task, config, placement, batches.size, like.trainable, frozen),
        validation=validation,
        validations=dict(zip(task.validations, filter(None, others), strict=True)),
        placement=placement,
        saver=saver,
        sinks=sinks,
        stop=stop,
        frozen=frozen,
        state=state,
        progress=progress,
        samples=samples,
        scores=scores,
        speed=Speed(task.flops * tokens, peak_flops(dtype) * placement.devices if task.flops else 1.0),
    )


def _samples(
    task: Task, answers: bool, config: LoggingConfig, writer: Writer | None, state: TrainState, frozen: Params
) -> Iterator[tuple[str, str]]:
    """Each prompt, and what the model writes after it."""
    if not config.sample_prompts or writer is None:
        return
    trainable = evaluated_params(state.optimizer, state.trainable)
    found = task.model_of(collected(trainable), collected(frozen))  # by all processes, of which one writes
    if found is not None and is_first():
        for prompt in config.sample_prompts:
            yield prompt, writer(*found, prompt, answers, config.sample_tokens)


def _scores(task: Task, examiner: Examiner | None, state: TrainState, frozen: Params) -> Mapping[str, float]:
    """What the examiner finds out about the model as it is now, in every process."""
    if examiner is None:
        return {}
    trainable = evaluated_params(state.optimizer, state.trainable)
    found = task.model_of(collected(trainable), collected(frozen))
    measured = examiner(*found) if found is not None and is_first() else {}
    return dict(json.loads(text_of_first(json.dumps(dict(measured)))))


def _training_batches(task: Task, config: TrainConfig, placement: Placement) -> Batches:
    """Batches of all micro-batches of a step; fewer examples than that are one batch, padded to equal micro-batches."""
    count, optimization = config.optimization.gradient_accumulation_steps, config.optimization
    size = min(config.training.batch_size, _whole_parts(-(-len(task.train) // count), placement.parts))
    return Batches(
        source=task.train,
        size=size * count,
        seed=config.training.seed,
        workers=optimization.num_workers,
        prefetch=optimization.prefetch_factor,
        rows=placement.rows(count, size),
    )


def _micro_batches(
    task: Task, config: TrainConfig, placement: Placement, size: int, trainable: Params, frozen: Params
) -> int:
    """As many as are asked for, or a multiple of that where smaller ones are better."""
    count = config.optimization.gradient_accumulation_steps
    if placement.mesh is not None:
        return count
    return count * parts_of(size // count, math.prod(task.train[0]["weights"].shape), trainable, frozen)


def _in_order(source: Source, config: TrainConfig, placement: Placement) -> Batches:
    size = _whole_parts(min(config.training.batch_size, len(source)), placement.parts)
    return Batches(source=source, size=size, rows=placement.rows(1, size))


def _whole_parts(size: int, parts: int) -> int:
    """The least multiple of `parts` from `size` on."""
    return -(-size // parts) * parts


def _open_sinks(
    config: TrainConfig, run: RunDirectory, resume_at: int | None, console: RunConsole, stack: contextlib.ExitStack
) -> list[Sink]:
    tensorboard = stack.enter_context(contextlib.closing(TensorBoard(config.log_dir, resume_at)))
    metrics = stack.enter_context(contextlib.closing(MetricsFile(run.metrics, resume_at)))
    sinks: list[Sink] = [
        metrics,
        LossPlot(run.metrics, run.plot),
        tensorboard,
        stack.enter_context(contextlib.closing(console)),
    ]
    if config.logging.wandb_project is not None:
        settings = {name: dataclasses.asdict(getattr(config, name)) for name in SECTIONS}
        wandb = WeightsAndBiases(config.logging.wandb_project, run.path, settings, resume=resume_at is not None)
        sinks.append(stack.enter_context(contextlib.closing(wandb)))
    return sinks


def _announce(loop: Loop, task: Task) -> None:
    name, baseline = task.baseline
    loop.write(
        {
            "event": "run",
            "start": loop.progress.step,
            "steps": loop.total_steps,
            "epochs": loop.times.epochs(loop.total_steps),
            "steps_per_epoch": loop.batches.per_epoch,
            "examples": len(task.train),
            "held_out": 0 if task.validation is None else len(task.validation),
            "unit": task.unit,
            "parameters": _count(loop.frozen) + _count(loop.state.trainable),
            "trainable": _count(loop.state.trainable),
            "dtype": str(compute_dtype(loop.config.optimization)),
            "device": jax.devices()[0].device_kind,
            "baseline_name": name,
            "baseline": baseline,
        }
    )


def _count(params: Params) -> int:
    return sum(math.prod(value.shape) for value in params.values())
