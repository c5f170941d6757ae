"""``python -m prefine``, and so ``torchrun -m prefine``."""

from prefine.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
