"""Which recorded answer a request gets: fields of a request, their signature, the index of a snapshot, why nothing fits. Pure."""
