curl -X POST "http://127.0.0.1:8000/generate" \
     -H "X-API-Key: my-secret-key" \
     -H "Content-Type: application/json" \
     -d '{"prompt": "Hello, world", "max_new_tokens": 5}'
