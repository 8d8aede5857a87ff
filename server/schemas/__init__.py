"""What clients may send, as Pydantic models: nothing that is not listed is accepted, null means the default."""
