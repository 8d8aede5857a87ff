llm-train --help
