"""`python -m kairos_sdk.commands` is the command line `kairos`."""

from kairos_sdk.commands.app import app

app(prog_name="kairos")
