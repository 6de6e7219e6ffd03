"""The forms that recordings have outside a snapshot."""
