"""Worker processes: supervisor, heartbeat table, CPU plan."""
