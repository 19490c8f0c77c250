"""What people run: the command line, Lightning modules, data, callbacks, loggers and reports."""
