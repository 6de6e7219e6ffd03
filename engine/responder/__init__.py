"""Stands in for recorded backends on one port: whoever connects gets the recorded answers of whom they meant to reach."""
