"""The engine: turns captured bytes into request/response pairs and keeps them as snapshots."""
