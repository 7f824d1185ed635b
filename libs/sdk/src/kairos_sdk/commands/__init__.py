"""The `kairos` command line. Each module is one area; heavy imports happen inside the commands."""
