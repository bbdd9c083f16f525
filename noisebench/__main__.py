"""`python -m noisebench`."""

from .cli import entry

if __name__ == "__main__":
    entry()
