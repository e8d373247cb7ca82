"""Run the campaign; see `python -m benchmarks.reliability --help`."""

from benchmarks.reliability.campaign import main

if __name__ == "__main__":
    main()
