"""Programs that draw a run's curves: listeners on its event log."""
