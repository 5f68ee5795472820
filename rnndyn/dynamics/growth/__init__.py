"""How do perturbations and gradients grow?"""
