export LLM_SERVING_API_KEY="my-secret-key"
llm-serve
