"""The privileged part, one per node: it captures what targets say to the world and hands it to an engine."""
