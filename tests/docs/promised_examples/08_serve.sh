llm-serve
