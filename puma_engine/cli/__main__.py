"""`python -m puma_engine.cli`."""

from puma_engine.cli import main

if __name__ == "__main__":
    main()
