llm-train --task lm --config-path configs/example.yaml --epochs 5
