"""The only place that touches libbpf: loading, attaching, maps, the rings."""
