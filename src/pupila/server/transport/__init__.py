"""From sockets to requests: parser, connections, event loop, admission control, backpressure, watchdog."""
