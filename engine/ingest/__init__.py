"""Taking in what agents send: the wire's messages become conversations, and what they finish goes into a snapshot."""
