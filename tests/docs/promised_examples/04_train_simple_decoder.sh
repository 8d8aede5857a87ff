uv run scripts/train_simple_decoder.py --file-path data/dummy_corpus.txt --epochs 5
