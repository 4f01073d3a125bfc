"""CTF: the model (model.py) and its estimation from power spectra."""
