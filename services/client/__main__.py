"""The command line of the client: python -m services.client --help"""

from services.client.command import app

app(prog_name="python -m services.client")
