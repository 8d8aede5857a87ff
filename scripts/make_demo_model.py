"""Make the demo model anew: the commands of configs/demo.yaml, and the files in llm_jax/demo.

python scripts/make_demo_model.py
"""

import shutil
from pathlib import Path

from recipes import CONFIGS, ROOT, Recipe

from llm_jax.checkpoint import load_model, save_model
from llm_jax.demo import PATH
from llm_jax.training import load_train_config


def main() -> None:
    Recipe.read("demo").run("--device", "cpu", "--resume")
    install(ROOT / load_train_config(CONFIGS / "demo.yaml").checkpoint.checkpoint_dir)


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
