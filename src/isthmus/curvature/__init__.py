"""Curvature of the loss: spectra of its Hessians, exact where the model allows it."""
