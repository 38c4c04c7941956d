"""The control plane: what the supervisor serves for people and monitors, away from the data plane."""
