"""The built-ins on a GPU: kernels of our own, and cuBLASLt for matrix products.

``table.py`` names the function that turns a call into steps (``steps.py``); ``operation.py`` runs them.
"""
