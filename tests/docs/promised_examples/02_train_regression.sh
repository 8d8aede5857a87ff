llm-train --task regression --epochs 10 --batch-size 32
