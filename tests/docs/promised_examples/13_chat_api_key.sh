curl -X POST "http://localhost:8000/v1/chat/completions" \
     -H "X-API-Key: your-key" \
     -H "Content-Type: application/json" \
     -d '{"messages": [{"role": "user", "content": "hi"}]}'
