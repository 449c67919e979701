from edufast.cli import app

app()
