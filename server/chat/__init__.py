"""Chats: from messages, tools and forms to a prompt and a grammar, and from text to tool calls."""
