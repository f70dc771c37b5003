"""The experiments of the paper (Yu et al., MedComNet 2023) and some beyond it, one a file; ``make paper`` runs them."""
