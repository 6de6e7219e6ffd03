"""Takes over what launched processes call: their addresses, their names, and whom they trust."""
