"""Who may use the server, and how much: accounts with their keys and limits."""
