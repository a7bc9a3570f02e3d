"""`python -m ncpl_cli` is `ncpl`."""

from ncpl_cli.main import run

if __name__ == "__main__":
    run()
