"""Train a small character-level decoder on a text file: the training loop of `llm-train`, with few knobs."""

from pathlib import Path

import click

from cli._errors import Command


@click.command(cls=Command)
@click.option("--file-path", type=Path, required=True, help="Text to learn from.")
@click.option("--val-file-path", type=Path, help="Text to validate on. [default: the end of --file-path]")
@click.option("--max-seq-len", default=32, show_default=True, help="Characters that the model sees at once.")
@click.option("--overlap", default=0, show_default=True, help="Characters that neighbouring windows share.")
@click.option("--hidden-size", default=64, show_default=True)
@click.option("--num-layers", default=2, show_default=True)
@click.option("--num-heads", default=2, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--epochs", default=1, show_default=True)
@click.option("--lr", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--log-interval", default=10, show_default=True, help="Steps between reports.")
@click.option(
    "--early-stopping-patience", default=3, show_default=True, help="Epochs without a better validation loss."
)
@click.option("--early-stopping-min-delta", default=0.001, show_default=True, help="What counts as better.")
@click.option("--save-dir", default="checkpoints/simple_decoder", show_default=True, help="Where the run is saved.")
@click.option("--resume", is_flag=False, flag_value="auto", metavar="[RUN]", help="Go on with --save-dir, or with RUN.")
@click.option("--save-interval", default=1, show_default=True, help="Epochs between saves.")
def main(
    file_path: Path,
    val_file_path: Path | None,
    max_seq_len: int,
    overlap: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    batch_size: int,
    epochs: int,
    lr: float,
    device: str,
    log_interval: int,
    early_stopping_patience: int,
    early_stopping_min_delta: float,
    save_dir: str,
    resume: str | None,
    save_interval: int,
) -> None:
    """Train a decoder on the characters of a text file."""
    from cli.train import run_training
    from llm_jax.training import (
        CheckpointConfig,
        DataConfig,
        LoggingConfig,
        ModelSection,
        TrainConfig,
        TrainingConfig,
    )

    config = TrainConfig(
        model=ModelSection(
            hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, max_seq_len=max_seq_len
        ),
        data=DataConfig(
            dataset_path=str(file_path),
            val_dataset_path=None if val_file_path is None else str(val_file_path),
            overlap=overlap,
        ),
        training=TrainingConfig(
            batch_size=batch_size,
            epochs=epochs,
            lr=lr,
            early_stopping_patience=early_stopping_patience,
            early_stopping_min_delta=early_stopping_min_delta,
        ),
        checkpoint=CheckpointConfig(
            checkpoint_dir=save_dir, resume_from_checkpoint=resume, save_interval=save_interval
        ),
        logging=LoggingConfig(log_interval=log_interval),
    )
    run_training("lm", config, device)


if __name__ == "__main__":
    main()
