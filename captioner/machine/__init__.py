"""The machine: its fast precisions, the processes of one run, and interruption by Ctrl-C."""
