"""`python -m relmap` is the command `relmap`, also for `accelerate launch -m relmap ...`."""

from relmap.cli import main

if __name__ == "__main__":
    main()
