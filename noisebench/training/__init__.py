"""Networks, batches, the only training loop, and losses as torch modules. Knows no suite and prints
nothing.
"""
