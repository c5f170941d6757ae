"""The catalogue's systems: one file each, in one folder a family; ``blocks`` holds what everyone compares with."""
