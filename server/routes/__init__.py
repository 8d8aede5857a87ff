"""One file per family of routes. The table of all of them is in server/app.py."""
