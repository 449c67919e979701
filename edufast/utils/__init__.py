"""What every room needs: errors, files, signals, progress, the event log, FLOPs."""
