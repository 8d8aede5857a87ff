"""Make the demo model anew: its corpus, the training run of configs/demo.yaml, and the files in llm_jax/demo.

python scripts/make_demo_model.py
"""

import shutil
from pathlib import Path

from make_corpus import make_corpus

from cli.train import run_training
from llm_jax.checkpoint import load_model, save_model
from llm_jax.demo import PATH
from llm_jax.training import Setting, load_train_config

# Not the seed of the bundled corpus: that one stays new to the model, and can measure it.
CORPUS_SEED, CORPUS_SIZE = 11, 2_500_000


def main() -> None:
    resume = Setting("checkpoint", "resume_from_checkpoint", "auto", "make_demo_model")
    config = load_train_config("configs/demo.yaml", overrides=[resume])
    assert config.data.dataset_path is not None
    corpus = Path(config.data.dataset_path)
    corpus.parent.mkdir(parents=True, exist_ok=True)
    corpus.write_text(make_corpus(CORPUS_SEED, CORPUS_SIZE), encoding="utf-8")
    run_training("lm", config, "cpu")
    install(Path(config.checkpoint.checkpoint_dir))


def install(run: Path) -> None:
    """Put the best model of a run into the package, in bfloat16."""
    trained = load_model(run, dtype="bfloat16")
    small = run / "bfloat16"
    save_model(small, trained.model, trained.tokenizer)
    for file in small.iterdir():
        shutil.copyfile(file, PATH / file.name)
    print(f"{PATH}: {sum(file.stat().st_size for file in PATH.iterdir() if file.is_file()):,} bytes")


if __name__ == "__main__":
    main()
