"""What runs inside the lab's root file system, under its Python: standard library and Mininet only."""
